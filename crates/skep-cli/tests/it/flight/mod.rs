//! Flight SQL as foreign clients speak it: arrow-flight's own, and ADBC's driver.
//!
//! Each line of the contract with clients is a test here.

mod adbc;
mod cancel;
mod ingest;
mod metadata;
mod own_client;
mod prepared;
mod queries;
mod refusals;
mod sessions;
mod substrait;

use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    CommandStatementQuery, ProstMessageExt,
};
use arrow_flight::{Action, FlightDescriptor, FlightInfo};
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use futures::TryStreamExt;
use prost::Message;
use skep_proto::client::{Details, ErrorInfo};
use skep_testkit::render;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::role::Coordinator;

/// A client of arrow-flight.
pub(crate) type Client = FlightSqlServiceClient<Channel>;

/// Connects without a handshake.
pub(crate) async fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.replace("grpc://", "http://")).unwrap().connect().await.unwrap()
}

/// Connects, and begins a session.
pub(crate) async fn connect(coordinator: &Coordinator) -> Client {
    let mut client = anonymous(coordinator).await;
    client.handshake("", "").await.unwrap();
    assert!(client.token().is_some());
    client
}

/// Connects, with no session but the connection's.
pub(crate) async fn anonymous(coordinator: &Coordinator) -> Client {
    // With the library's own limit on messages.
    FlightSqlServiceClient::new_from_inner(FlightServiceClient::new(
        channel(&coordinator.url).await,
    ))
}

/// Fetches a result; every batch must have the announced schema, nullability included.
pub(crate) async fn fetch(
    client: &mut Client,
    info: FlightInfo,
) -> Result<(SchemaRef, Vec<RecordBatch>), FlightError> {
    let announced = info.clone().try_decode_schema().unwrap();
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let mut rows = client.do_get(endpoint.ticket.unwrap()).await?;
        while let Some(batch) = rows.try_next().await? {
            assert_eq!(batch.schema().as_ref(), &announced);
            batches.push(batch);
        }
        assert_eq!(rows.schema().map(AsRef::as_ref), Some(&announced));
    }
    Ok((SchemaRef::new(announced), batches))
}

/// Runs a query and renders its rows.
pub(crate) async fn rows(client: &mut Client, sql: &str) -> Result<Vec<Vec<String>>, FlightError> {
    let info = client.execute(sql.to_owned(), None).await?;
    let (schema, batches) = fetch(client, info).await?;
    Ok(rendered(&schema, &batches))
}

/// Runs a query with one column and one row.
pub(crate) async fn value(client: &mut Client, sql: &str) -> String {
    let rows = rows(client, sql).await.unwrap();
    assert_eq!((rows.len(), rows[0].len()), (1, 1), "{sql}: {rows:?}");
    rows[0][0].clone()
}

/// Runs a change.
pub(crate) async fn update(client: &mut Client, sql: &str) -> i64 {
    client.execute_update(sql.to_owned(), None).await.unwrap()
}

pub(crate) fn rendered(schema: &Schema, batches: &[RecordBatch]) -> Vec<Vec<String>> {
    render::rows(schema, batches).unwrap()
}

/// Makes a request as the client does.
pub(crate) fn with_token<T>(client: &Client, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token = format!("Bearer {}", client.token().unwrap());
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    request
}

/// Prepares a statement; returns its handle.
pub(crate) async fn handle_of(client: &mut Client, sql: &str) -> Bytes {
    let request =
        ActionCreatePreparedStatementRequest { query: sql.to_owned(), transaction_id: None };
    let action = Action::new("CreatePreparedStatement", request.as_any().encode_to_vec());
    let mut answers = client.do_action(Request::new(action)).await.unwrap();
    let body = answers.message().await.unwrap().unwrap().body;
    let any = Any::decode(body.as_ref()).unwrap();
    let result: ActionCreatePreparedStatementResult = any.unpack().unwrap().unwrap();
    result.prepared_statement_handle
}

/// Asks what columns a command's rows will have.
pub(crate) async fn schema_of(
    client: &mut Client,
    command: &impl ProstMessageExt,
) -> Result<Schema, Status> {
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let request = with_token(client, descriptor);
    let result = client.inner_mut().get_schema(request).await?.into_inner();
    Ok(Schema::try_from(&result).unwrap())
}

/// A statement as a command.
pub(crate) fn statement(sql: &str) -> CommandStatementQuery {
    CommandStatementQuery { query: sql.to_owned(), transaction_id: None }
}

/// What the details of a status say to clients that know nothing of us.
pub(crate) fn error_info(status: &Status) -> ErrorInfo {
    let details = Details::decode(status.details()).unwrap();
    let info = details.details.iter().find(|part| part.type_url.ends_with("ErrorInfo")).unwrap();
    ErrorInfo::decode(info.value.as_ref()).unwrap()
}

/// Takes the status out of an error of the client.
#[track_caller]
pub(crate) fn status(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        FlightError::Arrow(ArrowError::ExternalError(error)) => {
            *error.downcast::<Status>().unwrap()
        }
        other => panic!("no status: {other}"),
    }
}

/// Expects an error with this code, and some of this text.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(
    outcome: Result<T, FlightError>,
    code: Code,
    text: &str,
) -> Status {
    let status = status(outcome.unwrap_err());
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(text), "{status}");
    status
}

/// Asks for an action of Flight.
pub(crate) async fn act<M: Message + Default>(
    client: &mut Client,
    action: &str,
    body: Vec<u8>,
) -> Result<M, FlightError> {
    let mut answers = client.do_action(Request::new(Action::new(action, body))).await?;
    let answer = answers.message().await.map_err(FlightError::from)?.unwrap();
    Ok(M::decode(answer.body.as_ref()).unwrap())
}
