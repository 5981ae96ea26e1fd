//! Sessions: whose they are, what they keep, how they end.

use arrow_flight::{Action, HandshakeRequest};
use prost::Message;
use pty::process::Signal;
use skep_proto::client::session_option_value::OptionValue;
use skep_proto::client::{
    CloseSessionRequest, CloseSessionResult, GetSessionOptionsRequest, GetSessionOptionsResult,
    SessionOptionValue, SetSessionOptionsRequest, SetSessionOptionsResult,
};
use tonic::{Code, Request};

use super::{Client, act, anonymous, channel, connect, refused, rows, update, value};
use crate::role::Coordinator;

const BATCH_SIZE: &str = "SELECT value FROM information_schema.df_settings \
                          WHERE name = 'datafusion.execution.batch_size'";

#[tokio::test]
async fn two_logins_do_not_see_each_other() {
    let coordinator = Coordinator::start(&[]);
    let (mut first, mut second) = (connect(&coordinator).await, connect(&coordinator).await);
    update(&mut first, "CREATE TEMPORARY TABLE t AS SELECT 'first' AS x").await;
    update(&mut first, "SET datafusion.execution.batch_size = 123").await;
    refused(rows(&mut second, "SELECT * FROM t").await, Code::NotFound, "\"t\"");
    update(&mut second, "CREATE TEMPORARY TABLE t AS SELECT 'second' AS x").await;
    assert_eq!(value(&mut first, "SELECT x FROM t").await, "first");
    assert_eq!(value(&mut second, "SELECT x FROM t").await, "second");
    assert_eq!(value(&mut first, BATCH_SIZE).await, "123");
    assert_eq!(value(&mut second, BATCH_SIZE).await, "8192");
}

#[tokio::test]
async fn without_a_login_a_connection_is_a_session() {
    let coordinator = Coordinator::start(&[]);
    let (mut first, mut second) = (anonymous(&coordinator).await, anonymous(&coordinator).await);
    update(&mut first, "CREATE TEMPORARY TABLE t AS SELECT 'first' AS x").await;
    assert_eq!(value(&mut first, "SELECT x FROM t").await, "first");
    refused(rows(&mut second, "SELECT * FROM t").await, Code::NotFound, "\"t\"");
}

#[tokio::test]
async fn a_cookie_carries_a_session_to_another_connection() {
    let coordinator = Coordinator::start(&[]);
    let mut first = anonymous(&coordinator).await;
    let hello = futures::stream::iter([HandshakeRequest::default()]);
    let answer = first.inner_mut().handshake(hello).await.unwrap();
    let cookie = answer.metadata().get("set-cookie").unwrap().to_str().unwrap();
    assert!(cookie.starts_with("skep_session="), "{cookie}");
    let cookie = format!("other=1; {}", cookie.split(';').next().unwrap());
    first.set_header("cookie", cookie.clone());
    update(&mut first, "CREATE TEMPORARY TABLE t AS SELECT 'first' AS x").await;
    let mut second = anonymous(&coordinator).await;
    second.set_header("cookie", cookie);
    assert_eq!(value(&mut second, "SELECT x FROM t").await, "first");
}

async fn set(client: &mut Client, name: &str, value: OptionValue) -> SetSessionOptionsResult {
    let value = SessionOptionValue { option_value: Some(value) };
    let session_options = [(name.to_owned(), value)].into();
    let request = SetSessionOptionsRequest { session_options };
    act(client, "SetSessionOptions", request.encode_to_vec()).await.unwrap()
}

#[tokio::test]
async fn options_of_a_session_are_set_and_told() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    update(&mut client, "CREATE SCHEMA sales").await;
    update(&mut client, "CREATE TABLE sales.t AS SELECT 7 AS x").await;
    let text = |text: &str| OptionValue::StringValue(text.to_owned());
    for (name, value) in [
        ("catalog", text("skep")),
        ("schema", text("sales")),
        ("datafusion.execution.batch_size", OptionValue::Int64Value(99)),
    ] {
        let result = set(&mut client, name, value).await;
        assert!(result.errors.is_empty(), "{result:?}");
    }
    assert_eq!(value(&mut client, "SELECT x FROM t").await, "7");
    assert_eq!(value(&mut client, BATCH_SIZE).await, "99");
    for (name, value) in [("catalog", "x"), ("schema", "x"), ("nothing.at.all", "x")] {
        let result = set(&mut client, name, text(value)).await;
        assert!(result.errors.contains_key(name), "{result:?}");
    }
    let request = GetSessionOptionsRequest {}.encode_to_vec();
    let told: GetSessionOptionsResult =
        act(&mut client, "GetSessionOptions", request).await.unwrap();
    assert_eq!(told.session_options["schema"].option_value, Some(text("sales")));
}

#[tokio::test]
async fn a_closed_session_is_over() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let info = client.execute("SELECT 1".to_owned(), None).await.unwrap();
    let request = CloseSessionRequest {}.encode_to_vec();
    let closed: CloseSessionResult = act(&mut client, "CloseSession", request).await.unwrap();
    assert_eq!(closed.status(), skep_proto::client::close_session_result::Status::Closed);
    refused(rows(&mut client, "SELECT 1").await, Code::Unauthenticated, "the session has ended");
    // Nor does its ticket live on.
    let mut other = connect(&coordinator).await;
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let fetched = other.do_get(ticket).await.map(drop);
    refused(fetched, Code::PermissionDenied, "another session");
}

