//! How much a reader lets come: credit of each slot within a budget of the task.
//!
//! What was asked for is reserved before it is asked for, so that a task that gets no memory asks
//! for less. A slot in which somebody waits gets a batch in any case, one such slot at a time on
//! each link: waiting can therefore not go round in circles.
//!
//! A slot may be filled ahead of its reader, with what the budget and the pool can spare: a task that
//! has all that it reads does not mind the loss of who made it.
//!
//! **Invariant:** the reservation is the sum over slots of what is on its way and what waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

/// How the pool's error messages call a reader.
const CONSUMER: &str = "exchange reader";
/// Below it a batch is not worth being counted.
const SMALLEST_BATCH: u64 = 4096;

/// What one task may have on its way.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    pool: Arc<dyn MemoryPool>,
    /// One that cannot spill: it gives memory back as fast as the task reads.
    reservation: MemoryReservation,
    /// Slots that are open.
    active: AtomicUsize,
    /// What the next batch may need, by those that came lately.
    batch_bytes: AtomicU64,
}

impl Budget {
    pub(super) fn new(pool: &Arc<dyn MemoryPool>, limit: usize, expected_batch: usize) -> Self {
        Self {
            limit,
            pool: Arc::clone(pool),
            reservation: MemoryConsumer::new(CONSUMER).register(pool),
            active: AtomicUsize::new(0),
            batch_bytes: AtomicU64::new(expected_batch as u64),
        }
    }

    pub(super) fn begin_slot(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_slot(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the largest window of a slot: its share of the budget, and room for a batch.
    pub(super) fn share(&self) -> u64 {
        let active = self.active.load(Ordering::Relaxed).max(1);
        ((self.limit / active) as u64).max(self.batch_bytes())
    }

    pub(super) fn batch_bytes(&self) -> u64 {
        self.batch_bytes.load(Ordering::Relaxed)
    }

    /// Takes note of what a batch cost; the largest of the last ones counts.
    fn saw_batch(&self, cost: u64) {
        let last = self.batch_bytes();
        let next = cost.max(last - last / 8).max(SMALLEST_BATCH);
        self.batch_bytes.store(next, Ordering::Relaxed);
    }

    /// Reserves if budget and pool have room. May write a store's partitions to disk on the way.
    pub(super) fn try_reserve(&self, bytes: u64) -> bool {
        let bytes = bytes as usize;
        self.reservation.size().saturating_add(bytes) <= self.limit
            && self.reservation.try_grow(bytes).is_ok()
    }

    /// Returns the largest window of a slot that is filled ahead: half of what it may have, or those
    /// that are read now would find no room. Nothing if that is less than a batch.
    pub(super) fn share_ahead(&self) -> u64 {
        let active = self.active.load(Ordering::Relaxed).max(1);
        let share = (self.limit / 2 / active) as u64;
        if share < self.batch_bytes() { 0 } else { share }
    }

    /// Reserves if there is room to spare: for reading ahead nobody writes anything to disk.
    pub(super) fn try_reserve_ahead(&self, bytes: u64) -> bool {
        let bytes = bytes as usize;
        let is_within = |reserved: usize, limit: usize| reserved.saturating_add(bytes) <= limit / 2;
        let has_room = match self.pool.memory_limit() {
            MemoryLimit::Finite(limit) => is_within(self.pool.reserved(), limit),
            MemoryLimit::Infinite => true,
            MemoryLimit::Unknown => false,
        };
        has_room
            && is_within(self.reservation.size(), self.limit)
            && self.reservation.try_grow(bytes).is_ok()
    }

    pub(super) fn release(&self, bytes: u64) {
        self.reservation.shrink(bytes as usize);
    }
}

/// The account of one slot.
#[derive(Debug)]
pub(super) struct SlotCredit {
    /// Granted and not come yet; below zero by what came beyond it.
    outstanding: i64,
    /// Came and not taken yet.
    queued: u64,
    reserved: u64,
    window: u64,
}

/// What a slot would like to be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) credit: u64,
    /// What must be reserved for it.
    pub(super) reserve: u64,
}

impl SlotCredit {
    pub(super) fn new(window: u64) -> Self {
        Self { outstanding: 0, queued: 0, reserved: 0, window }
    }

