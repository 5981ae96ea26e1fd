//! Reads the outputs of a query's last stage, and starts over where one is lost.
//!
//! Rows that were passed on cannot be taken back. An output that was being passed on when its worker
//! died is made again, and reading goes on behind the rows that were passed on already; that is
//! right only if it has the same rows in the same order every time. Where it may not have (it read
//! several producers, whose rows come in any order, or sorted with ties), the whole output is first brought into the
//! coordinator's own store, and passed on from there.
//!
//! **Invariant:** a row is passed on once. The stream ends well only after the scheduler said that
//! the query has finished and all rows of all outputs were passed on.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::debug;

use super::Shared;
use super::driver::{Notice, Request, TaskOperators};
use super::failure::failure_error;
use crate::error::Error;
use crate::exchange::fetch::{FetchFailure, FetchStream, RemoteOutput, TaskFetcher};
use crate::ids::{Attempt, QueryId};
use crate::scheduler::{Event, FetchFault, QueryFailure, TaskAttempt};
use crate::store::{PartitionKey, Readers, StorageLevel, WriterKey, WriterSpec};

/// Reads the result of one query. Dropped before its end, it cancels the query.
#[derive(Debug)]
pub(super) struct ResultReader {
    lease: Lease,
    schema: SchemaRef,
    fetcher: Arc<dyn TaskFetcher>,
    notices: mpsc::UnboundedReceiver<Notice>,
    /// Whether each output has the same rows in the same order whenever it is made.
    is_repeatable: bool,
    /// By result partition: rows passed on so far.
    passed: Vec<u64>,
    /// Outputs that can be read, in the order in which they became ready.
    ready: VecDeque<Output>,
    /// The output that is read just now; none once it is withdrawn.
    current: Option<TaskAttempt>,
    reading: Option<Reading>,
    brought_count: u32,
    is_finished: bool,
    operators: Vec<TaskOperators>,
}

/// An output that can be read.
#[derive(Debug, Clone)]
struct Output {
    result: TaskAttempt,
    address: Option<String>,
    rows: u64,
}

/// An output that is being passed on.
struct Reading {
    output: Output,
    batches: FetchStream,
    rows: u64,
    /// Whether it is read from where it can be lost.
    is_lent: bool,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("output", &self.output).finish_non_exhaustive()
    }
}

/// What ended the reading of an output.
#[derive(Debug)]
enum End {
    Complete,
    Withdrawn,
    Failed(FetchFailure),
}

/// The query's hold on the cluster, given up when it is dropped.
#[derive(Debug)]
struct Lease {
    shared: Arc<Shared>,
    query: QueryId,
    is_over: bool,
}

/// The name under which a query's outputs are brought here: the end of the query itself must not end
/// their lease.
fn brought(query: QueryId) -> QueryId {
    QueryId(query.0 | 1 << 63)
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.store.end_query(brought(self.query), Readers::Finish);
        if self.is_over {
            return;
        }
        let cancel = Request::Event(Event::Cancel { query: self.query });
        if let Err(mpsc::error::TrySendError::Full(cancel)) = self.shared.requests.try_send(cancel)
            && let Ok(runtime) = Handle::try_current()
        {
            let requests = self.shared.requests.clone();
            // The driver empties its queue at once; if it has ended, so have all queries.
            drop(runtime.spawn(async move { drop(requests.send(cancel).await) }));
        }
    }
}

impl ResultReader {
    pub(super) fn new(
        (shared, query): (Arc<Shared>, QueryId),
        (schema, partition_count): (SchemaRef, usize),
        is_repeatable: bool,
        notices: mpsc::UnboundedReceiver<Notice>,
        fetcher: Arc<dyn TaskFetcher>,
    ) -> Self {
        Self {
            lease: Lease { shared, query, is_over: false },
            schema,
            fetcher,
            notices,
            is_repeatable,
            passed: vec![0; partition_count],
            ready: VecDeque::new(),
            current: None,
            reading: None,
            brought_count: 0,
            is_finished: false,
            operators: Vec::new(),
        }
    }

