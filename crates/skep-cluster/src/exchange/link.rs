//! The reader's end of one stream: what one task fetches from one process.
//!
//! A driver of its own takes every message off the stream as it comes and puts it into the queue
//! of its slot. It must never wait for a consumer: streams of many tasks share the window of one
//! HTTP/2 connection, and one that stood still would hold up all of them. What comes is bounded by
//! the credit that was granted instead ([`super::flow`]). Requests go the other way from what the
//! slots have to say now, without a queue: credit that is not sent yet is added up.
//!
//! **Invariant:** while slots wait for a grant beyond the budget, one slot of this link has one:
//! its batch will come, or its end, or the link fails. So somebody always goes on.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use arrow_flight::FlightData;
use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use skep_proto::cluster::fetch_request::Request;
use skep_proto::cluster::fetch_response::Content;
use skep_proto::cluster::{FetchBatch, FetchClose, FetchCredit, FetchEnd, FetchError, FetchOpen};

use super::fetch::{Arrival, RemoteOutput};
use super::flow::{Budget, SlotCredit, Wish};
use super::wire::{self, Response};
use crate::error::Error;

/// How many waiting consumers look again for room when something came.
const WOKEN_AT_ONCE: usize = 16;

/// Why a link ended.
#[derive(Debug, Clone)]
pub(super) enum LinkFailure {
    /// No connection, or no more.
    Unreachable(String),
    /// The token is wrong.
    Refused(String),
    /// A message is not what was sent.
    Damaged(String),
}

impl LinkFailure {
    pub(super) fn to_error(&self, address: &str) -> Error {
        let address = address.to_owned();
        match self.clone() {
            Self::Unreachable(message) => Error::Unreachable { address, message },
            Self::Refused(message) => Error::AccessRefused { address, message },
            Self::Damaged(message) => Error::TransferDamaged { address, message },
        }
    }
}

/// What came for a slot.
#[derive(Debug)]
pub(super) enum Arrived {
    Schema(Bytes),
    Dictionary { header: Bytes, body: Bytes },
    Batch { header: Bytes, body: Bytes, said: FetchBatch },
    End(FetchEnd),
    Failed(FetchError),
}

/// What a link holds, shared by its consumers, its driver and its stream of requests.
#[derive(Debug)]
pub(super) struct Link {
    budget: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<u32, Slot>,
    next_slot: u32,
    /// Slots that have something to say.
    talking: VecDeque<u32>,
    closing: VecDeque<u32>,
    requests: Option<Waker>,
    /// The slot that has a grant beyond the budget.
    scarce: Option<u32>,
    /// Slots that want one. Some may have got credit since, or are gone.
    waiting: VecDeque<u32>,
    last_asked: Option<Instant>,
    failure: Option<LinkFailure>,
    is_closed: bool,
}

#[derive(Debug)]
struct Slot {
    queue: VecDeque<(u64, Arrived)>,
    consumer: Option<Waker>,
    credit: SlotCredit,
    /// Not sent yet.
    to_open: Option<FetchOpen>,
    /// Not sent yet.
    to_grant: u64,
    is_waiting: bool,
    is_ended: bool,
    /// Set if it is filled ahead of its consumer, until all has come.
    arrival: Option<Arrival>,
    /// Whether its next batch may have to be made first.
    is_growing: bool,
}

