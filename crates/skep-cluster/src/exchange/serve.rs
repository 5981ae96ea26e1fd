//! The keeper's end of a fetch: one stream that carries many stored outputs.
//!
//! The stream is a state machine that gRPC polls when it has room for a message; it owns everything
//! that works for it, so that it stops when gRPC drops it, and no queue stands between.
//!
//! Each output has a slot with credit of its own. A slot whose credit is above zero may send a
//! batch, however large, and goes on while credit is left; slots take turns. A read of a file holds
//! up its own slot, and others only while [`ServeConfig::reads_per_stream`] reads run; so does the
//! wait for what is not written yet.
//!
//! **Invariant:** an end is sent after the last batch and only if the store gave all of them; what
//! goes wrong before is an error of the slot, or of the stream.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_flight::FlightData;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result as DataFusionResult;
use futures::future::{AbortHandle, Abortable};
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{Stream, StreamExt, ready};
use skep_engine::decode_cached;
use skep_proto::cluster::fetch_request::Request;
use skep_proto::cluster::fetch_response::Content;
use skep_proto::cluster::{FetchEnd, FetchOpen};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::config::{ExchangeCompression, ServeConfig};
use super::ipc::{Encoding, SlotEncoder};
use super::wire::{self, Response};
use crate::error::{Error, Result};
use crate::store::{PartitionKey, PartitionReader, PartitionStore};

/// Answers that wait before requests wait too.
const OUTBOX_LENGTH: usize = 256;

/// Where the reader of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderPlace {
    /// On this machine.
    SameMachine,
    /// Somewhere else, or unknown.
    Elsewhere,
}

/// Serves the outputs of a store. Cheap to clone; all clones have the same bounds.
#[derive(Debug, Clone)]
pub struct ExchangeServer {
    store: PartitionStore,
    config: Arc<ServeConfig>,
    streams: Arc<Semaphore>,
}

impl ExchangeServer {
    /// Makes a server.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a bound of zero.
    pub fn new(store: PartitionStore, config: ServeConfig) -> Result<Self> {
        config.check()?;
        let streams = config.max_streams.min(Semaphore::MAX_PERMITS);
        let streams = Arc::new(Semaphore::new(streams));
        Ok(Self { store, config: Arc::new(config), streams })
    }

    /// Answers a reader's stream of requests.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there are too many streams.
    pub fn exchange<S>(&self, requests: S, reader: ReaderPlace) -> Result<ExchangeStream, Status>
    where
        S: Stream<Item = Result<FlightData, Status>> + Send + 'static,
    {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_full| {
            let limit = self.config.max_streams;
            Status::resource_exhausted(format!("all {limit} exchange streams are in use"))
        })?;
        let is_compressed = match (self.config.compression, reader) {
            (ExchangeCompression::Lz4, _) => true,
            (ExchangeCompression::Auto, ReaderPlace::Elsewhere) => true,
            (ExchangeCompression::Auto, ReaderPlace::SameMachine) => false,
            (ExchangeCompression::None, _) => false,
        };
        let encoding = Encoding::new(is_compressed)
            .map_err(|error| Status::internal(format!("cannot encode batches: {error}")))?;
        Ok(ExchangeStream {
            requests: requests.boxed(),
            store: self.store.clone(),
            config: Arc::clone(&self.config),
            encoding,
            slots: HashMap::new(),
            turn: VecDeque::new(),
            reads: FuturesUnordered::new(),
            outbox: VecDeque::new(),
            is_done: false,
            _permit: permit,
        })
    }

    /// Returns how many streams are open.
    pub fn open_streams(&self) -> usize {
        self.config.max_streams.saturating_sub(self.streams.available_permits())
    }
}

/// The answers to one reader.
pub struct ExchangeStream {
    requests: BoxStream<'static, Result<FlightData, Status>>,
    store: PartitionStore,
    config: Arc<ServeConfig>,
    encoding: Encoding,
    slots: HashMap<u32, Slot>,
    /// Slots that may be read and wait for their turn.
    turn: VecDeque<u32>,
    reads: FuturesUnordered<Abortable<ReadNext>>,
    /// What the last batch became; nothing is read while something is in it.
    outbox: VecDeque<Response>,
    is_done: bool,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Slot {
    credit: i64,
    place: Place,
}

/// Where a slot's feed is.
#[derive(Debug)]
enum Place {
    /// Waits for credit.
    Idle(Box<Feed>),
    /// In `turn`.
    Queued(Box<Feed>),
    /// In `reads`.
    Reading(AbortHandle),
}

/// What a slot sends.
#[derive(Debug)]
struct Feed {
    reader: PartitionReader,
    /// Of a cached table, what is sent of each batch.
    columns: Option<Columns>,
    encoder: SlotEncoder,
    /// The next batch, counted from the beginning of the output.
    position: u64,
    rows: u64,
}

/// What is sent of the batches of a cached table.
#[derive(Debug)]
struct Columns {
    columns: Vec<usize>,
    schema: SchemaRef,
    /// Whether the batches are as they are kept, each encoded for itself.
    is_encoded: bool,
}

impl Columns {
    fn of(&self, batch: &RecordBatch) -> DataFusionResult<RecordBatch> {
        match self.is_encoded {
            true => decode_cached(batch, &self.columns, &self.schema),
            false => Ok(batch.project(&self.columns)?),
        }
    }
}

impl Feed {
    /// Whether only the end is left, which costs nothing.
    fn is_at_end(&self) -> bool {
        self.position >= self.reader.counts().batches
    }
}

struct ReadNext {
    slot: u32,
    feed: Option<Box<Feed>>,
}

impl Future for ReadNext {
    type Output = (u32, Box<Feed>, Option<Result<RecordBatch>>);

