//! A connection with a session.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    CommandStatementQuery, CommandStatementSubstraitPlan, ProstMessageExt, SubstraitPlan,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightData,
    FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use skep_proto::client::StatementOutcome;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::address::Address;
use crate::error::{Error, Result};
use crate::statement::{Outcome, Statement, StatementHandle};

/// How long it may take until a coordinator is reached and has opened a session.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that was silent for so long is asked for a sign of life, which may take this long.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that may be under way: of one result, and of all together.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Most bytes of one message. Batches are cut much smaller; a single row may be large.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Bytes before a message in a stream of Arrow's: the mark of one, and its length. In Flight there are
/// none. Source: the columnar format, "encapsulated message format".
const MESSAGE_PREFIX_BYTES: usize = 8;

/// How to connect.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// The authorities by which the coordinator is known, in PEM; `None` is the system's.
    pub tls_ca: Option<Vec<u8>>,
    /// The password of the URL's user, in place of one in the URL.
    pub password: Option<String>,
}

impl std::fmt::Debug for ConnectOptions {
    /// Leaves the password out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("tls_ca", &self.tls_ca.is_some())
            .finish_non_exhaustive()
    }
}

/// A connection to a coordinator, with a session of its own there.
#[derive(Debug, Clone)]
pub struct Client {
    address: Arc<Address>,
    service: FlightServiceClient<Channel>,
    authorization: MetadataValue<Ascii>,
}