    /// Reads the whole result and throws it away; returns the figures of all tasks, if the query
    /// kept them.
    ///
    /// # Errors
    /// Whatever ended the query.
    pub(super) async fn drain(mut self) -> Result<Vec<TaskOperators>> {
        while self.next().await?.is_some() {}
        Ok(std::mem::take(&mut self.operators))
    }

    /// Makes it the stream of the query's rows.
    pub(super) fn into_stream(self) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        Box::pin(RecordBatchStreamAdapter::new(schema, self.batches()))
    }

    fn batches(self) -> impl Stream<Item = Result<RecordBatch>> + Send {
        futures::stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|batch| (batch, reader)))
        })
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let Some(reading) = self.reading.take() else {
                match self.begin().await? {
                    Some(begun) => self.reading = Some(begun),
                    None => return Ok(None),
                }
                continue;
            };
            if let Some(batch) = self.step(reading).await? {
                return Ok(Some(batch));
            }
        }
    }

    /// Waits for an output to read; `None` when the query has finished.
    async fn begin(&mut self) -> Result<Option<Reading>> {
        loop {
            while let Some(output) = self.ready.pop_front() {
                self.current = Some(output.result);
                let is_lent = output.address.is_none() || self.is_repeatable;
                let batches = match is_lent {
                    true => Ok(self.open(&output)),
                    false => self.bring(&output).await?,
                };
                match batches {
                    Ok(batches) => {
                        return Ok(Some(Reading { output, batches, rows: 0, is_lent }));
                    }
                    Err(end) => self.end(&output, end).await?,
                }
            }
            if self.is_finished {
                return Ok(None);
            }
            let notice = self.notices.recv().await;
            self.take(notice)?;
        }
    }

    /// Passes on the next batch of an output; `None` if that output ended.
    async fn step(&mut self, mut reading: Reading) -> Result<Option<RecordBatch>> {
        loop {
            let next = tokio::select! {
                biased;
                notice = self.notices.recv(), if !self.is_finished => {
                    self.take(notice)?;
                    if reading.is_lent && self.current.is_none() {
                        self.end(&reading.output, End::Withdrawn).await?;
                        return Ok(None);
                    }
                    continue;
                }
                next = reading.batches.next() => next,
            };
            let batch = match next {
                Some(Ok(batch)) => batch,
                Some(Err(failure)) => {
                    self.end(&reading.output, End::Failed(failure)).await?;
                    return Ok(None);
                }
                None => {
                    check_rows(&reading.output, reading.rows)?;
                    if reading.is_lent {
                        self.end(&reading.output, End::Complete).await?;
                    }
                    return Ok(None);
                }
            };
            let before = reading.rows;
            reading.rows += batch.num_rows() as u64;
            let partition = reading.output.result.task.partition;
            // Passed on before its worker was lost.
            let known = self.passed[partition].saturating_sub(before);
            if batch.num_rows() == 0 || known >= batch.num_rows() as u64 {
                continue;
            }
            let skipped = usize::try_from(known).unwrap_or(usize::MAX);
            let fresh = batch.slice(skipped, batch.num_rows() - skipped);
            self.passed[partition] = reading.rows;
            if reading.is_lent {
                // Said before the rows are gone.
                let (result, rows) = (reading.output.result, reading.rows);
                self.tell(Event::ResultDelivered { result, rows }).await?;
            }
            self.reading = Some(reading);
            return Ok(Some(fresh));
        }
    }

    /// Begins to read an output where it is.
    fn open(&self, output: &Output) -> FetchStream {
        let Output { result, address, .. } = output;
        match address {
            Some(address) => {
                let wanted = RemoteOutput {
                    address: address.clone(),
                    producer: *result,
                    output: 0,
                    start_batch: 0,
                };
                self.fetcher.open(wanted, Arc::clone(&self.schema))
            }
            None => {
                let key = WriterKey::Exchange {
                    query: result.task.query,
                    stage: result.task.stage,
                    producer: result.task.partition,
                    attempt: result.attempt,
                };
                self.open_here(&key.output(0))
            }
        }
    }

    fn open_here(&self, key: &PartitionKey) -> FetchStream {
        let missing = |error| FetchFailure { fault: FetchFault::Missing, error };
        match self.lease.shared.store.read(key, 0) {
            Ok(reader) => reader.map(move |batch| batch.map_err(missing)).boxed(),
            Err(error) => futures::stream::iter([Err(missing(error))]).boxed(),
        }
    }

    /// Brings an output into the coordinator's store, so that nothing can happen to it any more.
    async fn bring(&mut self, output: &Output) -> Result<Result<FetchStream, End>> {
        self.brought_count += 1;
        let key = WriterKey::Exchange {
            query: brought(self.lease.query),
            stage: output.result.task.stage,
            producer: output.result.task.partition,
            attempt: Attempt(self.brought_count),
        };
        let spec = WriterSpec {
            key: key.clone(),
            schema: Arc::clone(&self.schema),
            output_count: 1,
            level: StorageLevel::MemoryAndDisk,
        };
        let mut writer = self.lease.shared.store.writer(spec)?;
        let mut batches = self.open(output);
        let mut rows = 0;
        loop {
            let next = tokio::select! {
                biased;
                notice = self.notices.recv() => {
                    self.take(notice)?;
                    match self.current {
                        None => return Ok(Err(End::Withdrawn)),
                        Some(_) => continue,
                    }
                }
                next = batches.next() => next,
            };
            match next {
                Some(Ok(batch)) => {
                    rows += batch.num_rows() as u64;
                    writer.append(0, batch).await?;
                }
                Some(Err(failure)) => return Ok(Err(End::Failed(failure))),
                None => break,
            }
        }
        check_rows(output, rows)?;
        writer.seal().await?;
        self.end(output, End::Complete).await?;
        Ok(Ok(self.open_here(&key.output(0))))
    }

    async fn end(&mut self, output: &Output, end: End) -> Result<()> {
        self.current = None;
        let Output { result, .. } = output;
        let has_left = self.passed[result.task.partition] > 0;
        if has_left && !self.is_repeatable && !matches!(end, End::Complete) {
            let query = result.task.query;
            let cancel = Event::Cancel { query };
            self.tell(cancel).await?;
            return Err(failure_error(QueryFailure::rows_have_left()).into());
        }
        match end {
            End::Complete => self.tell(Event::ResultFetched { result: *result }).await,
            End::Withdrawn => Ok(()),
            End::Failed(FetchFailure { fault, error }) => {
                debug!(%result, %error, "result output is not read");
                let message = error.to_string();
                self.tell(Event::ResultFetchFailed { result: *result, fault, message }).await
            }
        }
    }

    fn take(&mut self, notice: Option<Notice>) -> Result<()> {
        match notice {
            Some(Notice::Ready { result, address, rows }) => {
                self.ready.push_back(Output { result, address, rows });
            }
            Some(Notice::Withdrawn { result }) => {
                self.ready.retain(|output| output.result != result);
                self.current.take_if(|current| *current == result);
            }
            Some(Notice::Finished { operators }) => {
                self.operators = operators;
                self.is_finished = true;
                self.lease.is_over = true;
            }
            Some(Notice::Failed(failure)) => {
                self.lease.is_over = true;
                return Err(failure_error(failure).into());
            }
            None => return Err(ended()),
        }
        Ok(())
    }

    async fn tell(&mut self, event: Event) -> Result<()> {
        let sent = self.lease.shared.requests.send(Request::Event(event)).await;
        sent.map_err(|_ended| ended())
    }
}

/// The driver is gone, which happens when the process ends.
fn ended() -> DataFusionError {
    DataFusionError::from(skep_engine::Error::Cancelled)
}

fn check_rows(output: &Output, rows: u64) -> Result<()> {
    if rows == output.rows {
        return Ok(());
    }
    let message = format!("{} rows of {} were read, not {}", rows, output.result, output.rows);
    Err(Error::internal(message).into())
}
