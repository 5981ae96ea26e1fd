//! Fetching over Arrow Flight: one `DoExchange` for each pair of a task and a process it reads from.
//!
//! Batches are decoded where they are consumed, so that tasks decode beside each other and what
//! waits is as small as it came.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_flight::flight_service_client::FlightServiceClient;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::memory_pool::MemoryPool;
use futures::{Stream, StreamExt, ready};
use parking_lot::Mutex;
use skep_proto::cluster::FetchEnd;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};

use super::channels::Channels;
use super::config::FetchConfig;
use super::fetch::{Arrival, FetchFailure, FetchStream, Fetcher, RemoteOutput, TaskFetcher};
use super::flow::Budget;
use super::ipc::SlotDecoder;
use super::link::{Arrived, Link, LinkFailure, Requests};
use super::service::TOKEN_KEY;
use super::wire;
use crate::error::{Error, Result};
use crate::scheduler::FetchFault;

/// What gRPC adds to the batch in a message.
const MESSAGE_ROOM: usize = 4096;

/// Fetches for the tasks of this process. Cheap to clone; all clones share their connections.
#[derive(Debug, Clone)]
pub struct FlightFetcher {
    shared: Arc<Shared>,
}

struct Shared {
    config: FetchConfig,
    token: Option<MetadataValue<Ascii>>,
    channels: Channels,
    runtime: Handle,
}

impl FlightFetcher {
    /// Makes a fetcher whose connections live on this runtime, best not the one that runs queries:
    /// a connection that gets no turn looks like a peer that is dead.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a bound of zero, or a token that HTTP cannot carry.
    pub fn new(config: FetchConfig, runtime: Handle) -> Result<Self> {
        config.check()?;
        let token = config.token.as_deref().map(MetadataValue::try_from).transpose().map_err(
            |_invalid| Error::InvalidOption {
                option: "token",
                message: "must be of visible ASCII characters".to_owned(),
            },
        )?;
        let channels = Channels::default();
        Ok(Self { shared: Arc::new(Shared { config, token, channels, runtime }) })
    }
}

impl Fetcher for FlightFetcher {
    fn for_task(&self, pool: &Arc<dyn MemoryPool>) -> Arc<dyn TaskFetcher> {
        let config = &self.shared.config;
        let budget = Budget::new(pool, config.task_budget_bytes, config.expected_batch_bytes);
        Arc::new(FlightTaskFetcher(Arc::new(TaskLinks {
            shared: Arc::clone(&self.shared),
            budget: Arc::new(budget),
            links: Mutex::default(),
        })))
    }
}

/// What one task fetches through.
#[derive(Debug)]
struct FlightTaskFetcher(Arc<TaskLinks>);

impl TaskFetcher for FlightTaskFetcher {
    fn open(&self, output: RemoteOutput, schema: SchemaRef) -> FetchStream {
        SlotStream::new(&self.0, output, schema).boxed()
    }

    fn open_ahead(&self, output: RemoteOutput, schema: SchemaRef, arrival: Arrival) -> FetchStream {
        let mut stream = SlotStream::new(&self.0, output, schema);
        stream.slot = Some(OpenSlot::new(&stream.links, &stream.output, Some(arrival)));
        stream.boxed()
    }
}

/// The links of one task, by address. They end with the fetcher and the last stream.
#[derive(Debug)]
struct TaskLinks {
    shared: Arc<Shared>,
    budget: Arc<Budget>,
    links: Mutex<HashMap<String, Arc<DrivenLink>>>,
}

#[derive(Debug)]
struct DrivenLink {
    link: Arc<Link>,
    _driver: SpawnedTask<()>,
}

impl Drop for DrivenLink {
    fn drop(&mut self) {
        self.link.finish();
    }
}

impl TaskLinks {
    /// Returns the link to an address; one that failed is replaced.
    fn link(&self, address: &str) -> Arc<DrivenLink> {
        let mut links = self.links.lock();
        if let Some(driven) = links.get(address)
            && !driven.link.is_failed()
        {
            return Arc::clone(driven);
        }
        let link = Arc::new(Link::new(Arc::clone(&self.budget)));
        let driver = drive(Arc::clone(&self.shared), address.to_owned(), Arc::clone(&link));
        let _runtime = self.shared.runtime.enter();
        let driven = Arc::new(DrivenLink { link, _driver: SpawnedTask::spawn(driver) });
        links.insert(address.to_owned(), Arc::clone(&driven));
        driven
    }
}

/// Takes messages off a stream until it ends, and says why.
async fn drive(shared: Arc<Shared>, address: String, link: Arc<Link>) {
    let failure = match run(&shared, &address, &link).await {
        Ok(()) => LinkFailure::Unreachable("the stream ended early".to_owned()),
        Err(failure) => failure,
    };
    link.fail(failure);
}

