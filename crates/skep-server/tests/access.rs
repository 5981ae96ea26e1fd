//! Who is let in, in every way in which drivers say who they are.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    CommandPreparedStatementQuery, CommandStatementQuery, DoPutPreparedStatementResult,
    ProstMessageExt,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, FlightDescriptor, FlightInfo, HandshakeRequest,
    RenewFlightEndpointRequest, Ticket,
};
use bytes::Bytes;
use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use skep_engine::{EngineConfig, Role};
use skep_proto::client::StatementOutcome;
use skep_server::auth::users::{User, UserFile};
use skep_server::{CoordinatorConfig, CoordinatorServer, WorkerConfig, WorkerServer};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const PATIENCE: Duration = Duration::from_secs(30);

/// The name of Flight's service where health is asked for.
const FLIGHT: &str = "arrow.flight.protocol.FlightService";

fn config(data_dir: Option<&Path>) -> CoordinatorConfig {
    CoordinatorConfig {
        listen: "127.0.0.1:0".to_owned(),
        token: Some("cluster".to_owned()),
        engine: EngineConfig {
            data_dir: data_dir.map(Path::to_owned),
            memory_limit: Some(64 << 20),
            ..EngineConfig::default()
        },
        drain_timeout: Duration::from_secs(1),
        ..CoordinatorConfig::default()
    }
}

/// A data directory with the users ann (a writer) and bob (a reader).
fn data_dir() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let file = UserFile::of_data_dir(directory.path());
    for (name, role) in [("ann", Role::Writer), ("bob", Role::Reader)] {
        let user = User::new(role, &format!("{name}'s secret")).unwrap();
        file.edit(|users| users.add(name, user)).unwrap();
    }
    directory
}

/// One connection.
#[derive(Clone)]
struct Driver {
    service: FlightServiceClient<Channel>,
    channel: Channel,
}