impl Client {
    /// Connects to `grpc://[user[:password]@]host[:port]`, or `grpc+tls://` by TLS, and opens a
    /// session.
    ///
    /// # Errors
    /// `InvalidArgument` for a URL that is none; `Unavailable` if nobody answers there; whatever the
    /// coordinator has against it: `Unauthenticated` for a wrong password.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, &ConnectOptions::default()).await
    }

    /// Connects as these options say.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); `InvalidArgument` for an option that has no use.
    pub async fn connect_with(url: &str, options: &ConnectOptions) -> Result<Self> {
        let mut address = Address::parse(url)?;
        if let (Some(password), Some((_, said))) = (&options.password, &mut address.credentials) {
            said.clone_from(password);
        }
        if options.tls_ca.is_some() && !address.is_tls {
            let message = format!("{address} is no address for TLS");
            return Err(Error::invalid(message, "write grpc+tls://HOST:PORT"));
        }
        match timeout(CONNECT_TIMEOUT, Self::open(address.clone(), options)).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(Error::silent(&address, CONNECT_TIMEOUT.as_secs())),
        }
    }

    async fn open(address: Address, options: &ConnectOptions) -> Result<Self> {
        let mut endpoint = Endpoint::from_shared(address.endpoint())
            .map_err(|error| Error::unreachable(&address, &error))?
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if address.is_tls {
            let tls = match &options.tls_ca {
                Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
                None => ClientTlsConfig::new().with_enabled_roots(),
            };
            let unusable = |error| Error::unusable_authority(&address, &error);
            endpoint = endpoint.tls_config(tls).map_err(unusable)?;
        }
        let channel =
            endpoint.connect().await.map_err(|error| Error::unreachable(&address, &error))?;
        let mut service = FlightServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let authorization = handshake(&mut service, &address).await?;
        Ok(Self { address: Arc::new(address), service, authorization })
    }

    /// Runs one statement: a command is done when this returns, a query's rows come as they are
    /// asked for. Dropping the future or the statement cancels it.
    ///
    /// # Errors
    /// Whatever the coordinator says is wrong with it, with its place in the text; `Unavailable` if
    /// the connection is lost.
    pub async fn execute(&self, sql: &str) -> Result<Statement> {
        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        self.run(command.as_any().encode_to_vec()).await
    }

    /// Runs a query that is a Substrait plan: the bytes of a `substrait.Plan`.
    ///
    /// # Errors
    /// As [`execute`](Self::execute); `InvalidArgument` for what is no plan, `Unimplemented` for
    /// relations and functions that the coordinator does not have.
    pub async fn execute_substrait(&self, plan: impl Into<Bytes>) -> Result<Statement> {
        let plan = SubstraitPlan { plan: plan.into(), version: String::new() };
        let command = CommandStatementSubstraitPlan { plan: Some(plan), transaction_id: None };
        self.run(command.as_any().encode_to_vec()).await
    }

    /// Runs a command whose answer is rows.
    pub(crate) async fn run(&self, command: Vec<u8>) -> Result<Statement> {
        let descriptor = FlightDescriptor::new_cmd(command);
        let mut service = self.service.clone();
        let info = service
            .get_flight_info(self.request(descriptor))
            .await
            .map_err(|status| self.failed(&status))?
            .into_inner();
        let outcome = StatementOutcome::decode(&*info.app_metadata)
            .map_err(|error| Error::protocol(&self.address, error))?;
        let endpoints = info.endpoint.clone();
        let handle = StatementHandle { info: info.clone(), query: outcome.id.clone() };
        let schema = SchemaRef::new(schema(info).map_err(|error| self.unexpected(error))?);
        // Asked for at once, so that giving the statement up reaches it.
        let mut results = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            results.push(self.fetch(endpoint).await?);
        }
        let address = Arc::clone(&self.address);
        let expected = SchemaRef::clone(&schema);
        let batches = stream::iter(results).flatten().map(move |batch| {
            let batch = batch.map_err(|error| Error::from_flight(&address, error))?;
            match batch.schema_ref().fields() == expected.fields() {
                true => Ok(batch),
                false => Err(Error::protocol(&address, "rows of other columns than announced")),
            }
        });
        Ok(Statement::new(schema, Outcome::from(outcome), handle, batches.boxed()))
    }

    /// Cancels a statement, wherever it is; returns whether there was anything to cancel.
    ///
    /// # Errors
    /// `PermissionDenied` for a statement of another session; `Unavailable` if the connection is
    /// lost.
    pub async fn cancel(&self, statement: &StatementHandle) -> Result<bool> {
        let request = CancelFlightInfoRequest::new(statement.info.clone());
        let answer = self.act("CancelFlightInfo", request.encode_to_vec()).await?;
        let result = answer.first().map(|body| CancelFlightInfoResult::decode(body.as_ref()));
        match result {
            Some(Ok(result)) => Ok(result.status() == CancelStatus::Cancelled),
            _ => Err(self.unexpected("nothing is said of what was cancelled")),
        }
    }

    /// Ends the session: its temporary tables go now, and not when it was idle for long enough.
    ///
    /// # Errors
    /// `Unavailable` if the connection is lost.
    pub async fn close(&self) -> Result<()> {
        self.act("CloseSession", Vec::new()).await.map(drop)
    }

    /// Asks for an action; returns what it answers.
    pub(crate) async fn act(&self, action: &str, body: Vec<u8>) -> Result<Vec<Bytes>> {
        let action = Action::new(action, body);
        let mut service = self.service.clone();
        let answer =
            service.do_action(self.request(action)).await.map_err(|status| self.failed(&status))?;
        let answers = answer.into_inner().map_ok(|answer| answer.body).try_collect::<Vec<_>>();
        answers.await.map_err(|status| self.failed(&status))
    }

    /// Sends rows for a command; returns what is answered.
    pub(crate) async fn put(
        &self,
        command: Vec<u8>,
        schema: Option<SchemaRef>,
        rows: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> Result<Bytes> {
        let descriptor = FlightDescriptor::new_cmd(command);
        // What goes wrong with the rows is told to the caller; the coordinator sees that they stop.
        let (stopped, mut stop) = futures::channel::mpsc::channel(1);
        let messages = match schema {
            Some(schema) => {
                let rows = rows.map_err(|error| FlightError::ExternalError(Box::new(error)));
                let mut said = Some(schema_message(&schema)?);
                FlightDataEncoderBuilder::new()
                    .with_schema(schema)
                    .with_dictionary_handling(DictionaryHandling::Resend)
                    .with_flight_descriptor(Some(descriptor))
                    .build(rows)
                    .map_ok(move |message| match said.take() {
                        Some(data_header) => FlightData { data_header, ..message },
                        None => message,
                    })
                    .left_stream()
            }
            None => {
                let message = FlightData::new().with_descriptor(descriptor);
                stream::iter([Ok(message)]).right_stream()
            }
        };
        let messages = until_error(messages, stopped);
        let mut service = self.service.clone();
        let answered = async {
            let answer = service.do_put(self.request(messages)).await?;
            answer.into_inner().try_collect::<Vec<_>>().await
        };
        let stopped = async {
            match stop.next().await {
                Some(error) => error,
                // All rows were sent.
                None => std::future::pending().await,
            }
        };
        let answered = futures::future::select(Box::pin(answered), Box::pin(stopped)).await;
        match answered {
            futures::future::Either::Left((answered, _)) => {
                let answers = answered.map_err(|status| self.failed(&status))?;
                Ok(answers.into_iter().next().map(|answer| answer.app_metadata).unwrap_or_default())
            }
            // Dropping the call tells the coordinator that the rows are not whole.
            futures::future::Either::Right((error, answered)) => {
                drop(answered);
                Err(match error {
                    FlightError::ExternalError(error) => match error.downcast::<Error>() {
                        Ok(error) => *error,
                        Err(error) => self.unexpected(error),
                    },
                    error => Error::from_flight(&self.address, error),
                })
            }
        }
    }

    /// Returns the columns of a query's rows, with the types that the engine has.
    #[cfg(feature = "dataframe")]
    pub(crate) async fn schema_of(&self, sql: String) -> Result<arrow_schema::Schema> {
        let command = CommandStatementQuery { query: sql, transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let mut service = self.service.clone();
        let answer = service.get_schema(self.request(descriptor)).await;
        let answer = answer.map_err(|status| self.failed(&status))?;
        let schema = arrow_schema::Schema::try_from(answer.into_inner());
        schema.map_err(|error| self.unexpected(error))
    }

    async fn fetch(&self, endpoint: FlightEndpoint) -> Result<FlightRecordBatchStream> {
        let ticket = endpoint.ticket.ok_or_else(|| self.unexpected("a result has no ticket"))?;
        let mut service = self.service.clone();
        let answer =
            service.do_get(self.request(ticket)).await.map_err(|status| self.failed(&status))?;
        let messages = answer.into_inner().map_err(FlightError::from);
        Ok(FlightRecordBatchStream::new_from_flight_data(messages))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        // Types come as the engine has them: views too.
        request.metadata_mut().insert("string_view", MetadataValue::from_static("true"));
        request
    }

    fn failed(&self, status: &Status) -> Error {
        Error::from_status(&self.address, status)
    }

    pub(crate) fn unexpected(&self, message: impl std::fmt::Display) -> Error {
        Error::protocol(&self.address, message)
    }
}

/// Returns a schema as the first message of a stream has it. The encoder writes lists with offsets
/// of 64 bits as if they had 32, which makes other rows of them.
///
/// # Errors
/// `InvalidArgument` for a schema that cannot be written.
fn schema_message(schema: &SchemaRef) -> Result<Bytes> {
    let info = FlightInfo::new().try_with_schema(schema);
    let message = info.map_err(|error| Error::invalid(error.to_string(), ""))?.schema;
    Ok(message.slice(MESSAGE_PREFIX_BYTES.min(message.len())..))
}

/// Passes messages on until one is an error, which goes elsewhere; then it stays silent, as an end
/// would say that all rows have come.
fn until_error(
    messages: impl Stream<Item = Result<FlightData, FlightError>> + Send + 'static,
    stopped: futures::channel::mpsc::Sender<FlightError>,
) -> impl Stream<Item = FlightData> + Send + 'static {
    stream::unfold((Box::pin(messages), stopped), |(mut messages, mut stopped)| async move {
        match messages.next().await? {
            Ok(message) => Some((message, (messages, stopped))),
            Err(error) => {
                // Nobody listens if the call is over.
                let _ = stopped.try_send(error);
                std::future::pending().await
            }
        }
    })
}