    fn poll(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Self::Output> {
        let slot = self.slot;
        let Some(feed) = &mut self.feed else { return Poll::Pending };
        let next = ready!(feed.reader.poll_next_unpin(ctx));
        match self.feed.take() {
            Some(feed) => Poll::Ready((slot, feed, next)),
            None => Poll::Pending,
        }
    }
}

impl ExchangeStream {
    /// Does what was asked for; returns whether more may be asked.
    fn take_requests(&mut self, ctx: &mut Context<'_>) -> Result<bool, Status> {
        // Each may be answered at once; the rest is taken when that is sent.
        while self.outbox.len() < OUTBOX_LENGTH {
            let request = match self.requests.poll_next_unpin(ctx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(None) => return Ok(false),
                Poll::Ready(Some(request)) => request?,
            };
            match wire::decode_request(request).map_err(Status::data_loss)? {
                Request::Open(open) => self.open(open)?,
                Request::Credit(credit) => self.add_credit(credit.slot, credit.bytes),
                Request::Close(close) => self.close(close.slot),
            }
        }
        Ok(true)
    }

    fn open(&mut self, open: FetchOpen) -> Result<(), Status> {
        let slot = open.slot;
        if self.slots.contains_key(&slot) {
            return Err(Status::invalid_argument(format!("slot {slot} is open already")));
        }
        let Some(key) = wire::requested_key(&open) else {
            return Err(Status::invalid_argument("a request names no output"));
        };
        let limit = self.config.max_slots_per_stream;
        let cached = wire::requested_columns(&open).map_err(Status::invalid_argument)?;
        let opened = if self.slots.len() >= limit {
            Err(Error::SlotLimit { limit })
        } else if open.is_growing {
            self.store.read_growing(&key).map(|reader| (reader, None))
        } else {
            self.open_reader(&key, cached, open.start_batch)
        };
        let (reader, columns) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.outbox.push_back(Response::bare(slot, wire::error_content(&error)));
                return Ok(());
            }
        };
        let shown = columns.as_ref().map_or_else(|| reader.schema(), |it| Arc::clone(&it.schema));
        let (encoder, schema) = SlotEncoder::new(slot, &shown, &self.encoding);
        self.outbox.push_back(schema);
        let feed = Box::new(Feed { reader, columns, encoder, position: open.start_batch, rows: 0 });
        self.slots.insert(slot, Slot { credit: 0, place: Place::Idle(feed) });
        self.add_credit(slot, open.credit);
        Ok(())
    }

    /// Opens what is asked for. A partition of a cached table is kept as such, or was made for one
    /// query alone and lies where the output of its task would.
    fn open_reader(
        &self,
        key: &PartitionKey,
        cached: Option<(PartitionKey, Vec<usize>)>,
        start: u64,
    ) -> Result<(PartitionReader, Option<Columns>)> {
        let Some((kept, columns)) = cached else {
            return Ok((self.store.read(key, start)?, None));
        };
        let (reader, is_encoded) = match self.store.read(&kept, start) {
            Ok(reader) => (reader, true),
            Err(missing @ Error::PartitionNotFound { .. }) => match self.store.read(key, start) {
                Ok(reader) => (reader, false),
                Err(_) => return Err(missing),
            },
            Err(error) => return Err(error),
        };
        let schema = reader.schema().project(&columns).map_err(|error| {
            Error::internal(format!("columns of \"{kept}\" that it has not: {error}"))
        })?;
        Ok((reader, Some(Columns { columns, schema: Arc::new(schema), is_encoded })))
    }

    fn add_credit(&mut self, slot: u32, bytes: u64) {
        // A slot that is not there has ended while the credit was on its way.
        let Some(mut state) = self.slots.remove(&slot) else { return };
        state.credit = state.credit.saturating_add(bytes.min(i64::MAX as u64) as i64);
        match state.place {
            Place::Idle(feed) => self.park(slot, state.credit, feed),
            Place::Queued(_) | Place::Reading(_) => {
                self.slots.insert(slot, state);
            }
        }
    }