async fn run(shared: &Shared, address: &str, link: &Arc<Link>) -> Result<(), LinkFailure> {
    let config = &shared.config;
    let channel = shared
        .channels
        .get(address, config)
        .map_err(|error| LinkFailure::Unreachable(describe(&error)))?;
    let mut client = FlightServiceClient::new(channel)
        .max_decoding_message_size(config.max_message_bytes.saturating_add(MESSAGE_ROOM));
    let mut request = tonic::Request::new(Requests(Arc::clone(link)));
    if let Some(token) = &shared.token {
        request.metadata_mut().insert(TOKEN_KEY, token.clone());
    }
    let stalled = || {
        LinkFailure::Unreachable(format!("no answer for {} s", config.stall_timeout.as_secs_f32()))
    };
    let opening = config.connect_timeout.saturating_add(config.stall_timeout);
    let response = timeout(opening, client.do_exchange(request));
    let response = response.await.map_err(|_elapsed| stalled())?.map_err(failure_of)?;
    let mut messages = response.into_inner();
    loop {
        match timeout(config.stall_timeout, messages.next()).await {
            Ok(Some(Ok(data))) => link.deliver(data)?,
            Ok(Some(Err(status))) => return Err(failure_of(status)),
            Ok(None) => return Ok(()),
            Err(_elapsed) if link.is_stalled(config.stall_timeout) => return Err(stalled()),
            Err(_elapsed) => {}
        }
    }
}

fn failure_of(status: Status) -> LinkFailure {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            LinkFailure::Refused(status.message().to_owned())
        }
        Code::DataLoss => LinkFailure::Damaged(status.message().to_owned()),
        _ => LinkFailure::Unreachable(describe(&status)),
    }
}

/// Returns what an error and those below it say, each once.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = error.source();
    }
    text
}

/// The batches of one output.
struct SlotStream {
    links: Arc<TaskLinks>,
    output: RemoteOutput,
    decoder: SlotDecoder,
    slot: Option<OpenSlot>,
    batches: u64,
    rows: u64,
    is_done: bool,
}

struct OpenSlot {
    driven: Arc<DrivenLink>,
    number: u32,
}

impl OpenSlot {
    fn new(links: &TaskLinks, output: &RemoteOutput, arrival: Option<Arrival>) -> Self {
        let driven = links.link(&output.address);
        let number = driven.link.open(output, arrival);
        Self { driven, number }
    }
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        self.driven.link.close(self.number);
    }
}

impl SlotStream {
    fn new(links: &Arc<TaskLinks>, output: RemoteOutput, schema: SchemaRef) -> Self {
        Self {
            links: Arc::clone(links),
            decoder: SlotDecoder::new(schema),
            output,
            slot: None,
            batches: 0,
            rows: 0,
            is_done: false,
        }
    }

    fn poll_batch(
        &mut self,
        ctx: &mut Context<'_>,
    ) -> Poll<Result<Option<RecordBatch>, FetchFailure>> {
        loop {
            let slot =
                self.slot.get_or_insert_with(|| OpenSlot::new(&self.links, &self.output, None));
            let arrived = ready!(slot.driven.link.poll(slot.number, ctx));
            let arrived =
                arrived.map_err(|failure| refused(failure.to_error(&self.output.address)))?;
            match arrived {
                Arrived::Schema(header) => match self.decoder.schema(&header) {
                    Ok(None) => {}
                    Ok(Some(message)) => {
                        let partition = wire::key_of(&self.output);
                        return Poll::Ready(Err(refused(Error::ColumnsDiffer {
                            partition,
                            message,
                        })));
                    }
                    Err(message) => return Poll::Ready(Err(self.damaged(message))),
                },
                Arrived::Dictionary { header, body } => {
                    let taken = self.decoder.dictionary(&header, body);
                    taken.map_err(|message| self.damaged(message))?;
                }
                Arrived::Batch { header, body, said } => {
                    let rows = said.rows;
                    let batch = self.decoder.batch(&header, body, said);
                    let batch = batch.map_err(|message| self.damaged(message))?;
                    self.batches += 1;
                    self.rows += rows;
                    return Poll::Ready(Ok(Some(batch)));
                }
                Arrived::End(end) => return Poll::Ready(self.check_complete(end).map(|()| None)),
                Arrived::Failed(failure) => {
                    let fault = match failure.is_missing {
                        true => FetchFault::Missing,
                        false => FetchFault::Refused,
                    };
                    let error = wire::reported_error(failure, &self.output);
                    return Poll::Ready(Err(FetchFailure { fault, error }));
                }
            }
        }
    }

    fn check_complete(&self, end: FetchEnd) -> Result<(), FetchFailure> {
        let batches = self.output.start_batch + self.batches;
        if (batches, self.rows) == (end.batches, end.rows) {
            return Ok(());
        }
        Err(self.damaged(format!(
            "an output ended after {} rows up to batch {batches}, {} up to batch {} were sent",
            self.rows, end.rows, end.batches
        )))
    }

    fn damaged(&self, message: String) -> FetchFailure {
        refused(Error::TransferDamaged { address: self.output.address.clone(), message })
    }
}

fn refused(error: Error) -> FetchFailure {
    FetchFailure { fault: FetchFault::Refused, error }
}

impl Stream for SlotStream {
    type Item = Result<RecordBatch, FetchFailure>;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_done {
            return Poll::Ready(None);
        }
        let outcome = ready!(self.poll_batch(ctx));
        if !matches!(outcome, Ok(Some(_))) {
            self.is_done = true;
            self.slot = None;
        }
        Poll::Ready(outcome.transpose())
    }
}

impl fmt::Debug for Shared {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("channels", &self.channels).finish_non_exhaustive()
    }
}
