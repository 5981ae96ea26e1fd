//! Reads the outputs of a query's last stage, and goes on where one is lost.
//!
//! Rows that were passed on cannot be taken back. An output that was being passed on when its worker
//! died is made again, and reading goes on behind the rows that were passed on already. That is
//! right if it has the same rows in the same order every time ([`Resume::Exact`]), or if it is sorted
//! and what was passed on of the last key is remembered ([`Resume::Sorted`], [`super::ties`]). Any
//! other output is first brought whole into the coordinator's own store, and passed on from there.
//!
//! An output that can be gone on with is read while it is still made: its rows flow. If that fails,
//! nothing is lost but time: it is read again when it is sealed, or when the next attempt begins.
//!
//! What lies in the coordinator's own store has no other reader, who lets go of it on the way; and
//! those who write it there hold little in memory (`result_memory_bytes`). So the memory of a result
//! is bounded, however long it is and however slow its client.
//!
//! **Invariant:** a row is passed on once. The stream ends well only after the scheduler said that
//! the query has finished and all rows of all outputs were passed on.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt};
use skep_engine::Deadline;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::debug;

use super::Shared;
use super::driver::{Notice, Request, TaskOperators};
use super::failure::failure_error;
use super::ties::{Differs, Ties};
use crate::cache::UseGuard;
use crate::error::Error;
use crate::exchange::fetch::{FetchFailure, FetchStream, RemoteOutput, TaskFetcher};
use crate::ids::{Attempt, QueryId};
use crate::scheduler::{CancelCause, Event, FetchFault, QueryFailure, TaskAttempt};
use crate::stage_planner::Resume;
use crate::store::{PartitionKey, Readers, StorageLevel, WriterKey, WriterSpec};

/// For how long an output is not looked for that was not there yet; each time twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How much is remembered of rows with the same key, at most. Where there are more of them, rows
/// flow again when the output is sealed.
const MAX_TIES_BYTES: usize = 8 << 20;

/// Reads the result of one query. Dropped before its end, it cancels the query.
#[derive(Debug)]
pub(super) struct ResultReader {
    lease: Lease,
    schema: SchemaRef,
    fetcher: Arc<dyn TaskFetcher>,
    notices: mpsc::UnboundedReceiver<Notice>,
    /// How an output is gone on with that is made again.
    resume: Resume,
    /// What that takes, if the output is sorted.
    ties: Option<Ties>,
    /// Whether rows were passed on that `ties` does not know of.
    is_settled: bool,
    /// By result partition: rows passed on so far.
    passed: Vec<u64>,
    /// By result partition: whether all of it is here, or has been passed on.
    is_fetched: Vec<bool>,
    /// Outputs that can be read, in the order in which they became ready.
    ready: VecDeque<Output>,
    /// The output that is read just now; none once it is withdrawn.
    current: Option<TaskAttempt>,
    /// Its rows, once it is sealed.
    current_rows: Option<u64>,
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
    /// Its rows, once it is sealed.
    rows: Option<u64>,
    /// How often it was looked for in vain while it was said to be made.
    tries: u32,
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
pub(super) struct Lease {
    shared: Arc<Shared>,
    query: QueryId,
    deadline: Option<Arc<Deadline>>,
    is_over: bool,
    /// The cached tables that the query reads.
    _tables: Vec<UseGuard>,
}

impl Lease {
    pub(super) fn new(
        shared: Arc<Shared>,
        query: QueryId,
        deadline: Option<Arc<Deadline>>,
    ) -> Self {
        Self { shared, query, deadline, is_over: false, _tables: Vec::new() }
    }

    /// Holds cached tables for as long as the query runs.
    pub(super) fn using(mut self, tables: Vec<UseGuard>) -> Self {
        self._tables = tables;
        self
    }