    /// Returns whether the keeper may send.
    pub(super) fn is_asked(&self) -> bool {
        self.outstanding > 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Returns what would fill the window again, once half of it is used up.
    pub(super) fn wish(&self, share: u64) -> Option<Wish> {
        let window = self.window.min(share) as i64;
        let held = self.held();
        if held.saturating_mul(2) > window {
            return None;
        }
        Some(self.wish_for(window - held))
    }

    /// Returns what may be sent ahead: up to twice the window, within a share.
    pub(super) fn wish_ahead(&self, share: u64) -> Option<Wish> {
        let window = self.window.saturating_mul(2).min(share) as i64;
        let credit = window - self.held();
        // Not each little gap: a message for each batch would cost more than it brings.
        if credit <= 0 || credit < window / 4 {
            return None;
        }
        Some(self.wish_for(credit))
    }

    /// Returns what is on its way or waits.
    fn held(&self) -> i64 {
        self.outstanding + self.queued as i64
    }

    /// Returns a wish for so much credit: a debt is paid with it first, which needs no memory.
    fn wish_for(&self, credit: i64) -> Wish {
        let reserve = (self.outstanding + credit).max(0) - self.outstanding.max(0);
        Wish { credit: credit as u64, reserve: reserve as u64 }
    }

    /// Grants a wish whose memory is reserved; the next window is twice as large.
    pub(super) fn grant(&mut self, wish: Wish, share: u64, budget: &Budget) {
        self.outstanding += wish.credit as i64;
        self.reserved += wish.reserve;
        self.window = (self.window.saturating_mul(2)).min(share);
        self.settle(budget);
    }

    /// Grants as little as lets one batch come; returns it.
    pub(super) fn grant_one(&mut self, budget: &Budget) -> u64 {
        let credit = (1 - self.outstanding).max(0);
        self.outstanding += credit;
        self.settle(budget);
        credit as u64
    }

    pub(super) fn arrived(&mut self, cost: u64, budget: &Budget) {
        self.outstanding -= cost as i64;
        self.queued += cost;
        budget.saw_batch(cost);
        self.settle(budget);
    }

    pub(super) fn taken(&mut self, cost: u64, budget: &Budget) {
        self.queued -= cost;
        self.settle(budget);
    }

    /// Nothing more comes.
    pub(super) fn ended(&mut self, budget: &Budget) {
        self.outstanding = 0;
        self.settle(budget);
    }

    /// Nothing of it is kept.
    pub(super) fn dropped(&mut self, budget: &Budget) {
        self.outstanding = 0;
        self.queued = 0;
        self.settle(budget);
    }

    /// Beyond the limit if need be: what is here is accounted.
    fn settle(&mut self, budget: &Budget) {
        let needed = self.outstanding.max(0) as u64 + self.queued;
        if needed > self.reserved {
            budget.reservation.grow((needed - self.reserved) as usize);
        } else if needed < self.reserved {
            budget.release(self.reserved - needed);
        }
        self.reserved = needed;
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    fn budget(limit: usize, pool_bytes: usize) -> (Budget, Arc<dyn MemoryPool>) {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(pool_bytes));
        (Budget::new(&pool, limit, 1000), pool)
    }

    #[test]
    fn a_window_is_filled_at_half_and_grows_to_its_share() {
        let (budget, pool) = budget(10_000, usize::MAX);
        budget.begin_slot();
        let mut slot = SlotCredit::new(1000);
        let wish = slot.wish(budget.share()).unwrap();
        assert_eq!(wish, Wish { credit: 1000, reserve: 1000 });
        assert!(budget.try_reserve(wish.reserve));
        slot.grant(wish, budget.share(), &budget);
        assert_eq!(slot.wish(budget.share()), Some(Wish { credit: 1000, reserve: 1000 }));
        slot.window = 1000;
        assert_eq!(slot.wish(budget.share()), None);
        slot.arrived(700, &budget);
        assert_eq!(pool.reserved(), 1000);
        assert_eq!(slot.wish(budget.share()), None, "what waits counts");
        slot.taken(700, &budget);
        assert_eq!(pool.reserved(), 300);
        assert_eq!(slot.wish(budget.share()), Some(Wish { credit: 700, reserve: 700 }));
        slot.dropped(&budget);
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn a_batch_beyond_the_credit_is_a_debt_and_is_accounted() {
        let (budget, pool) = budget(10_000, usize::MAX);
        budget.begin_slot();
        let mut slot = SlotCredit::new(1000);
        assert_eq!(slot.grant_one(&budget), 1);
        slot.arrived(5000, &budget);
        assert!(!slot.is_asked());
        assert_eq!(pool.reserved(), 5000);
        assert_eq!(budget.batch_bytes(), 5000);
        slot.taken(5000, &budget);
        assert_eq!(pool.reserved(), 0);
        let wish = slot.wish(budget.share()).unwrap();
        assert_eq!(wish, Wish { credit: 1000 + 4999, reserve: 1000 });
        assert_eq!(slot.grant_one(&budget), 5000);
        slot.ended(&budget);
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn neither_budget_nor_pool_is_exceeded_by_reserving() {
        let (tight, _pool) = budget(1500, usize::MAX);
        assert!(tight.try_reserve(1000));
        assert!(!tight.try_reserve(1000));
        let (poor, pool) = budget(10_000, 1500);
        assert!(poor.try_reserve(1000));
        assert!(!poor.try_reserve(1000));
        poor.release(1000);
        assert_eq!(pool.reserved(), 0);
    }
}
