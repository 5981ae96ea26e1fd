//! Every way to end a statement ends it, on all workers.

use std::time::Instant;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, Any, CommandStatementQuery, ProstMessageExt,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightDescriptor,
    FlightEndpoint, FlightInfo, RenewFlightEndpointRequest,
};
use futures::TryStreamExt;
use prost::Message;
use skep_proto::client::StatementOutcome;
use tonic::{Code, Request};

use super::{Client, act, channel, connect, fetch, refused, rendered, rows, update, value};
use crate::cluster::{Cluster, PATIENCE};
use crate::role::Coordinator;

/// Takes far longer than any test.
const ENDLESS: &str = "SELECT sum(sin(a.n) * cos(b.n)) AS marked \
                       FROM t a CROSS JOIN t b";

/// How many slots of workers are in use: a worker says itself when one is not any more.
const OCCUPIED: &str = "SELECT sum(running) FROM system.workers";

async fn client(cluster: &Cluster) -> Client {
    let service = FlightServiceClient::new(channel(&cluster.processes.url).await);
    let mut client = FlightSqlServiceClient::new_from_inner(service);
    client.handshake("", "").await.unwrap();
    client
}

fn query(info: &FlightInfo) -> String {
    StatementOutcome::decode(info.app_metadata.as_ref()).unwrap().id
}

async fn fill(client: &mut Client) {
    let sql = "CREATE TABLE t AS SELECT value AS n FROM generate_series(1, 100000)";
    assert_eq!(update(client, sql).await, 100_000);
}

/// Waits until a query has ended so and nothing of it runs on any worker.
async fn ended(cluster: &Cluster, query: &str, state: &str) {
    let state_of = format!("SELECT state FROM system.queries WHERE query = '{query}'");
    cluster.wait_for(&state_of, |rows| rows.len() == 1 && rows[0][0] == state).await;
    let running =
        format!("SELECT count(*) FROM system.tasks WHERE query = '{query}' AND state = 'running'");
    cluster.wait_for(&running, |rows| rows[0][0] == "0").await;
    // The scheduler closes its tasks by itself; a slot is free when its worker has said so.
    cluster.wait_for(OCCUPIED, |rows| rows[0][0] == "0").await;
}