    /// Puts a feed where its credit says.
    fn park(&mut self, slot: u32, credit: i64, feed: Box<Feed>) {
        let place = if credit > 0 || feed.is_at_end() {
            self.turn.push_back(slot);
            Place::Queued(feed)
        } else {
            Place::Idle(feed)
        };
        self.slots.insert(slot, Slot { credit, place });
    }

    fn close(&mut self, slot: u32) {
        if let Some(Slot { place: Place::Reading(handle), .. }) = self.slots.remove(&slot) {
            handle.abort();
        }
    }

    /// Begins reads while there is room for them.
    fn take_turns(&mut self) {
        while self.reads.len() < self.config.reads_per_stream
            && let Some(slot) = self.turn.pop_front()
        {
            let Some(state) = self.slots.get_mut(&slot) else { continue };
            let (handle, registration) = AbortHandle::new_pair();
            match std::mem::replace(&mut state.place, Place::Reading(handle)) {
                Place::Queued(feed) => {
                    let read = ReadNext { slot, feed: Some(feed) };
                    self.reads.push(Abortable::new(read, registration));
                }
                // A slot was closed and its number used anew: its own turn is elsewhere in line.
                other => state.place = other,
            }
        }
    }

    fn send(&mut self, slot: u32, mut feed: Box<Feed>, next: Option<Result<RecordBatch>>) {
        let Some(state) = self.slots.remove(&slot) else { return };
        let content = match next {
            None => Content::End(FetchEnd { batches: feed.position, rows: feed.rows }),
            Some(Err(error)) => wire::error_content(&error),
            Some(Ok(batch)) => match self.encode(&mut feed, &batch) {
                Ok(messages) => {
                    let cost: u64 = messages.iter().map(Response::cost).sum();
                    self.outbox.extend(messages);
                    feed.position += 1;
                    feed.rows += batch.num_rows() as u64;
                    let credit = state.credit.saturating_sub(cost.min(i64::MAX as u64) as i64);
                    self.park(slot, credit, feed);
                    return;
                }
                Err(error) => wire::error_content(&error),
            },
        };
        self.outbox.push_back(Response::bare(slot, content));
    }

    fn encode(&mut self, feed: &mut Feed, batch: &RecordBatch) -> Result<Vec<Response>> {
        let shown = feed.columns.as_ref().map(|columns| columns.of(batch)).transpose();
        let shown = shown.map_err(|error| Error::PartitionDamaged {
            partition: feed.reader.counts().partition.clone(),
            message: format!("a batch cannot be decoded: {error}"),
        })?;
        let batch = shown.as_ref().unwrap_or(batch);
        let partition = || feed.reader.counts().partition.clone();
        let messages = feed.encoder.encode(batch, &mut self.encoding).map_err(|message| {
            Error::internal(format!("cannot encode a batch of \"{}\": {message}", partition()))
        })?;
        let limit = self.config.max_message_bytes as u64;
        let largest = messages.iter().map(Response::cost).max().unwrap_or_default();
        match largest > limit {
            true => Err(Error::MessageTooLarge { partition: partition(), bytes: largest, limit }),
            false => Ok(messages),
        }
    }
}

impl Stream for ExchangeStream {
    type Item = Result<FlightData, Status>;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = &mut *self;
        loop {
            if stream.is_done {
                return Poll::Ready(None);
            }
            match stream.take_requests(ctx) {
                Ok(true) => {}
                // The reader has all that it wants.
                Ok(false) => {
                    stream.finish();
                    return Poll::Ready(None);
                }
                Err(status) => {
                    stream.finish();
                    return Poll::Ready(Some(Err(status)));
                }
            }
            if let Some(message) = stream.outbox.pop_front() {
                return Poll::Ready(Some(Ok(message.encode())));
            }
            stream.take_turns();
            match stream.reads.poll_next_unpin(ctx) {
                // A new turn may be waiting for the place of one that was given up.
                Poll::Ready(Some(Err(_aborted))) => {}
                Poll::Ready(Some(Ok((slot, feed, next)))) => stream.send(slot, feed, next),
                // The next request wakes this.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl ExchangeStream {
    fn finish(&mut self) {
        self.is_done = true;
        self.slots.clear();
        self.turn.clear();
        self.reads.clear();
        self.outbox.clear();
        self.requests = futures::stream::empty().boxed();
    }
}

impl fmt::Debug for ExchangeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeStream")
            .field("slots", &self.slots.len())
            .field("is_done", &self.is_done)
            .finish_non_exhaustive()
    }
}
