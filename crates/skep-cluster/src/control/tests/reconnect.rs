//! Streams break, coordinators restart, lives end.

use std::sync::Arc;

use bytes::Bytes;

use super::cluster::{Network, Server, Worker, attempt, control_config, report, service_config};
use super::members::{PlainMembers, Said};
use crate::control::{ControlConfig, ControlState};
use crate::ids::{Epoch, QueryId};
use crate::scheduler::{CachedReport, Holdings, Site, TaskOutput};

struct Cluster {
    members: Arc<PlainMembers>,
    server: Server,
    network: Network,
    worker: Worker,
}

async fn start() -> Cluster {
    start_with(|config| config).await
}

async fn start_with(change: impl FnOnce(ControlConfig) -> ControlConfig) -> Cluster {
    let members = Arc::new(PlainMembers::new(100));
    let server = Server::start(&members, service_config()).await;
    let network = Network::to(server.address).await;
    let worker = Worker::start(change(control_config(network.address)));
    Cluster { members, server, network, worker }
}

fn holdings() -> Holdings {
    let output =
        TaskOutput { rows: 3, bytes: vec![10, 20], input_bytes: 5, ..TaskOutput::default() };
    Holdings {
        running: vec![attempt(1), attempt(2)],
        sealed: vec![(attempt(0), output)],
        queries: vec![QueryId(1)],
        cached: vec![CachedReport {
            table: "t#1".into(),
            epoch: Epoch(7),
            partition: 2,
            is_kept: true,
            summary: Bytes::from_static(b"known"),
            memory_bytes: 5,
            disk_bytes: 0,
            rows: 3,
        }],
    }
}

#[tokio::test]
async fn a_cut_connection_is_noticed_by_its_number_and_the_life_goes_on() {
    let Cluster { members, server, network, worker } = start().await;
    let (life, connection, _) = members.joined(1).await;
    worker.site.told(1).await;
    worker.site.hold(holdings());
    network.cut(Some(server.address));
    members.wait_for_said(Said::Disconnected(life, connection)).await;
    let (again, next, held) = members.joined(2).await;
    assert_eq!((again, next, held), (life, connection + 1, holdings()));
    network.cut(None);
    members.wait_for_said(Said::Disconnected(life, next)).await;
    assert_eq!(worker.site.lives(), [Site::Worker(life)]);
}

#[tokio::test]
async fn a_restarted_coordinator_gets_its_worker_back_with_what_it_holds() {
    let Cluster { members, server, network, mut worker } = start().await;
    let (life, ..) = members.joined(1).await;
    worker.site.told(1).await;
    worker.site.hold(holdings());
    network.cut(None);
    server.kill();
    worker.wait_for(|state| *state == ControlState::Detached(life)).await;
    for partition in 0..50 {
        worker.reports.send((Site::Worker(life), report(partition))).unwrap();
    }
    let mut former = life;
    former.incarnation.0 -= 1;
    worker.reports.send((Site::Worker(former), report(99))).unwrap();

    let restarted = Arc::new(PlainMembers::new(10_000));
    let server = Server::start(&restarted, service_config()).await;
    network.cut(Some(server.address));
    let (again, _, held) = restarted.joined(1).await;
    assert_eq!((again, held), (life, holdings()));
    worker.wait_for(|state| *state == ControlState::Attached(life)).await;
    worker.reports.send((Site::Worker(life), report(50))).unwrap();
    let find = |said: &[Said]| {
        let (reports, _) = PlainMembers::reports(said);
        (reports.len() >= 51).then_some(reports)
    };
    let reports = restarted.wait_for(find).await;
    let order: Vec<_> = reports.iter().map(|report| report.attempt.task.partition).collect();
    assert_eq!(order, (0..51).collect::<Vec<_>>());
    assert_eq!(worker.site.lives(), [Site::Worker(life)]);
}

#[tokio::test]
async fn a_life_that_is_over_is_followed_by_a_new_one() {
    let Cluster { members, server: _server, network: _network, mut worker } = start().await;
    let (life, connection, _) = members.joined(1).await;
    worker.site.told(1).await;
    worker.site.hold(holdings());
    members.end_life(life);
    let (next, ..) = members.joined(2).await;
    assert_eq!(next.worker, life.worker);
    assert!(next.incarnation > life.incarnation);
    worker.site.told(2).await;
    assert_eq!(worker.site.lives(), [Site::Worker(life), Site::Worker(next)]);
    worker.wait_for(|state| *state == ControlState::Attached(next)).await;

    let heard: Vec<_> =
        members.said().into_iter().filter(|said| !matches!(said, Said::Heartbeat(..))).collect();
    let joined = |life, connection| Said::Joined {
        life,
        connection,
        claimed: None,
        holdings: Holdings::default(),
    };
    let expected = [
        joined(life, connection),
        Said::Disconnected(life, connection),
        Said::Refused { claimed: Some(life) },
        joined(next, connection + 1),
    ];
    assert_eq!(heard, expected);

    // What attempts of the old life say now is not said in the name of the new one.
    worker.reports.send((Site::Worker(life), report(7))).unwrap();
    worker.reports.send((Site::Worker(next), report(8))).unwrap();
    let reports =
        members.wait_for(|said| Some(PlainMembers::reports(said).0).filter(|r| !r.is_empty()));
    assert_eq!(reports.await, [report(8)]);
}

#[tokio::test]
async fn a_connection_that_is_given_up_ends_and_the_worker_comes_back() {
    let Cluster { members, server: _server, network: _network, worker } = start().await;
    let (life, connection, _) = members.joined(1).await;
    worker.site.told(1).await;
    members.give_up(life);
    members.wait_for_said(Said::Disconnected(life, connection)).await;
    let (again, next, _) = members.joined(2).await;
    assert_eq!((again, next), (life, connection + 1));
    assert_eq!(worker.site.lives(), [Site::Worker(life)]);
}

#[tokio::test]
async fn a_worker_that_holds_more_than_it_can_say_begins_anew() {
    let change = |config| ControlConfig { max_message_bytes: 2000, ..config };
    let Cluster { members, server, network, worker } = start_with(change).await;
    let (life, ..) = members.joined(1).await;
    worker.site.told(1).await;
    let running = (0..1000).map(attempt).collect();
    worker.site.hold(Holdings { running, ..Holdings::default() });
    network.cut(Some(server.address));
    let (next, _, held) = members.joined(2).await;
    assert!(next.incarnation > life.incarnation);
    assert_eq!(held, Holdings::default());
    worker.site.told(2).await;
    assert_eq!(worker.site.lives(), [Site::Worker(life), Site::Worker(next)]);
}

#[tokio::test]
async fn a_worker_that_is_away_stops_when_told() {
    let Cluster { members, server: _server, network, mut worker } = start().await;
    let (life, connection, _) = members.joined(1).await;
    worker.site.told(1).await;
    network.cut(None);
    worker.wait_for(|state| *state == ControlState::Detached(life)).await;
    worker.stop().await.unwrap();
    members.wait_for_said(Said::Disconnected(life, connection)).await;
    assert!(!members.said().contains(&Said::Left(life)));
}