#[tokio::test]
async fn a_session_goes_on_as_it_was_when_its_coordinator_was_killed() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--data-dir", directory.path().to_str().unwrap()];
    let mut coordinator = Coordinator::start(&args);
    let (mut plain, mut own) = (connect(&coordinator).await, connect(&coordinator).await);
    update(&mut plain, "CREATE SCHEMA sales").await;
    update(&mut plain, "CREATE TABLE sales.t AS SELECT 'sales' AS x").await;
    update(&mut plain, "CREATE TABLE t AS SELECT 'public' AS x").await;
    update(&mut plain, "USE sales").await;
    let text = OptionValue::StringValue("99".to_owned());
    set(&mut plain, "datafusion.execution.batch_size", text).await;
    update(&mut own, "CREATE TEMPORARY TABLE t AS SELECT 'own' AS x").await;
    coordinator.role.signal(Signal::Kill);
    coordinator.role.wait();
    let coordinator = Coordinator::start(&args);
    let again = async |before: &Client| {
        let mut client = anonymous(&coordinator).await;
        client.set_token(before.token().unwrap().clone());
        client
    };
    let mut plain = again(&plain).await;
    assert_eq!(value(&mut plain, "SELECT x FROM t").await, "sales");
    assert_eq!(value(&mut plain, BATCH_SIZE).await, "99");
    // It would read another table without a word.
    let mut own = again(&own).await;
    let said = "it had temporary tables";
    refused(rows(&mut own, "SELECT x FROM t").await, Code::Unauthenticated, said);
}

#[tokio::test]
async fn sessions_have_a_bound_and_idle_ones_end() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    std::fs::write(&config, "[sessions]\nmax_count = 1\nidle_timeout = '500ms'\n").unwrap();
    let coordinator = Coordinator::start(&["--config", config.to_str().unwrap()]);
    let mut first = anonymous(&coordinator).await;
    assert_eq!(value(&mut first, "SELECT 1").await, "1");
    let mut second = anonymous(&coordinator).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    // It has to wait until the first is idle for long enough.
    while let Err(error) = rows(&mut second, "SELECT 2").await {
        assert_eq!(super::status(error).code(), Code::Unavailable);
        assert!(std::time::Instant::now() < deadline);
    }
}

#[tokio::test]
async fn a_session_whose_client_is_gone_ends_before_its_hour() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    std::fs::write(&config, "[sessions]\nmax_count = 1\nleft_timeout = '200ms'\n").unwrap();
    let coordinator = Coordinator::start(&["--config", config.to_str().unwrap()]);
    let mut first = connect(&coordinator).await;
    assert_eq!(value(&mut first, "SELECT 1").await, "1");
    let mut second = anonymous(&coordinator).await;
    let refusal = super::status(rows(&mut second, "SELECT 2").await.unwrap_err());
    assert_eq!(refusal.code(), Code::Unavailable);
    // As if it had been killed: nothing is said.
    drop(first);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while let Err(error) = rows(&mut second, "SELECT 2").await {
        assert_eq!(super::status(error).code(), Code::Unavailable);
        assert!(std::time::Instant::now() < deadline);
    }
}

#[tokio::test]
async fn a_session_begins_where_headers_say() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    update(&mut client, "CREATE SCHEMA sales").await;
    update(&mut client, "CREATE TABLE sales.t AS SELECT 'sales' AS x").await;
    update(&mut client, "CREATE TABLE t AS SELECT 'public' AS x").await;
    // Parameters of a URL, as JDBC's driver says them with each call.
    for said in [&[("schema", "sales"), ("catalog", "skep")][..], &[("database", "sales")]] {
        for has_login in [true, false] {
            let mut client = anonymous(&coordinator).await;
            for (name, value) in [said, &[("jdbc_something", "else")]].concat() {
                client.set_header(name, value);
            }
            if has_login {
                client.handshake("", "").await.unwrap();
            }
            assert_eq!(value(&mut client, "SELECT x FROM t").await, "sales", "{said:?}");
            update(&mut client, "USE public").await;
            assert_eq!(value(&mut client, "SELECT x FROM t").await, "public", "{said:?}");
        }
    }
    for said in [("schema", "nowhere"), ("catalog", "other"), ("database", "nowhere")] {
        let mut client = anonymous(&coordinator).await;
        client.set_header(said.0, said.1);
        refused(rows(&mut client, "SELECT 1").await, Code::NotFound, "not found");
        // Whoever connects is told then.
        let mut hello = Request::new(futures::stream::iter([HandshakeRequest::default()]));
        hello.metadata_mut().insert(said.0, said.1.parse().unwrap());
        let refused = client.inner_mut().handshake(hello).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
        assert!(refused.metadata().get("authorization").is_none());
    }
}

#[tokio::test]
async fn every_action_is_listed() {
    let coordinator = Coordinator::start(&[]);
    let mut client = arrow_flight::flight_service_client::FlightServiceClient::new(
        channel(&coordinator.url).await,
    );
    let mut answers = client.list_actions(arrow_flight::Empty {}).await.unwrap().into_inner();
    let mut names = Vec::new();
    while let Some(action) = answers.message().await.unwrap() {
        names.push(action.r#type);
    }
    for name in [
        "CreatePreparedStatement",
        "ClosePreparedStatement",
        "CancelQuery",
        "SetSessionOptions",
        "GetSessionOptions",
        "CloseSession",
        "CancelFlightInfo",
        "RenewFlightEndpoint",
    ] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
    let unknown = client.do_action(Action::new("Nothing", "")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    assert!(unknown.message().contains("\"Nothing\""), "{unknown}");
}