impl Link {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, state: Mutex::default() }
    }

    /// Begins a slot. Nothing is asked for before it is polled, unless somebody wants to know when
    /// all has come.
    pub(super) fn open(&self, output: &RemoteOutput, arrival: Option<Arrival>) -> u32 {
        self.budget.begin_slot();
        let mut state = self.state.lock();
        let slot = state.next_slot;
        state.next_slot = slot.wrapping_add(1);
        let opened = Slot {
            queue: VecDeque::new(),
            consumer: None,
            credit: SlotCredit::new(self.budget.batch_bytes()),
            to_open: Some(wire::open_request(slot, output)),
            to_grant: 0,
            is_waiting: false,
            is_ended: false,
            arrival,
            is_growing: output.is_growing,
        };
        state.slots.insert(slot, opened);
        state.fill_ahead(slot, &self.budget);
        slot
    }

    /// Takes what came for a slot, or asks for it.
    ///
    /// # Errors
    /// Why the link ended, once everything that came before was taken.
    pub(super) fn poll(
        &self,
        number: u32,
        ctx: &mut Context<'_>,
    ) -> Poll<Result<Arrived, LinkFailure>> {
        let next = {
            let mut state = self.state.lock();
            let failure = state.failure.clone();
            let Some(slot) = state.slots.get_mut(&number) else {
                let message = "a slot was read after its end".to_owned();
                return Poll::Ready(Err(LinkFailure::Damaged(message)));
            };
            match (slot.queue.pop_front(), failure) {
                (Some((cost, arrived)), _) => {
                    slot.credit.taken(cost, &self.budget);
                    Poll::Ready(Ok(arrived))
                }
                (None, Some(failure)) => return Poll::Ready(Err(failure)),
                (None, None) => {
                    slot.consumer = Some(ctx.waker().clone());
                    Poll::Pending
                }
            }
        };
        self.refill(number);
        next
    }

    /// Asks for more, if the slot's window has room: within the budget, or else for one batch.
    fn refill(&self, number: u32) {
        let share = self.budget.share();
        let wish = {
            let state = self.state.lock();
            match state.slots.get(&number) {
                Some(slot) if !slot.is_ended => slot.credit.wish(share),
                _ => None,
            }
        };
        let Some(wish) = wish else { return };
        // Without the lock: the pool may write to disk to make room, and the driver must go on.
        let is_reserved = self.budget.try_reserve(wish.reserve);
        let mut state = self.state.lock();
        match state.slots.get(&number) {
            Some(slot) if !slot.is_ended => {}
            _ => {
                if is_reserved {
                    self.budget.release(wish.reserve);
                }
                return;
            }
        }
        match is_reserved {
            true => state.grant(number, wish, share, &self.budget),
            false => state.want_one(number, &self.budget),
        }
    }

    /// Ends a slot on the reader's side, wherever it is.
    pub(super) fn close(&self, number: u32) {
        self.budget.end_slot();
        let mut state = self.state.lock();
        let Some(mut slot) = state.slots.remove(&number) else { return };
        slot.credit.dropped(&self.budget);
        let is_known_there = slot.to_open.is_none();
        if is_known_there && !slot.is_ended && state.failure.is_none() {
            state.closing.push_back(number);
            state.wake_requests();
        }
        state.pass_on(number, &self.budget);
        drop(state);
        // Batches are freed without the lock.
        drop(slot);
    }

    /// Puts a message where it belongs.
    ///
    /// # Errors
    /// If it is not what was sent.
    pub(super) fn deliver(&self, data: FlightData) -> Result<(), LinkFailure> {
        let message = Response::decode(data).map_err(LinkFailure::Damaged)?;
        let cost = message.cost();
        let number = message.slot;
        let Response { content, header, body, .. } = message;
        let arrived = match content {
            Content::Schema(_) => Arrived::Schema(header),
            Content::Dictionary(_) => Arrived::Dictionary { header, body },
            Content::Batch(said) => Arrived::Batch { header, body, said },
            Content::End(end) => Arrived::End(end),
            Content::Error(error) => Arrived::Failed(error),
        };
        let mut state = self.state.lock();
        // What comes for a slot that was closed was sent before the keeper knew.
        let Some(slot) = state.slots.get_mut(&number) else { return Ok(()) };
        let is_last = matches!(arrived, Arrived::End(_) | Arrived::Failed(_));
        let has_all = matches!(arrived, Arrived::End(_));
        let is_whole = is_last || matches!(arrived, Arrived::Batch { .. });
        if cost > 0 {
            slot.credit.arrived(cost, &self.budget);
        }
        if is_last {
            slot.is_ended = true;
            slot.credit.ended(&self.budget);
        }
        slot.queue.push_back((cost, arrived));
        let arrival = if has_all { slot.arrival.take() } else { None };
        let is_ahead = is_whole && slot.arrival.is_some();
        let consumer = slot.consumer.take();
        if is_whole {
            state.pass_on(number, &self.budget);
        }
        drop(state);
        if let Some(consumer) = consumer {
            consumer.wake();
        }
        if let Some(arrival) = arrival {
            arrival.tell();
        }
        if is_ahead {
            self.state.lock().fill_ahead(number, &self.budget);
        }
        Ok(())
    }

    /// Ends the link: every consumer is told, the stream of requests ends.
    pub(super) fn fail(&self, failure: LinkFailure) {
        let mut state = self.state.lock();
        state.failure.get_or_insert(failure);
        state.is_closed = true;
        state.wake_requests();
        let consumers: Vec<Waker> =
            state.slots.values_mut().filter_map(|slot| slot.consumer.take()).collect();
        drop(state);
        consumers.into_iter().for_each(Waker::wake);
    }

    /// Ends the stream of requests: nobody reads any more.
    pub(super) fn finish(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.wake_requests();
    }

    pub(super) fn is_failed(&self) -> bool {
        self.state.lock().failure.is_some()
    }

    /// Whether something was asked for so long ago, and nothing of it has come.
    pub(super) fn is_stalled(&self, limit: Duration) -> bool {
        let state = self.state.lock();
        let is_long_ago = state.last_asked.is_some_and(|asked| asked.elapsed() >= limit);
        let is_due = |slot: &Slot| !slot.is_ended && !slot.is_growing && slot.credit.is_asked();
        is_long_ago && state.slots.values().any(is_due)
    }
}

