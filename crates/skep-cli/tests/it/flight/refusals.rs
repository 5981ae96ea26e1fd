//! Bad input: a clear error with its code, and a server that goes on.

use arrow_flight::sql::{
    ActionBeginTransactionRequest, Any, CommandPreparedStatementQuery, CommandStatementQuery,
    ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{Action, Criteria, FlightData, FlightDescriptor, Ticket};
use futures::stream;
use prost::Message;
use tonic::{Code, Request, Status};

use super::{anonymous, connect, fetch, handle_of, refused, value, with_token};
use crate::role::Coordinator;

/// Things that are no commands.
fn garbage() -> Vec<Vec<u8>> {
    let any = |type_url: &str, value: &[u8]| {
        let value = bytes::Bytes::copy_from_slice(value);
        Any { type_url: type_url.to_owned(), value }.encode_to_vec()
    };
    let known = CommandStatementQuery::default().as_any().type_url;
    vec![
        Vec::new(),
        b"SELECT 1".to_vec(),
        vec![0xff; 1000],
        any("type.googleapis.com/nothing", b"x"),
        any(&known, &[0xff, 0xff, 0xff]),
        TicketStatementQuery::default().as_any().encode_to_vec(),
        CommandPreparedStatementQuery::default().as_any().encode_to_vec(),
    ]
}

fn no_defect(status: &Status) {
    let codes = [Code::InvalidArgument, Code::Unimplemented, Code::NotFound];
    assert!(codes.contains(&status.code()), "{status}");
    assert!(!status.message().is_empty());
}

#[tokio::test]
async fn what_is_no_command_is_the_clients_mistake() {
    let coordinator = Coordinator::start(&[]);
    let mut client = anonymous(&coordinator).await;
    for bytes in garbage() {
        let service = client.inner_mut();
        let descriptor = || FlightDescriptor::new_cmd(bytes.clone());
        no_defect(&service.get_flight_info(descriptor()).await.unwrap_err());
        no_defect(&service.get_schema(descriptor()).await.unwrap_err());
        no_defect(&service.poll_flight_info(descriptor()).await.unwrap_err());
        no_defect(&service.do_get(Ticket::new(bytes.clone())).await.map(drop).unwrap_err());
        let message = FlightData::new().with_descriptor(descriptor());
        no_defect(&service.do_put(stream::iter([message])).await.map(drop).unwrap_err());
        for action in [
            "CreatePreparedStatement",
            "ClosePreparedStatement",
            "CancelQuery",
            "CancelFlightInfo",
            "RenewFlightEndpoint",
        ] {
            let action = Action::new(action, bytes.clone());
            // An empty message of some is one.
            if let Err(status) = service.do_action(action).await {
                no_defect(&status);
            }
        }
    }
    no_defect(&client.inner_mut().list_flights(Criteria::default()).await.map(drop).unwrap_err());
    let path = FlightDescriptor::new_path(vec!["a".to_owned()]);
    no_defect(&client.inner_mut().get_flight_info(path).await.unwrap_err());
    let nothing = client.inner_mut().do_put(stream::iter([])).await.map(drop).unwrap_err();
    no_defect(&nothing);
    assert_eq!(value(&mut client, "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_ticket_is_taken_only_unchanged_from_its_own_session_and_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    std::fs::write(&config, "[results]\nticket_timeout = '2s'\n").unwrap();
    let coordinator = Coordinator::start(&["--config", config.to_str().unwrap()]);
    let (mut client, mut other) = (connect(&coordinator).await, connect(&coordinator).await);
    let info = client.execute("SELECT 1 AS x".to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    refused(other.do_get(ticket.clone()).await.map(drop), Code::PermissionDenied, "session");
    for idx in [ticket.ticket.len() / 2, ticket.ticket.len() - 1] {
        let mut changed = ticket.ticket.to_vec();
        changed[idx] ^= 1;
        let changed = client.do_get(Ticket::new(changed)).await.map(drop);
        refused(changed, Code::InvalidArgument, "");
    }
    fetch(&mut client, info.clone()).await.unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let expired = loop {
        match fetch(&mut client, info.clone()).await {
            Ok(_) => assert!(std::time::Instant::now() < deadline),
            expired => break expired,
        }
    };
    refused(expired, Code::NotFound, "expired");
}

#[tokio::test]
async fn a_handle_is_taken_only_from_its_own_session() {
    let coordinator = Coordinator::start(&[]);
    let (mut client, mut other) = (connect(&coordinator).await, connect(&coordinator).await);
    let handle = handle_of(&mut client, "SELECT 1").await;
    let command = CommandPreparedStatementQuery { prepared_statement_handle: handle };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let mine = with_token(&client, descriptor.clone());
    assert!(client.inner_mut().get_flight_info(mine).await.is_ok());
    let theirs = with_token(&other, descriptor);
    let refused = other.inner_mut().get_flight_info(theirs).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test]
async fn a_statement_that_is_too_long_is_refused_with_the_limit() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let long = format!("SELECT '{}' AS x", "x".repeat(2 << 20));
    let outcome = client.execute(long.clone(), None).await;
    refused(outcome, Code::InvalidArgument, "1048576 are allowed");
    refused(client.prepare(long.clone(), None).await, Code::InvalidArgument, "1048576");
    refused(client.execute_update(long, None).await, Code::InvalidArgument, "1048576");
    // Just within it, the result comes with its ticket.
    let fits = format!("SELECT length('{}') AS x", "x".repeat((1 << 20) - 100));
    assert_eq!(value(&mut client, &fits).await, ((1 << 20) - 100).to_string());
}

#[tokio::test]
async fn what_there_is_not_is_said() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    refused(client.begin_transaction().await, Code::Unimplemented, "no transactions");
    let inside = client.execute("SELECT 1".to_owned(), Some("1".into())).await;
    refused(inside, Code::Unimplemented, "no transactions");
    let body = ActionBeginTransactionRequest {}.as_any().encode_to_vec();
    let begin = Action::new("BeginTransaction", body);
    let outcome = client.do_action(Request::new(begin)).await.map(drop);
    refused(outcome, Code::Unimplemented, "no transactions");
}
