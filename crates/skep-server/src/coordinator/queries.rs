//! Statements, plain and prepared: running them, announcing their results, passing rows on.
//!
//! A statement runs when its `FlightInfo` is asked for, once: what it changes is changed then, and
//! rows wait for the `DoGet` of the ticket. A ticket that is fetched again, or too late, runs its
//! query again; a change has no ticket.
//!
//! **Invariant:** the schema that is announced is the schema of every batch.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::sql::{
    ActionCreatePreparedStatementResult, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket,
};
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use skep_cluster::ids::QueryId;
use skep_engine::{Description, Error, QueryStream, QueryTag, StatementKind};
use skep_proto::ErrorCode;
use skep_proto::client::statement_outcome::Kind;
use skep_proto::client::{CommandOutcome, QueryOutcome, StatementOutcome, WriteOutcome};
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::error;

use super::columns::{messages, plain_batch, plain_schema};
use super::flight_sql::SqlService;
use super::front::Answers;
use super::parameters;
use super::results::PendingResult;
use super::sessions::{OpenSession, STRING_VIEW};
use super::statements::Running;
use super::tickets::{Claim, Purpose};
use crate::status::{refuse, status_of_query};

/// What a client wants to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A statement's text.
    Text(String),
    /// A query as a Substrait plan; not empty.
    Plan(Bytes),
}

impl Wanted {
    /// Takes what a claim holds.
    fn of(sql: String, plan: Bytes) -> Self {
        if plan.is_empty() { Self::Text(sql) } else { Self::Plan(plan) }
    }

    /// Returns what a claim holds: a text, or a plan.
    fn into_parts(self) -> (String, Bytes) {
        match self {
            Self::Text(sql) => (sql, Bytes::new()),
            Self::Plan(plan) => (String::new(), plan),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(sql) => sql.len(),
            Self::Plan(plan) => plan.len(),
        }
    }

    /// Whom to cancel, if that is wanted.
    fn kill_target(&self) -> Option<String> {
        match self {
            Self::Text(sql) => kill_target(sql),
            Self::Plan(_) => None,
        }
    }
}

/// A statement as a client said it.
#[derive(Debug, Clone)]
pub(super) struct Said {
    /// Its text or plan.
    pub(super) wanted: Wanted,
    /// Where its bare names are looked up.
    pub(super) schema: String,
    /// The values of its parameters, as handles keep them; empty for none.
    pub(super) parameters: Bytes,
    /// Whether types stay as the engine has them.
    pub(super) is_exact: bool,
}

impl Said {
    /// A statement that is said in a session now, without values.
    pub(super) fn now(session: &OpenSession, wanted: Wanted, is_exact: bool) -> Self {
        let schema = session.session.current_schema();
        Self { wanted, schema, parameters: Bytes::new(), is_exact }
    }

    /// What a claim holds.
    fn of(claim: Claim) -> Self {
        let Claim { sql, plan, in_schema, parameters, is_exact, .. } = claim;
        Self { wanted: Wanted::of(sql, plan), schema: in_schema, parameters, is_exact }
    }

    /// Makes a claim to it, which says nothing else.
    fn into_claim(self, purpose: Purpose, session: &OpenSession) -> Claim {
        let (sql, plan) = self.wanted.into_parts();
        Claim {
            purpose: purpose.into(),
            session: session.id,
            sql,
            plan,
            in_schema: self.schema,
            parameters: self.parameters,
            is_exact: self.is_exact,
            ..Claim::default()
        }
    }
}

impl SqlService {
    /// Gives a statement of a session its number; `origin` is that of the statement that it runs
    /// again, if it does.
    pub(super) fn begin(&self, session: &OpenSession, origin: Option<u64>) -> Running {
        let owner = session.session.principal().clone();
        self.statements.begin(self.monitor.next_query().0, origin, session.id, owner)
    }

    /// Runs a statement up to its first row.
    pub(super) async fn run(
        &self,
        session: &Arc<OpenSession>,
        said: &Said,
        values: Option<&RecordBatch>,
    ) -> Result<PendingResult, Status> {
        self.run_again(session, said, values, None).await
    }