impl State {
    /// Asks for more than the consumer has room for, if the slot is filled ahead and memory is free.
    fn fill_ahead(&mut self, number: u32, budget: &Budget) {
        let Some(slot) = self.slots.get(&number) else { return };
        if slot.arrival.is_none() || slot.is_ended {
            return;
        }
        if let Some(wish) = slot.credit.wish_ahead(budget.share_ahead())
            && budget.try_reserve_ahead(wish.reserve)
        {
            self.grant(number, wish, budget.share(), budget);
        }
    }

    fn grant(&mut self, number: u32, wish: Wish, share: u64, budget: &Budget) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.credit.grant(wish, share, budget);
        slot.is_waiting = false;
        self.ask(number, wish.credit);
    }

    /// Grants a batch beyond the budget to a slot that has nothing, or lines it up for one.
    fn want_one(&mut self, number: u32, budget: &Budget) {
        let is_free = self.scarce.is_none();
        let Some(slot) = self.slots.get_mut(&number) else { return };
        if slot.credit.is_asked() || !slot.credit.is_empty() || slot.consumer.is_none() {
            return;
        }
        if !is_free {
            if !std::mem::replace(&mut slot.is_waiting, true) {
                self.waiting.push_back(number);
            }
            return;
        }
        let credit = slot.credit.grant_one(budget);
        slot.is_waiting = false;
        self.scarce = Some(number);
        self.ask(number, credit);
    }

    /// Hands the grant beyond the budget on, if this slot had it; others may look for room.
    fn pass_on(&mut self, number: u32, budget: &Budget) {
        if self.scarce == Some(number) {
            self.scarce = None;
        }
        while self.scarce.is_none()
            && let Some(next) = self.waiting.pop_front()
        {
            if self.slots.get_mut(&next).is_some_and(|slot| std::mem::take(&mut slot.is_waiting)) {
                self.want_one(next, budget);
            }
        }
        for next in self.waiting.iter().take(WOKEN_AT_ONCE) {
            // They stay in line; the waker stays with the slot for what comes.
            if let Some(consumer) = self.slots.get(next).and_then(|slot| slot.consumer.as_ref()) {
                consumer.wake_by_ref();
            }
        }
    }

    fn ask(&mut self, number: u32, credit: u64) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let was_silent = slot.to_grant == 0;
        slot.to_grant = slot.to_grant.saturating_add(credit);
        if was_silent && slot.to_grant > 0 {
            self.talking.push_back(number);
        }
        self.last_asked = Some(Instant::now());
        self.wake_requests();
    }

    fn wake_requests(&mut self) {
        if let Some(requests) = self.requests.take() {
            requests.wake();
        }
    }

    fn next_request(&mut self) -> Option<Request> {
        if let Some(slot) = self.closing.pop_front() {
            return Some(Request::Close(FetchClose { slot }));
        }
        while let Some(number) = self.talking.pop_front() {
            let Some(slot) = self.slots.get_mut(&number) else { continue };
            let credit = std::mem::take(&mut slot.to_grant);
            if let Some(open) = slot.to_open.take() {
                return Some(Request::Open(FetchOpen { credit, ..open }));
            }
            if !slot.is_ended {
                return Some(Request::Credit(FetchCredit { slot: number, bytes: credit }));
            }
        }
        None
    }
}

/// What the slots of a link have to say, as gRPC sends it.
#[derive(Debug)]
pub(super) struct Requests(pub(super) Arc<Link>);

impl Stream for Requests {
    type Item = FlightData;

    fn poll_next(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<FlightData>> {
        let mut state = self.0.state.lock();
        if state.is_closed {
            return Poll::Ready(None);
        }
        match state.next_request() {
            Some(request) => Poll::Ready(Some(wire::encode_request(request))),
            None => {
                state.requests = Some(ctx.waker().clone());
                Poll::Pending
            }
        }
    }
}