/// Opens a session; returns what names it in later calls.
async fn handshake(
    service: &mut FlightServiceClient<Channel>,
    address: &Address,
) -> Result<MetadataValue<Ascii>> {
    let hello = HandshakeRequest { protocol_version: 0, payload: Default::default() };
    let mut request = Request::new(stream::iter([hello]));
    if let Some((user, password)) = &address.credentials {
        let basic = format!("Basic {}", base64(format!("{user}:{password}").as_bytes()));
        let basic = basic
            .parse()
            .map_err(|_invalid| Error::protocol(address, "the credentials are no header"))
            .map(|mut basic: MetadataValue<Ascii>| {
                basic.set_sensitive(true);
                basic
            })?;
        request.metadata_mut().insert("authorization", basic);
    }
    let answer =
        service.handshake(request).await.map_err(|status| Error::from_status(address, &status))?;
    let (headers, mut payload, _) = answer.into_parts();
    // The call is over when its stream is.
    while let Some(_payload) =
        payload.try_next().await.map_err(|status| Error::from_status(address, &status))?
    {}
    let mut authorization = headers
        .get("authorization")
        .cloned()
        .ok_or_else(|| Error::protocol(address, "the handshake gave no session"))?;
    // Whoever reads it could use the session.
    authorization.set_sensitive(true);
    Ok(authorization)
}

fn schema(info: FlightInfo) -> Result<arrow_schema::Schema, arrow_schema::ArrowError> {
    info.try_decode_schema()
}

/// Writes bytes as Base64.
///
/// Source: RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_in_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address() {
        // Taken and given back: nobody listens there now.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        drop(listener);
        let error = Client::connect(&format!("grpc://{place}")).await.unwrap_err();
        let message = format!("cannot connect to grpc://{place}: connection refused");
        assert_eq!(error.message(), message);
        assert!(error.hint().unwrap().contains("skep cluster"));
        assert!(error.is_retryable());
    }
}
