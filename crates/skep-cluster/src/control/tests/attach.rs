//! A worker attaches, is told things, tells things, goes.

use std::sync::Arc;

use bytes::Bytes;
use skep_proto::ErrorCode;

use super::cluster::{Server, Worker, attempt, control_config, report, service_config};
use super::members::{PlainMembers, Said};
use super::site::{Told, beat};
use crate::control::{ControlConfig, ControlServiceConfig, ControlState};
use crate::error::Error;
use crate::ids::{QueryId, StageId, WorkerId};
use crate::scheduler::{Launch, Site, TaskFailure};
use crate::worker::{Command, EncodedStage, StageProgram, TaskOutcome};

async fn start() -> (Arc<PlainMembers>, Server, Worker) {
    start_with(service_config()).await
}

async fn start_with(config: ControlServiceConfig) -> (Arc<PlainMembers>, Server, Worker) {
    let members = Arc::new(PlainMembers::new(100));
    let server = Server::start(&members, config).await;
    let worker = Worker::start(control_config(server.address));
    (members, server, worker)
}

fn launch(partition: usize) -> Command {
    Command::Launch(vec![Launch { attempt: attempt(partition), sources: Vec::new() }])
}

fn plan(size: usize) -> Command {
    let (program, settings) = (Bytes::from(vec![7; size]), Bytes::from_static(b"s"));
    let program = StageProgram::Encoded(EncodedStage { program, settings });
    Command::Plan { query: QueryId(1), stage: StageId(0), program }
}

#[tokio::test]
async fn a_worker_registers_and_begins_its_life_before_it_performs() {
    let (members, _server, mut worker) = start().await;
    let (life, connection, _) = members.joined(1).await;
    assert_eq!((life.worker, life.incarnation.0, connection), (WorkerId(1), 101, 1));
    members.tell(life, launch(0)).await;
    let told = worker.site.told(2).await;
    assert!(matches!(told[0], Told::Life(site) if site == Site::Worker(life)));
    assert!(matches!(&told[1], Told::Command(Command::Launch(tasks)) if tasks.len() == 1));
    worker.wait_for(|state| *state == ControlState::Attached(life)).await;
}

#[tokio::test]
async fn commands_come_in_order() {
    let (members, _server, worker) = start().await;
    let (life, ..) = members.joined(1).await;
    members.tell(life, plan(3 << 20)).await;
    for partition in 0..500 {
        members.tell(life, launch(partition)).await;
        members.tell(life, Command::Cancel(vec![attempt(partition)])).await;
    }
    members.tell(life, Command::DropQuery(QueryId(1))).await;
    let told = worker.site.told(1003).await;
    let Told::Command(Command::Plan { program: StageProgram::Encoded(stage), .. }) = &told[1]
    else {
        panic!("{:?}", told[1])
    };
    assert_eq!((stage.program.len(), stage.settings.as_ref()), (3 << 20, b"s".as_slice()));
    for (partition, pair) in told[2..1002].chunks(2).enumerate() {
        let [Told::Command(Command::Launch(tasks)), Told::Command(Command::Cancel(ids))] = pair
        else {
            panic!("{pair:?}")
        };
        assert_eq!((tasks[0].attempt, ids[0]), (attempt(partition), attempt(partition)));
    }
    assert!(matches!(told[1002], Told::Command(Command::DropQuery(QueryId(1)))));
}

#[tokio::test]
async fn a_flood_of_reports_comes_in_order_and_in_few_messages() {
    let (members, _server, worker) = start().await;
    let (life, ..) = members.joined(1).await;
    worker.site.told(1).await;
    let count = 20_000;
    for partition in 0..count {
        worker.reports.send((Site::Worker(life), report(partition))).unwrap();
    }
    let find = |said: &[Said]| {
        let (reports, messages) = PlainMembers::reports(said);
        (reports.len() == count).then_some((reports, messages))
    };
    let (reports, message_count) = members.wait_for(find).await;
    let order: Vec<_> = reports.iter().map(|report| report.attempt.task.partition).collect();
    assert_eq!(order, (0..count).collect::<Vec<_>>());
    assert!(message_count < count / 10, "{message_count}");
}