/// Waits until a query's tasks run on the workers.
async fn runs(cluster: &Cluster, query: &str) {
    let running = format!(
        "SELECT count(*) FROM system.tasks WHERE query = '{query}' AND state = 'running' \
         AND worker LIKE 'w%'"
    );
    cluster.wait_for(&running, |rows| rows[0][0] != "0").await;
    assert_ne!(cluster.ask(OCCUPIED).await, [["0"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_to_cancel_stops_the_work_on_the_workers() {
    let cluster = Cluster::start(2, 2, "").await;
    let mut client = client(&cluster).await;
    fill(&mut client).await;

    // The action of Flight.
    let info = client.execute(ENDLESS.to_owned(), None).await.unwrap();
    runs(&cluster, &query(&info)).await;
    let request = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    let result: CancelFlightInfoResult =
        act(&mut client, "CancelFlightInfo", request).await.unwrap();
    assert_eq!(result.status(), CancelStatus::Cancelled);
    ended(&cluster, &query(&info), "cancelled").await;
    // Its ticket does not run it again.
    refused(fetch(&mut client, info).await, Code::Cancelled, "cancelled");

    // The action of Flight SQL, while rows are waited for.
    let info = client.execute(ENDLESS.to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut rows_of = client.do_get(ticket).await.unwrap();
    runs(&cluster, &query(&info)).await;
    let request = ActionCancelQueryRequest { info: info.encode_to_vec().into() };
    let action = Action::new("CancelQuery", request.as_any().encode_to_vec());
    let mut answers = client.do_action(Request::new(action)).await.unwrap();
    let body = answers.message().await.unwrap().unwrap().body;
    let result: ActionCancelQueryResult =
        Any::decode(body.as_ref()).unwrap().unpack().unwrap().unwrap();
    assert_eq!(result.result, i32::from(CancelStatus::Cancelled));
    refused(rows_of.try_next().await, Code::Cancelled, "cancelled");
    ended(&cluster, &query(&info), "cancelled").await;

    // KILL QUERY, from another session.
    let info = client.execute(ENDLESS.to_owned(), None).await.unwrap();
    let killed = query(&info);
    let mut rows_of = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    runs(&cluster, &killed).await;
    cluster.ask(&format!("KILL QUERY '{killed}'")).await;
    refused(rows_of.try_next().await, Code::Cancelled, "cancelled");
    ended(&cluster, &killed, "cancelled").await;
    let again = rows(&mut client, &format!("KILL QUERY '{killed}'")).await;
    refused(again, Code::NotFound, "does not run");

    // A client that reads no further.
    let info = client.execute(ENDLESS.to_owned(), None).await.unwrap();
    let rows_of = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    runs(&cluster, &query(&info)).await;
    drop(rows_of);
    ended(&cluster, &query(&info), "cancelled").await;

    // The end of its session.
    let info = client.execute(ENDLESS.to_owned(), None).await.unwrap();
    runs(&cluster, &query(&info)).await;
    let _: skep_proto::client::CloseSessionResult =
        act(&mut client, "CloseSession", Vec::new()).await.unwrap();
    ended(&cluster, &query(&info), "cancelled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_run_again_is_cancelled_by_what_announced_it() {
    let cluster = Cluster::start(1, 1, "").await;
    let mut client = client(&cluster).await;
    fill(&mut client).await;
    let running = "SELECT query FROM system.tasks WHERE state = 'running' AND worker LIKE 'w%'";
    let again = async |client: &mut Client| {
        let info = client.execute(ENDLESS.to_owned(), None).await.unwrap();
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let first = client.do_get(ticket.clone()).await.unwrap();
        runs(&cluster, &query(&info)).await;
        // A client that lost its rows fetches them again.
        drop(first);
        ended(&cluster, &query(&info), "cancelled").await;
        let second = client.do_get(ticket.clone()).await.unwrap();
        let rows = cluster.wait_for(running, |rows| !rows.is_empty()).await;
        assert_ne!(rows[0][0], query(&info));
        (info, second, rows[0][0].clone())
    };

    let (info, mut rows_of, number) = again(&mut client).await;
    let request = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    let result: CancelFlightInfoResult =
        act(&mut client, "CancelFlightInfo", request).await.unwrap();
    assert_eq!(result.status(), CancelStatus::Cancelled);
    refused(rows_of.try_next().await, Code::Cancelled, "cancelled");
    ended(&cluster, &number, "cancelled").await;
    // It does not run a third time.
    refused(fetch(&mut client, info).await, Code::Cancelled, "cancelled");

    // By the id that the client was told.
    let (info, mut rows_of, number) = again(&mut client).await;
    cluster.ask(&format!("KILL QUERY '{}'", query(&info))).await;
    refused(rows_of.try_next().await, Code::Cancelled, "cancelled");
    ended(&cluster, &number, "cancelled").await;

    // By the number that others see.
    let (info, mut rows_of, number) = again(&mut client).await;
    cluster.ask(&format!("KILL QUERY '{number}'")).await;
    refused(rows_of.try_next().await, Code::Cancelled, "cancelled");
    ended(&cluster, &number, "cancelled").await;
    refused(fetch(&mut client, info).await, Code::Cancelled, "cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_tells_how_far_a_query_is_and_ends_with_its_rows() {
    let cluster = Cluster::start(2, 1, "").await;
    let mut client = client(&cluster).await;
    fill(&mut client).await;
    let sql = "SELECT count(*) AS c FROM t a JOIN t b ON a.n % 1000 = b.n % 1000";
    let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
    let mut descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let token = format!("Bearer {}", client.token().unwrap());
    let deadline = Instant::now() + PATIENCE;
    let mut told: f64 = 0.0;
    let mut schema = None;
    let info = loop {
        assert!(Instant::now() < deadline);
        let mut request = Request::new(descriptor.clone());
        request.metadata_mut().insert("authorization", token.parse().unwrap());
        let poll = client.inner_mut().poll_flight_info(request).await.unwrap().into_inner();
        let progress = poll.progress.unwrap();
        assert!((told..=1.0).contains(&progress), "{progress} after {told}");
        told = progress;
        let info = poll.info.unwrap();
        let announced = schema.get_or_insert_with(|| info.schema.clone());
        assert_eq!(announced, &info.schema);
        match poll.flight_descriptor {
            Some(next) => {
                assert_eq!(info.endpoint, []);
                assert!(poll.expiration_time.is_some());
                descriptor = next;
            }
            None => break info,
        }
    };
    assert!((told - 1.0).abs() < f64::EPSILON);
    let (schema, batches) = fetch(&mut client, info).await.unwrap();
    assert_eq!(rendered(&schema, &batches), [["10000000"]]);
}

#[tokio::test]
async fn polling_lets_a_query_run_that_the_coordinator_runs_itself() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let token = format!("Bearer {}", client.token().unwrap());
    let request = |descriptor: FlightDescriptor| {
        let mut request = Request::new(descriptor);
        request.metadata_mut().insert("authorization", token.parse().unwrap());
        request
    };
    let command = |sql: &str| {
        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
    };
    // It never has a row.
    let endless =
        command("SELECT value AS c FROM generate_series(1, 1000000000000) WHERE value < 0");
    let poll = client.inner_mut().poll_flight_info(request(endless)).await.unwrap().into_inner();
    let next = poll.flight_descriptor.unwrap();
    assert!(poll.progress.unwrap() < 1.0);
    let running = "SELECT query FROM system.queries WHERE state = 'running' AND sql LIKE '%AS c FROM%' \
                   AND sql NOT LIKE '%system.%'";
    let id = value(&mut client, running).await;
    rows(&mut client, &format!("KILL QUERY '{id}'")).await.unwrap();
    let refusal = client.inner_mut().poll_flight_info(request(next)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Cancelled);
    // One that ends, and then has its row.
    let mut descriptor =
        command("SELECT value AS c FROM generate_series(1, 6000000) WHERE value = 6000000");
    let deadline = Instant::now() + PATIENCE;
    let info = loop {
        assert!(Instant::now() < deadline);
        let poll = client.inner_mut().poll_flight_info(request(descriptor)).await;
        let poll = poll.unwrap().into_inner();
        match poll.flight_descriptor {
            Some(next) => descriptor = next,
            None => break poll.info.unwrap(),
        }
    };
    let (schema, batches) = fetch(&mut client, info).await.unwrap();
    assert_eq!(rendered(&schema, &batches), [["6000000"]]);
}

#[tokio::test]
async fn polling_for_what_is_done_at_once_needs_one_call() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    for (sql, endpoints) in [("SELECT 1 AS x", 1), ("CREATE TABLE t (x INT)", 0)] {
        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        let mut request = Request::new(FlightDescriptor::new_cmd(command.as_any().encode_to_vec()));
        let token = format!("Bearer {}", client.token().unwrap());
        request.metadata_mut().insert("authorization", token.parse().unwrap());
        let poll = client.inner_mut().poll_flight_info(request).await.unwrap().into_inner();
        assert_eq!((poll.progress, poll.flight_descriptor), (Some(1.0), None));
        assert_eq!(poll.info.unwrap().endpoint.len(), endpoints);
    }
}

#[tokio::test]
async fn an_endpoint_is_renewed() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let mut info = client.execute("SELECT 7 AS x".to_owned(), None).await.unwrap();
    let request = RenewFlightEndpointRequest { endpoint: Some(info.endpoint[0].clone()) };
    let renewed: FlightEndpoint =
        act(&mut client, "RenewFlightEndpoint", request.encode_to_vec()).await.unwrap();
    let seconds = |endpoint: &FlightEndpoint| endpoint.expiration_time.unwrap().seconds;
    assert!(seconds(&renewed) >= seconds(&info.endpoint[0]));
    info.endpoint = vec![renewed];
    let (schema, batches) = fetch(&mut client, info).await.unwrap();
    assert_eq!(rendered(&schema, &batches), [["7"]]);
}

#[tokio::test]
async fn a_statement_is_killed_when_there_is_no_room_for_another() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    std::fs::write(&config, "[results]\nmax_pending_count = 1\n").unwrap();
    let coordinator = Coordinator::start(&["--config", config.to_str().unwrap()]);
    let (mut client, mut other) = (connect(&coordinator).await, connect(&coordinator).await);
    for by_update in [false, true] {
        let endless = "SELECT value FROM generate_series(1, 1000000000000) WHERE value < 0";
        let info = client.execute(endless.to_owned(), None).await.unwrap();
        let mut rows_of = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
        let full = rows(&mut other, "SELECT 1").await;
        refused(full, Code::Unavailable, "too many statements");
        let kill = format!("KILL QUERY '{}'", query(&info));
        match by_update {
            true => assert_eq!(update(&mut other, &kill).await, 0),
            false => assert!(rows(&mut other, &kill).await.unwrap().is_empty()),
        }
        refused(rows_of.try_next().await, Code::Cancelled, "cancelled");
        drop(rows_of);
        // There is room again.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = rows(&mut other, "SELECT 1").await {
            assert_eq!(super::status(error).code(), Code::Unavailable);
            assert!(Instant::now() < deadline);
        }
    }
}