    /// Takes note that the query has ended by itself.
    pub(super) fn end(&mut self) {
        self.is_over = true;
    }
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
        let is_late = self.deadline.as_ref().is_some_and(|deadline| deadline.is_past());
        let cause = if is_late { CancelCause::Late } else { CancelCause::Unwanted };
        let cancel = Request::Event(Event::Cancel { query: self.query, cause });
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
        lease: Lease,
        (schema, partition_count): (SchemaRef, usize),
        resume: Resume,
        notices: mpsc::UnboundedReceiver<Notice>,
        fetcher: Arc<dyn TaskFetcher>,
    ) -> Self {
        let ties = match &resume {
            Resume::Sorted(order) => Ties::new(&schema, order.clone(), MAX_TIES_BYTES),
            Resume::Exact | Resume::Never => None,
        };
        Self {
            lease,
            schema,
            fetcher,
            notices,
            resume,
            ties,
            is_settled: false,
            passed: vec![0; partition_count],
            is_fetched: vec![false; partition_count],
            ready: VecDeque::new(),
            current: None,
            current_rows: None,
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
            while let Some(output) = self.next_ready() {
                self.current = Some(output.result);
                self.current_rows = output.rows;
                let is_lent = output.address.is_none() || self.resume == Resume::Exact;
                let batches = match is_lent {
                    true => Ok(self.open(&output)),
                    false => self.bring(&output).await?,
                };
                match batches {
                    Ok(batches) => {
                        if let Some(ties) = &mut self.ties {
                            ties.begin();
                        }
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

    /// Returns the next output to read: one that is whole, or else one that is still made.
    fn next_ready(&mut self) -> Option<Output> {
        let sealed = self.ready.iter().position(|output| output.rows.is_some());
        self.ready.remove(sealed.unwrap_or(0))
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
                Some(Err(failure)) if reading.is_lent && self.current_rows.is_none() => {
                    self.look_again(reading.output, failure).await?;
                    return Ok(None);
                }
                Some(Err(failure)) => {
                    self.end(&reading.output, End::Failed(failure)).await?;
                    return Ok(None);
                }
                None if reading.is_lent => {
                    self.complete(&reading.output, reading.rows).await?;
                    return Ok(None);
                }
                None => return Ok(None),
            };
            let fresh = self.fresh(&mut reading, batch)?;
            if fresh.num_rows() == 0 {
                continue;
            }
            if !self.can_pass(&fresh).await? {
                self.end(&reading.output, End::Withdrawn).await?;
                return Ok(None);
            }
            self.passed[reading.output.result.task.partition] += fresh.num_rows() as u64;
            if reading.is_lent {
                // Said before the rows are gone.
                let (result, rows) = (reading.output.result, reading.rows);
                self.tell(Event::ResultDelivered { result, rows }).await?;
            }
            self.reading = Some(reading);
            return Ok(Some(fresh));
        }
    }

    /// Returns those of the next rows of an output that were not passed on before.
    fn fresh(&mut self, reading: &mut Reading, batch: RecordBatch) -> Result<RecordBatch> {
        let before = reading.rows;
        reading.rows += batch.num_rows() as u64;
        if let Some(ties) = &mut self.ties {
            let fresh = ties.fresh(batch, before)?;
            return fresh.map_err(|Differs| has_left());
        }
        // Passed on before its worker was lost.
        let known = self.passed[reading.output.result.task.partition].saturating_sub(before);
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(batch.num_rows());
        Ok(batch.slice(known, batch.num_rows() - known))
    }

    /// Makes sure that reading can go on behind these rows, if need be by waiting until the output
    /// cannot be lost any more. Returns whether the output is still there.
    async fn can_pass(&mut self, fresh: &RecordBatch) -> Result<bool> {
        let Some(ties) = &mut self.ties else { return Ok(true) };
        if self.current_rows.is_none() && !self.is_settled && ties.try_pass(fresh)? {
            return Ok(true);
        }
        let is_there = self.wait_until_sealed().await?;
        self.is_settled |= is_there;
        Ok(is_there)
    }

    /// Waits until the output that is read is sealed. Returns whether it was, and not withdrawn.
    async fn wait_until_sealed(&mut self) -> Result<bool> {
        while self.current_rows.is_none() && self.current.is_some() {
            let notice = self.notices.recv().await;
            self.take(notice)?;
        }
        Ok(self.current.is_some())
    }

    /// Ends the reading of an output of which all rows came.
    async fn complete(&mut self, output: &Output, rows: u64) -> Result<()> {
        // Its last row may come before the word that it is sealed.
        if !self.wait_until_sealed().await? {
            return self.end(output, End::Withdrawn).await;
        }
        check_rows(output, self.current_rows, rows)?;
        self.end(output, End::Complete).await
    }

    /// Waits for an output that could not be read while it is made: a moment if it has not begun,
    /// until it is sealed if its site cannot be reached.
    async fn look_again(&mut self, output: Output, failure: FetchFailure) -> Result<()> {
        debug!(result = %output.result, error = %failure, "result output is not read yet");
        if failure.fault == FetchFault::Missing {
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(output.tries);
            tokio::select! {
                notice = self.notices.recv() => self.take(notice)?,
                () = tokio::time::sleep(pause.min(LONGEST_PAUSE)) => {}
            }
        }
        let is_wanted = self.current.take().is_some();
        if is_wanted && (failure.fault == FetchFault::Missing || self.current_rows.is_some()) {
            let tries = output.tries.saturating_add(1);
            self.ready.push_back(Output { rows: self.current_rows, tries, ..output });
        }
        Ok(())
    }

    /// Begins to read an output where it is.
    fn open(&self, output: &Output) -> FetchStream {
        let Output { result, address, rows, .. } = output;
        let is_growing = rows.is_none();
        match address {
            Some(address) => {
                let wanted = RemoteOutput {
                    address: address.clone(),
                    producer: *result,
                    output: 0,
                    start_batch: 0,
                    cached: None,
                    is_growing,
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
                self.open_here(&key.output(0), is_growing)
            }
        }
    }

    fn open_here(&self, key: &PartitionKey, is_growing: bool) -> FetchStream {
        let missing = |error| FetchFailure { fault: FetchFault::Missing, error };
        let store = &self.lease.shared.store;
        match if is_growing { store.read_growing(key) } else { store.read(key, 0) } {
            Ok(reader) => reader.letting_go().map(move |batch| batch.map_err(missing)).boxed(),
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
        writer.hold_at_most(self.lease.shared.options.result_memory_bytes);
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
        check_rows(output, output.rows, rows)?;
        writer.seal().await?;
        self.end(output, End::Complete).await?;
        Ok(Ok(self.open_here(&key.output(0), false)))
    }

    async fn end(&mut self, output: &Output, end: End) -> Result<()> {
        self.current = None;
        let Output { result, .. } = output;
        let has_passed = self.passed[result.task.partition] > 0;
        let can_go_on = self.resume == Resume::Exact || (self.ties.is_some() && !self.is_settled);
        if has_passed && !can_go_on && !matches!(end, End::Complete) {
            let query = result.task.query;
            let cancel = Event::Cancel { query, cause: CancelCause::Unwanted };
            self.tell(cancel).await?;
            return Err(has_left());
        }
        match end {
            End::Complete => {
                self.is_fetched[result.task.partition] = true;
                self.tell(Event::ResultFetched { result: *result }).await
            }
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
            // Made again by those who had not heard yet that it was fetched.
            Some(Notice::Begun { result, .. } | Notice::Ready { result, .. })
                if self.is_fetched.get(result.task.partition) == Some(&true) => {}
            Some(Notice::Begun { result, address }) => {
                let flows = match self.resume {
                    Resume::Exact => true,
                    // Only what is made here stays where it is once it is sealed.
                    Resume::Sorted(_) => self.ties.is_some() && address.is_none(),
                    Resume::Never => false,
                };
                if flows {
                    self.ready.push_back(Output { result, address, rows: None, tries: 0 });
                }
            }
            Some(Notice::Ready { result, address, rows }) => {
                let rows = Some(rows);
                if self.current == Some(result) {
                    self.current_rows = rows;
                } else if let Some(known) = self.ready.iter_mut().find(|it| it.result == result) {
                    known.rows = rows;
                } else {
                    self.ready.push_back(Output { result, address, rows, tries: 0 });
                }
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

/// Rows that were passed on would have to be taken back.
fn has_left() -> DataFusionError {
    failure_error(QueryFailure::rows_have_left()).into()
}

/// The driver is gone, which happens when the process ends.
fn ended() -> DataFusionError {
    DataFusionError::from(skep_engine::Error::Cancelled)
}

fn check_rows(output: &Output, sealed: Option<u64>, rows: u64) -> Result<()> {
    if sealed == Some(rows) {
        return Ok(());
    }
    let message = format!("{rows} rows of {} were read, not {sealed:?}", output.result);
    Err(Error::internal(message).into())
}

#[cfg(test)]
#[path = "result_test.rs"]
mod tests;