impl Driver {
    async fn connect(server: &CoordinatorServer) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self { service: FlightServiceClient::new(channel.clone()), channel }
    }

    /// Returns the token that a handshake gives.
    async fn handshake(&self, authorization: Option<&str>) -> Result<String, Status> {
        let hello = HandshakeRequest { protocol_version: 0, payload: Default::default() };
        let request = with(Request::new(futures::stream::iter([hello])), authorization);
        let response = self.service.clone().handshake(request).await?;
        let header = response.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        let payloads: Vec<_> = response.into_inner().try_collect().await?;
        assert_eq!(format!("Bearer {}", String::from_utf8_lossy(&payloads[0].payload)), header);
        Ok(header)
    }

    async fn info(&self, authorization: Option<&str>, query: &str) -> Result<FlightInfo, Status> {
        let command = CommandStatementQuery { query: query.to_owned(), transaction_id: None };
        self.command(authorization, &command).await
    }

    async fn command(
        &self,
        authorization: Option<&str>,
        command: &impl ProstMessageExt,
    ) -> Result<FlightInfo, Status> {
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let request = with(Request::new(descriptor), authorization);
        Ok(self.service.clone().get_flight_info(request).await?.into_inner())
    }

    /// Runs a statement to its end.
    async fn run(&self, authorization: Option<&str>, query: &str) -> Result<(), Status> {
        for endpoint in self.info(authorization, query).await?.endpoint {
            self.fetch(authorization, endpoint.ticket.unwrap()).await?;
        }
        Ok(())
    }

    async fn fetch(&self, authorization: Option<&str>, ticket: Ticket) -> Result<(), Status> {
        let request = with(Request::new(ticket), authorization);
        let stream = self.service.clone().do_get(request).await?.into_inner();
        let _messages: Vec<_> = stream.try_collect().await?;
        Ok(())
    }

    /// Returns the texts of the first column of a result.
    async fn texts(&self, authorization: Option<&str>, ticket: Ticket) -> Vec<String> {
        let request = with(Request::new(ticket), authorization);
        let stream = self.service.clone().do_get(request).await.unwrap().into_inner();
        let batches = FlightRecordBatchStream::new_from_flight_data(stream.map_err(Into::into));
        let batches: Vec<_> = batches.try_collect().await.unwrap();
        let texts = batches.iter().flat_map(|batch| batch.column(0).as_string::<i32>());
        texts.map(|text| text.unwrap().to_owned()).collect()
    }

    /// Returns the handle of a prepared statement with this value for its parameter.
    async fn bind(&self, authorization: Option<&str>, handle: Bytes, value: &str) -> Bytes {
        let command = CommandPreparedStatementQuery { prepared_statement_handle: handle };
        let values: ArrayRef = Arc::new(StringArray::from(vec![value]));
        let batch = RecordBatch::try_from_iter([("v", values)]).unwrap();
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let messages = FlightDataEncoderBuilder::new()
            .with_flight_descriptor(Some(descriptor))
            .build(futures::stream::iter([Ok(batch)]));
        let messages: Vec<_> = messages.try_collect().await.unwrap();
        let request = with(Request::new(futures::stream::iter(messages)), authorization);
        let mut answers = self.service.clone().do_put(request).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().app_metadata;
        let bound = DoPutPreparedStatementResult::decode(answer).unwrap();
        bound.prepared_statement_handle.unwrap()
    }

    /// Returns the handle of a prepared statement.
    async fn prepare(&self, authorization: Option<&str>, query: &str) -> Result<Bytes, Status> {
        let request =
            ActionCreatePreparedStatementRequest { query: query.to_owned(), transaction_id: None };
        let action = Action::new("CreatePreparedStatement", request.as_any().encode_to_vec());
        let request = with(Request::new(action), authorization);
        let mut answers = self.service.clone().do_action(request).await?.into_inner();
        let body = answers.message().await?.unwrap().body;
        let created: Option<ActionCreatePreparedStatementResult> =
            Any::decode(body.as_ref()).unwrap().unpack().unwrap();
        Ok(created.unwrap().prepared_statement_handle)
    }

    /// Runs a prepared statement to its end.
    async fn run_prepared(&self, authorization: Option<&str>, handle: Bytes) -> Result<(), Status> {
        let command = CommandPreparedStatementQuery { prepared_statement_handle: handle };
        for endpoint in self.command(authorization, &command).await?.endpoint {
            self.fetch(authorization, endpoint.ticket.unwrap()).await?;
        }
        Ok(())
    }

    async fn health(&self) -> ServingStatus {
        let said = health(&self.channel, "").await.unwrap();
        // The service that clients speak goes with the process.
        assert_eq!(health(&self.channel, FLIGHT).await.unwrap(), said);
        said
    }

    /// Asks for an action with a message of Flight SQL.
    async fn act(
        &self,
        authorization: Option<&str>,
        action: &str,
        body: Vec<u8>,
    ) -> Result<Vec<arrow_flight::Result>, Status> {
        let request = with(Request::new(Action::new(action, body)), authorization);
        self.service.clone().do_action(request).await?.into_inner().try_collect().await
    }
}

async fn health(channel: &Channel, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel.clone()).check(request).await?;
    Ok(answer.into_inner().status())
}

fn with<T>(mut request: Request<T>, authorization: Option<&str>) -> Request<T> {
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    }
    request
}