#[tokio::test]
async fn heartbeats_say_the_load_again_and_again() {
    let (members, _server, _worker) = start().await;
    let (life, ..) = members.joined(1).await;
    let expected = Said::Heartbeat(life, beat());
    let count = |said: &[Said]| said.iter().filter(|said| **said == expected).count();
    members.wait_for(|said| (count(said) >= 3).then_some(())).await;
}

#[tokio::test]
async fn a_goodbye_is_heard_after_the_last_reports() {
    let (members, _server, worker) = start().await;
    let (life, ..) = members.joined(1).await;
    worker.site.told(1).await;
    for partition in 0..100 {
        worker.reports.send((Site::Worker(life), report(partition))).unwrap();
    }
    worker.stop().await.unwrap();
    let said = members.said();
    assert_eq!(PlainMembers::reports(&said).0.len(), 100);
    assert_eq!(said.last(), Some(&Said::Left(life)));
    assert!(!said.iter().any(|said| matches!(said, Said::Disconnected(..))));
}

#[tokio::test]
async fn a_wrong_token_ends_the_client() {
    let members = Arc::new(PlainMembers::new(100));
    let server = Server::start(&members, service_config()).await;
    let config = ControlConfig { token: "guess".to_owned(), ..control_config(server.address) };
    let worker = Worker::start(config);
    let state = worker.state.clone();
    let site = Arc::clone(&worker.site);
    match worker.end().await.unwrap_err() {
        Error::CoordinatorRefused { message } => assert_eq!(message, "wrong token"),
        other => panic!("{other}"),
    }
    assert_eq!(*state.borrow(), ControlState::Ended);
    assert!(site.lives().is_empty());
    assert_eq!(members.said(), [Said::Refused { claimed: None }]);
}

#[tokio::test]
async fn a_worker_that_waits_for_its_coordinator_stops_when_told() {
    let members = Arc::new(PlainMembers::new(100));
    let server = Server::start(&members, service_config()).await;
    let address = server.address;
    server.kill();
    let worker = Worker::start(control_config(address));
    worker.stop().await.unwrap();
    assert!(members.said().is_empty());
}

#[tokio::test]
async fn a_wanted_id_is_passed_on() {
    let members = Arc::new(PlainMembers::new(100));
    let server = Server::start(&members, service_config()).await;
    let wanted_id = Some(WorkerId(9));
    let _worker = Worker::start(ControlConfig { wanted_id, ..control_config(server.address) });
    assert_eq!(members.joined(1).await.0.worker, WorkerId(9));
}

#[tokio::test]
async fn a_plan_beyond_the_bound_fails_its_tasks_and_not_the_connection() {
    let config = ControlServiceConfig { max_message_bytes: 1 << 16, ..service_config() };
    let (members, _server, worker) = start_with(config).await;
    let (life, ..) = members.joined(1).await;
    members.tell(life, plan(1 << 17)).await;
    members.tell(life, launch(3)).await;
    let find = |said: &[Said]| PlainMembers::reports(said).0.pop();
    let failed = members.wait_for(find).await;
    assert_eq!(failed.attempt, attempt(3));
    let TaskOutcome::Failed(TaskFailure::Query { code, .. }) = failed.outcome else {
        panic!("{failed:?}")
    };
    assert_eq!(code, ErrorCode::ResourceExhausted);
    members.tell(life, Command::DropQuery(QueryId(1))).await;
    let told = worker.site.told(2).await;
    assert!(matches!(told[1], Told::Command(Command::DropQuery(_))));
    assert!(!members.said().iter().any(|said| matches!(said, Said::Disconnected(..))));
}