    /// As [`run`](Self::run), for the ticket of a statement that ran before.
    async fn run_again(
        &self,
        session: &Arc<OpenSession>,
        said: &Said,
        values: Option<&RecordBatch>,
        origin: Option<u64>,
    ) -> Result<PendingResult, Status> {
        let wanted = &said.wanted;
        self.check_length(wanted)?;
        if let Some(target) = wanted.kill_target() {
            // It begins nothing, and is needed most where nothing else has a place.
            let stream = self.kill(session, &target)?;
            let (running, session) = (self.begin(session, None), Arc::clone(session));
            return Ok(PendingResult { stream, running, session, place: None });
        }
        let place = Some(self.results.place()?);
        let running = self.begin(session, origin);
        let tag = Arc::new(QueryTag::new(running.id()));
        let tagged = session.session.in_schema(&said.schema).tagged(tag);
        let tagged = if said.is_exact { tagged } else { tagged.without_views() };
        let executed = async {
            match (wanted, values) {
                (Wanted::Text(sql), None) => tagged.execute(sql).await,
                (Wanted::Text(sql), Some(values)) => tagged.execute_bound(sql, values).await,
                (Wanted::Plan(plan), values) => tagged.execute_substrait(plan, values).await,
            }
        };
        let stream = Box::pin(running.until_cancelled(executed)).await;
        let is_query = stream.as_ref().is_ok_and(|stream| *stream.kind() == StatementKind::Query);
        // What has failed, or was cancelled, may have changed it.
        let kept = if is_query { Ok(()) } else { session.keep().await };
        let stream = stream.map_err(|error| reported(&error, running.id()))?;
        kept?;
        Ok(PendingResult { stream, running, session: Arc::clone(session), place })
    }