/// Basic, of credentials of a length that needs no padding or some.
fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes = format!("{user}:{password}").into_bytes();
    let mut text = String::from("Basic ");
    for chunk in bytes.chunks(3) {
        let byte = |idx: usize| u32::from(chunk.get(idx).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for idx in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * idx)) as usize & 63];
            text.push(if idx > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

fn password_of(token: &str) -> &str {
    token.strip_prefix("Bearer ").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_is_open_to_a_user() {
    let data = data_dir();
    let server = CoordinatorServer::start(config(Some(data.path()))).await.unwrap();
    let driver = Driver::connect(&server).await;
    let ann = basic("ann", "ann's secret");
    let token = driver.handshake(Some(&ann)).await.unwrap();
    driver.run(Some(&token), "SELECT 1").await.unwrap();
    // A token at the handshake, as JDBC's `token=`, and as password, as Tableau has to.
    for said in [token.clone(), basic("", password_of(&token)), basic("ann", password_of(&token))] {
        let again = driver.handshake(Some(&said)).await.unwrap();
        driver.run(Some(&again), "SELECT 1").await.unwrap();
    }
    // Without a handshake.
    driver.run(Some(&ann), "SELECT 1").await.unwrap();
    driver.run(Some(&token.replace("Bearer", "bearer")), "SELECT 1").await.unwrap();
    // Each handshake is a session of its own; a connection is one for who had none.
    let other = driver.handshake(Some(&ann)).await.unwrap();
    let view = "CREATE TEMPORARY VIEW mine AS SELECT 1 AS x";
    driver.run(Some(&token), view).await.unwrap();
    driver.run(Some(&ann), view).await.unwrap();
    let elsewhere = Driver::connect(&server).await;
    for (driver, said, is_there) in [
        (&driver, &token, true),
        (&elsewhere, &token, true),
        (&driver, &other, false),
        (&driver, &ann, true),
        (&elsewhere, &ann, false),
    ] {
        let outcome = driver.run(Some(said), "SELECT * FROM mine").await;
        assert_eq!(outcome.is_ok(), is_there, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_comes_in() {
    let data = data_dir();
    let server = CoordinatorServer::start(config(Some(data.path()))).await.unwrap();
    let driver = Driver::connect(&server).await;
    let token = driver.handshake(Some(&basic("bob", "bob's secret"))).await.unwrap();
    for said in [
        None,
        Some(basic("bob", "wrong")),
        Some(basic("eve", "bob's secret")),
        Some(basic("ann", password_of(&token))),
        Some("Bearer guess".to_owned()),
        Some(token.replace(".bob.", ".ann.")),
        Some("Negotiate x".to_owned()),
    ] {
        let said = said.as_deref();
        let refused = driver.handshake(said).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        assert!(!refused.message().contains("secret") && !refused.message().contains("skep1"));
        let refused = driver.run(said, "SELECT 1").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    }
    let refused = driver.run(Some(&token), "CREATE TABLE t (x INT)").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // A user that is removed is out.
    let file = UserFile::of_data_dir(data.path());
    file.edit(|users| users.remove("bob").map(drop)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while driver.run(Some(&token), "SELECT 1").await.is_ok() {
        assert!(Instant::now() < deadline);
    }
    // Whoever asks for health is asked nothing.
    assert_eq!(driver.health().await, ServingStatus::Serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_started_again_takes_the_tokens_of_the_one_before() {
    let data = data_dir();
    let server = CoordinatorServer::start(config(Some(data.path()))).await.unwrap();
    let driver = Driver::connect(&server).await;
    let token = driver.handshake(Some(&basic("ann", "ann's secret"))).await.unwrap();
    driver.run(Some(&token), "CREATE TABLE kept AS SELECT 1 AS x").await.unwrap();
    let handle = driver.prepare(Some(&token), "SELECT * FROM kept").await.unwrap();
    let ticket = driver.info(Some(&token), "SELECT * FROM kept").await.unwrap().endpoint[0].clone();
    let ticket = ticket.ticket.unwrap();
    let of_connection = driver.prepare(Some(&basic("ann", "ann's secret")), "SELECT 1").await;
    server.shutdown().await;
    let server = CoordinatorServer::start(config(Some(data.path()))).await.unwrap();
    let driver = Driver::connect(&server).await;
    driver.run(Some(&token), "SELECT * FROM kept").await.unwrap();
    // With the session come its handles and tickets.
    driver.run_prepared(Some(&token), handle).await.unwrap();
    driver.fetch(Some(&token), ticket).await.unwrap();
    // A connection is another's now, whatever its number.
    let with_password = basic("ann", "ann's secret");
    let refused = driver.run_prepared(Some(&with_password), of_connection.unwrap()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    // Until the session is closed.
    let close = Request::new(Action::new("CloseSession", ""));
    let closed = driver.service.clone().do_action(with(close, Some(&token))).await.unwrap();
    let _answers: Vec<_> = closed.into_inner().try_collect().await.unwrap();
    let refused = driver.run(Some(&token), "SELECT 1").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Without a place for the key, they end with the process.
    let refused = CoordinatorServer::start(config(None)).await.unwrap();
    let refused = Driver::connect(&refused).await.run(Some(&token), "SELECT 1").await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_and_values_of_a_statement_outlive_the_coordinator() {
    let data = data_dir();
    let server = CoordinatorServer::start(config(Some(data.path()))).await.unwrap();
    let driver = Driver::connect(&server).await;
    let token = driver.handshake(Some(&basic("ann", "ann's secret"))).await.unwrap();
    let token = Some(token.as_str());
    driver.run(token, "CREATE SCHEMA sales").await.unwrap();
    for schema in ["public", "sales"] {
        let create = format!("CREATE TABLE {schema}.t AS SELECT '{schema}' AS x");
        driver.run(token, &create).await.unwrap();
    }
    driver.run(token, "USE sales").await.unwrap();
    let handle = driver.prepare(token, "SELECT x || ? AS x FROM t").await.unwrap();
    let bound = driver.bind(token, handle, "!").await;
    let command = CommandPreparedStatementQuery { prepared_statement_handle: bound };
    let ticket_of = |info: FlightInfo| info.endpoint.into_iter().next().unwrap().ticket.unwrap();
    let plain = ticket_of(driver.info(token, "SELECT x FROM t").await.unwrap());
    let prepared = ticket_of(driver.command(token, &command).await.unwrap());
    assert_eq!(driver.texts(token, prepared.clone()).await, ["sales!"]);
    server.shutdown().await;
    let server = CoordinatorServer::start(config(Some(data.path()))).await.unwrap();
    let driver = Driver::connect(&server).await;
    assert_eq!(driver.texts(token, plain).await, ["sales"]);
    assert_eq!(driver.texts(token, prepared).await, ["sales!"]);
    let again = ticket_of(driver.command(token, &command).await.unwrap());
    assert_eq!(driver.texts(token, again).await, ["sales!"]);
    // The command itself as a ticket.
    let direct = Ticket::new(command.as_any().encode_to_vec());
    assert_eq!(driver.texts(token, direct).await, ["sales!"]);
    // The session goes on where it was.
    let now = ticket_of(driver.info(token, "SELECT x FROM t").await.unwrap());
    assert_eq!(driver.texts(token, now).await, ["sales"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_the_coordinator_as_it_was_or_not_at_all() {
    let data = data_dir();
    let server = CoordinatorServer::start(config(Some(data.path()))).await.unwrap();
    let driver = Driver::connect(&server).await;
    let ann = basic("ann", "ann's secret");
    let (plain, own) =
        (driver.handshake(Some(&ann)).await.unwrap(), driver.handshake(Some(&ann)).await.unwrap());
    let (plain, own) = (Some(plain.as_str()), Some(own.as_str()));
    for token in [plain, own] {
        driver.run(token, "SET datafusion.execution.time_zone = '+07:00'").await.unwrap();
    }
    driver.run(plain, "CREATE TABLE t AS SELECT 'everybody''s' AS x").await.unwrap();
    driver.run(own, "CREATE TEMPORARY TABLE t AS SELECT 'its own' AS x").await.unwrap();
    server.shutdown().await;
    let server = CoordinatorServer::start(config(Some(data.path()))).await.unwrap();
    let driver = Driver::connect(&server).await;
    let ticket_of = |info: FlightInfo| info.endpoint.into_iter().next().unwrap().ticket.unwrap();
    let zone = "SELECT value FROM information_schema.df_settings \
                WHERE name = 'datafusion.execution.time_zone'";
    let told = ticket_of(driver.info(plain, zone).await.unwrap());
    assert_eq!(driver.texts(plain, told).await, ["+07:00"]);
    // It would read everybody's table without a word.
    for _ in 0..2 {
        let refused = driver.run(own, "SELECT x FROM t").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("it had temporary tables"), "{refused}");
    }
    // After the next start, too.
    server.shutdown().await;
    let server = CoordinatorServer::start(config(Some(data.path()))).await.unwrap();
    let driver = Driver::connect(&server).await;
    let told = ticket_of(driver.info(plain, zone).await.unwrap());
    assert_eq!(driver.texts(plain, told).await, ["+07:00"]);
    assert!(driver.run(own, "SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_after_its_time() {
    let data = data_dir();
    let config =
        CoordinatorConfig { token_lifetime: Duration::from_secs(2), ..config(Some(data.path())) };
    let server = CoordinatorServer::start(config).await.unwrap();
    let driver = Driver::connect(&server).await;
    let ann = basic("ann", "ann's secret");
    // It may have been given at the end of a second, of which it counts the beginning.
    let token = loop {
        let token = driver.handshake(Some(&ann)).await.unwrap();
        if driver.run(Some(&token), "SELECT 1").await.is_ok() {
            break token;
        }
    };
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        match driver.run(Some(&token), "SELECT 1").await {
            Ok(()) => assert!(Instant::now() < deadline, "it does not end"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    for said in [token.clone(), basic("ann", password_of(&token))] {
        let refused = driver.handshake(Some(&said)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    }
    let again = driver.handshake(Some(&ann)).await.unwrap();
    assert_ne!(again, token);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_to_one_user_is_nothing_to_another() {
    let data = data_dir();
    let server = CoordinatorServer::start(config(Some(data.path()))).await.unwrap();
    let driver = Driver::connect(&server).await;
    let ann = driver.handshake(Some(&basic("ann", "ann's secret"))).await.unwrap();
    let bob = driver.handshake(Some(&basic("bob", "bob's secret"))).await.unwrap();
    let info = driver.info(Some(&ann), "SELECT 1").await.unwrap();
    let handle = driver.prepare(Some(&ann), "SELECT 1").await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let cancel = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    let renew = RenewFlightEndpointRequest { endpoint: Some(info.endpoint[0].clone()) };
    for theirs in [bob, basic("bob", "bob's secret"), basic("ann", "ann's secret")] {
        let said = Some(theirs.as_str());
        for refused in [
            driver.fetch(said, ticket.clone()).await,
            driver.run_prepared(said, handle.clone()).await,
            driver.act(said, "CancelFlightInfo", cancel.clone()).await.map(drop),
            driver.act(said, "RenewFlightEndpoint", renew.encode_to_vec()).await.map(drop),
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
            assert!(!refused.message().contains("ann"), "{refused:?}");
        }
    }
    // It is still whose it was.
    driver.fetch(Some(&ann), ticket).await.unwrap();
    driver.run_prepared(Some(&ann), handle).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_by_service_and_by_workers_too() {
    let server = CoordinatorServer::start(config(None)).await.unwrap();
    let driver = Driver::connect(&server).await;
    assert_eq!(driver.health().await, ServingStatus::Serving);
    let unknown = health(&driver.channel, "nothing").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let worker = WorkerConfig {
        token: Some("cluster".to_owned()),
        memory_limit: Some(64 << 20),
        ..WorkerConfig::new(format!("grpc://{}", server.address()))
    };
    let worker = WorkerServer::start(worker).await.unwrap();
    let address = format!("http://{}", worker.address());
    let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    for service in ["", FLIGHT] {
        assert_eq!(health(&channel, service).await.unwrap(), ServingStatus::Serving);
    }
    worker.shutdown().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_users_anybody_may_and_needs_no_handshake() {
    let server = CoordinatorServer::start(config(None)).await.unwrap();
    let (first, second) = (Driver::connect(&server).await, Driver::connect(&server).await);
    // Drivers that are given a user and a password shake hands with them.
    let token = first.handshake(Some(&basic("ann", "any"))).await.unwrap();
    first.run(Some(&token), "SELECT 1").await.unwrap();
    first.handshake(None).await.unwrap();
    // Others begin at once: a connection is a session.
    first.run(None, "CREATE TEMPORARY VIEW mine AS SELECT 1 AS x").await.unwrap();
    first.run(None, "SELECT * FROM mine").await.unwrap();
    second.run(Some("Bearer of some proxy"), "SELECT 1").await.unwrap();
    assert_eq!(second.run(None, "SELECT * FROM mine").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_with_the_limit() {
    let mut config = config(None);
    config.grpc.max_message_bytes = 1 << 20;
    let server = CoordinatorServer::start(config).await.unwrap();
    let driver = Driver::connect(&server).await;
    let large = format!("SELECT '{}'", "x".repeat(2 << 20));
    let refused = driver.run(None, &large).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert!(refused.message().contains("1048576"), "{refused:?}");
    let long = format!("Bearer {}", "x".repeat(9 << 10));
    let refused = driver.run(Some(&long), "SELECT 1").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("8192"), "{refused:?}");
    for ticket in [&b""[..], b"nonsense", &[255; 1000]] {
        let request = Request::new(Ticket { ticket: ticket.to_vec().into() });
        let refused = driver.service.clone().do_get(request).await.map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    driver.run(None, "SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_ends_lets_what_runs_finish_and_begins_nothing() {
    let mut config = config(None);
    config.drain_timeout = PATIENCE;
    let server = CoordinatorServer::start(config).await.unwrap();
    let driver = Driver::connect(&server).await;
    let token = driver.handshake(None).await.unwrap();
    let running = "SELECT value FROM generate_series(1, 300000)";
    let info = driver.info(Some(&token), running).await.unwrap();
    let waiting = "SELECT value FROM generate_series(1, 3)";
    let waiting = driver.info(Some(&token), waiting).await.unwrap();
    let ticket = |info: FlightInfo| info.endpoint.into_iter().next().unwrap().ticket.unwrap();
    let fetched = ticket(driver.info(Some(&token), "SELECT 1").await.unwrap());
    driver.fetch(Some(&token), fetched.clone()).await.unwrap();
    let handle = driver.prepare(Some(&token), "SELECT 1").await.unwrap();
    let prepared = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() };
    let prepared = Ticket::new(prepared.as_any().encode_to_vec());
    let endless = "SELECT value FROM generate_series(1, 1000000000000) WHERE value < 0";
    let endless = driver.info(Some(&token), endless).await.unwrap();
    let kill = StatementOutcome::decode(endless.app_metadata.as_ref()).unwrap().id;
    let kill = format!("KILL QUERY '{kill}'");
    let fetch = with(Request::new(ticket(endless)), Some(&token));
    let mut never = driver.service.clone().do_get(fetch).await.unwrap().into_inner();
    let fetch = with(Request::new(ticket(info)), Some(&token));
    let mut rows = driver.service.clone().do_get(fetch).await.unwrap().into_inner();
    rows.next().await.unwrap().unwrap();
    let ending = async { server.shutdown().await };
    let meanwhile = async {
        let deadline = Instant::now() + PATIENCE;
        while driver.health().await == ServingStatus::Serving {
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        let refused = driver.handshake(None).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        let refused = driver.run(Some(&token), "SELECT 1").await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::Unavailable, "the coordinator is ending")
        );
        // What is fetched again would run again.
        for begun in [
            driver.fetch(Some(&token), fetched).await,
            driver.fetch(Some(&token), prepared).await,
            driver.prepare(Some(&token), "SELECT 1").await.map(drop),
            driver.run_prepared(Some(&token), handle).await,
        ] {
            let refused = begun.unwrap_err();
            assert_eq!(
                (refused.code(), refused.message()),
                (Code::Unavailable, "the coordinator is ending")
            );
        }
        // What keeps it from ending can be ended.
        driver.run(Some(&token), &kill).await.unwrap();
        let killed = loop {
            match never.message().await {
                Ok(message) => assert!(message.is_some(), "it ended well"),
                Err(killed) => break killed,
            }
        };
        assert_eq!(killed.code(), Code::Cancelled);
        // What waits to be fetched is not lost.
        let fetch = with(Request::new(ticket(waiting)), Some(&token));
        let fetched = driver.service.clone().do_get(fetch).await.unwrap().into_inner();
        let _messages: Vec<_> = fetched.try_collect().await.unwrap();
        let _messages: Vec<_> = rows.try_collect().await.unwrap();
    };
    let both = futures::future::join(ending, meanwhile);
    tokio::time::timeout(PATIENCE, both).await.unwrap();
}