    /// Runs a statement, and announces its result.
    pub(super) async fn announce(
        &self,
        session: &Arc<OpenSession>,
        said: Said,
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo, Status> {
        let values = parameters::decode(&said.parameters)?;
        let result = self.run(session, &said, values.as_ref()).await?;
        let kind = result.stream.kind().clone();
        let schema = encode_schema(&shown(&result.stream.schema(), said.is_exact))?;
        let outcome = outcome(&kind, result.running.id());
        let mut info = FlightInfo::new()
            .with_app_metadata(outcome.encode_to_vec())
            .with_descriptor(descriptor)
            // One endpoint is in order whatever the statement.
            .with_ordered(true);
        info.schema = schema.clone();
        if kind == StatementKind::Query {
            let claim = said.into_claim(Purpose::Result, session);
            let claim = Claim { query: result.running.id(), schema, ..claim };
            info = info.with_endpoint(self.endpoint(claim));
            self.results.put(result, Instant::now());
        }
        Ok(info)
    }

    /// Makes the endpoint of a result, from now on.
    pub(super) fn endpoint(&self, claim: Claim) -> FlightEndpoint {
        let claim = claim.expiring_at(SystemTime::now() + self.config.ticket_timeout);
        let expires = claim.expiration_time();
        let ticket = TicketStatementQuery { statement_handle: self.tickets.seal(&claim) };
        FlightEndpoint::new()
            .with_ticket(Ticket::new(ticket.as_any().encode_to_vec()))
            .with_expiration_time(expires)
    }

    /// Passes on the rows of a ticket.
    pub(super) async fn fetch(
        &self,
        session: &Arc<OpenSession>,
        handle: &[u8],
    ) -> Result<Answers<FlightData>, Status> {
        let claim = self.tickets.open(Purpose::Result, session.id, handle, SystemTime::now())?;
        let (query, announced) = (claim.query, claim.schema.clone());
        let said = Said::of(claim);
        let result = match self.results.take(query) {
            Some(result) => result,
            None if self.statements.was_cancelled(query) => {
                return Err(reported(&Error::Cancelled, query));
            }
            None => {
                let values = parameters::decode(&said.parameters)?;
                self.run_again(session, &said, values.as_ref(), Some(query)).await?
            }
        };
        let schema = shown(&result.stream.schema(), said.is_exact);
        if encode_schema(&schema)? != announced {
            return Err(refuse(
                ErrorCode::NotFound,
                "the result has other columns now",
                "a table has changed since the statement ran: run it again",
            ));
        }
        Ok(self.rows(result, schema))
    }

    /// Makes messages of a result's rows. Dropping them stops the query.
    pub(super) fn rows(&self, result: PendingResult, schema: SchemaRef) -> Answers<FlightData> {
        let PendingResult { stream, running, session, place } = result;
        let id = running.id();
        let cancelled = Box::pin(running.cancelled());
        let plain = Arc::clone(&schema);
        let most_bytes = self.config.message_bytes;
        let batches = stream
            .take_until(cancelled)
            .map(move |batch| plain_batch(batch?, &plain))
            .map_ok(move |batch| stream::iter(messages(batch, most_bytes)))
            .try_flatten();
        // Held for as long as rows flow: the session and the place are in use, the statement can be
        // cancelled.
        let held = (running, session, place);
        let end = stream::once(async move {
            // Of all of it, not of the field that is asked.
            let (running, _session, _place) = &held;
            running.is_cancelled()
        });
        let end =
            end.filter_map(async |is_cancelled| is_cancelled.then_some(Err(Error::Cancelled)));
        let rows = batches
            .chain(end)
            .map_err(move |error| FlightError::Tonic(Box::new(reported(&error, id))));
        // The first message as it was announced: the encoder writes lists with offsets of 64 bits
        // as if they had 32, which makes other rows of them.
        let options = IpcWriteOptions::default();
        let said = FlightData::from(SchemaAsIpc::new(&schema, &options));
        let mut said = Some(said.data_header);
        FlightDataEncoderBuilder::new()
            .with_schema(schema)
            // What is left of dictionaries keeps its type, as announced.
            .with_dictionary_handling(DictionaryHandling::Resend)
            // They are cut already.
            .with_max_flight_data_size(usize::MAX)
            .build(rows)
            .map_ok(move |message| match said.take() {
                Some(data_header) => FlightData { data_header, ..message },
                None => message,
            })
            .map_err(Status::from)
            .boxed()
    }

    /// Prepares a statement: says what it is, and gives a handle to run it by.
    pub(super) async fn prepare(
        &self,
        session: &Arc<OpenSession>,
        said: Said,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let description = self.describe(session, &said, None).await?;
        let parameters = Schema::new(description.parameters);
        Ok(ActionCreatePreparedStatementResult {
            // A change has no columns, which tells drivers that it is one.
            dataset_schema: encode_schema(&shown(&description.schema, said.is_exact))?,
            parameter_schema: encode_schema(&plain_schema(&Arc::new(parameters)))?,
            prepared_statement_handle: self.prepared_handle(session, said),
        })
    }

    /// Puts values into a prepared statement: the new handle has them.
    pub(super) fn bound(
        &self,
        session: &Arc<OpenSession>,
        handle: &[u8],
        values: Option<&RecordBatch>,
    ) -> Result<Bytes, Status> {
        let said = self.prepared(session, handle)?;
        let bound = self.config.max_statement_bytes;
        let parameters = match values {
            Some(values) => parameters::encode(values, bound)?,
            None => Bytes::new(),
        };
        Ok(self.prepared_handle(session, Said { parameters, ..said }))
    }

    /// Returns the statement of a handle.
    pub(super) fn prepared(
        &self,
        session: &Arc<OpenSession>,
        handle: &[u8],
    ) -> Result<Said, Status> {
        let now = SystemTime::now();
        self.tickets.open(Purpose::Prepared, session.id, handle, now).map(Said::of)
    }

    fn prepared_handle(&self, session: &OpenSession, said: Said) -> Bytes {
        let claim = said.into_claim(Purpose::Prepared, session);
        let end = SystemTime::now() + self.config.prepared_timeout;
        self.tickets.seal(&claim.expiring_at(end))
    }

    /// Says what a statement is, without running it.
    pub(super) async fn describe(
        &self,
        session: &Arc<OpenSession>,
        said: &Said,
        values: Option<&RecordBatch>,
    ) -> Result<Description, Status> {
        let wanted = &said.wanted;
        self.check_length(wanted)?;
        if wanted.kill_target().is_some() {
            let schema = Arc::new(Schema::empty());
            return Ok(Description { is_query: false, schema, parameters: Vec::new() });
        }
        let _place = self.results.place()?;
        let running = self.begin(session, None);
        let within = session.session.in_schema(&said.schema);
        let described = async {
            match wanted {
                Wanted::Text(sql) => within.describe(sql, values).await,
                Wanted::Plan(plan) => within.describe_substrait(plan, values).await,
            }
        };
        let described = Box::pin(running.until_cancelled(described)).await;
        described.map_err(|error| reported(&error, running.id()))
    }

    /// Runs a statement that changes something; returns how many rows it wrote.
    pub(super) async fn update(
        &self,
        session: &Arc<OpenSession>,
        said: &Said,
        values: Option<&RecordBatch>,
    ) -> Result<i64, Status> {
        let result = self.run(session, said, values).await?;
        match result.stream.kind() {
            StatementKind::Write { row_count } => Ok(i64::try_from(*row_count).unwrap_or(i64::MAX)),
            StatementKind::Command { .. } => Ok(0),
            StatementKind::Query => Err(refuse(
                ErrorCode::InvalidArgument,
                "the statement asks and changes nothing",
                "run it as a query",
            )),
        }
    }

    fn check_length(&self, wanted: &Wanted) -> Result<(), Status> {
        let bound = self.config.max_statement_bytes;
        if wanted.len() <= bound {
            return Ok(());
        }
        Err(refuse(
            ErrorCode::InvalidArgument,
            format!("the statement has {} bytes, of which {bound} are allowed", wanted.len()),
            "send values as parameters, load rows by ingest, or raise max_statement_bytes in [results]",
        ))
    }

    /// Cancels a statement by its name.
    fn kill(&self, session: &OpenSession, target: &str) -> Result<QueryStream, Status> {
        let id = target.strip_prefix('q').and_then(|number| number.parse().ok());
        // Of others nobody is told that they run.
        let id = id.filter(|id| self.statements.is_seen_by(*id, session.session.principal()));
        if id.is_some_and(|id| self.end(id)) {
            return Ok(QueryStream::done(StatementKind::Command { tag: "KILL QUERY".to_owned() }));
        }
        Err(refuse(
            ErrorCode::NotFound,
            format!("query \"{target}\" does not run"),
            "SELECT query, state, sql FROM system.queries",
        ))
    }

    /// Cancels a statement: what runs stops, what waits goes. Returns whether it ran.
    pub(super) fn end(&self, id: u64) -> bool {
        let was_running = self.statements.cancel(id);
        self.results.drop_cancelled(id);
        was_running
    }
}

/// Tells whether a client takes the engine's types.
pub(super) fn is_exact(session: &OpenSession, headers: &MetadataMap) -> bool {
    match headers.get(STRING_VIEW).map(|value| value.as_bytes()) {
        Some(value) => value.eq_ignore_ascii_case(b"true"),
        None => session.takes_views(),
    }
}

/// Returns the schema as a client sees it.
pub(super) fn shown(schema: &SchemaRef, is_exact: bool) -> SchemaRef {
    if is_exact { Arc::clone(schema) } else { plain_schema(schema) }
}

/// Writes a schema as Flight does.
///
/// # Errors
/// `INTERNAL` if it cannot be written.
pub(super) fn encode_schema(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let message: Result<IpcMessage, _> = SchemaAsIpc::new(schema, &options).try_into();
    message
        .map(|message| message.0)
        .map_err(|error| Status::internal(format!("cannot encode the schema: {error}")))
}

/// Makes the status of a statement's error; a defect is logged, because somebody must look.
pub(super) fn reported(error: &Error, query: u64) -> Status {
    if error.code() == ErrorCode::Internal {
        error!(%error, query, "a statement failed by a defect");
    }
    status_of_query(error, query)
}

/// Says what a statement did.
pub(super) fn outcome(kind: &StatementKind, query: u64) -> StatementOutcome {
    let kind = match kind {
        StatementKind::Query => Kind::Query(QueryOutcome {}),
        StatementKind::Write { row_count } => Kind::Write(WriteOutcome { row_count: *row_count }),
        StatementKind::Command { tag } => Kind::Command(CommandOutcome { tag: tag.clone() }),
    };
    StatementOutcome { kind: Some(kind), id: QueryId(query).to_string() }
}

/// Reads `KILL [QUERY] 'q12'`: whom to cancel is known here and not to the engine.
fn kill_target(sql: &str) -> Option<String> {
    /// No such statement is longer, comments included.
    const MOST_BYTES: usize = 4096;
    if sql.len() > MOST_BYTES {
        return None;
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().ok()?;
    let mut tokens = tokens
        .into_iter()
        .filter(|token| !matches!(token, Token::Whitespace(_) | Token::SemiColon))
        .peekable();
    let is_word = |token: &Token, text: &str| {
        matches!(token, Token::Word(word)
            if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
    };
    tokens.next_if(|token| is_word(token, "KILL"))?;
    tokens.next_if(|token| is_word(token, "QUERY"));
    let target = match tokens.next()? {
        Token::SingleQuotedString(text) => text,
        Token::Word(word) => word.value,
        _ => return None,
    };
    tokens.next().is_none().then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_to_kill_is_read() {
        for (sql, target) in [
            ("KILL QUERY 'q12'", Some("q12")),
            ("kill query q12;", Some("q12")),
            ("-- enough\nKILL 'q12' ;", Some("q12")),
            ("KILL QUERY", None),
            ("KILL QUERY 'q1' 'q2'", None),
            ("KILL 'unfinished", None),
            ("SELECT 'KILL'", None),
        ] {
            assert_eq!(kill_target(sql).as_deref(), target, "{sql}");
        }
    }

    #[test]
    fn the_outcome_names_the_statement_as_the_system_tables_do() {
        assert_eq!(outcome(&StatementKind::Query, 7).id, "q7");
    }
}
