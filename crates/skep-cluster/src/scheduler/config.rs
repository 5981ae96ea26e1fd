//! The bounds of the scheduler.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::membership::MembershipConfig;

/// Bounds and choices of the scheduler, one set per coordinator.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Bounds of membership.
    pub membership: MembershipConfig,
    /// How many queries run at a time.
    pub running_query_count: usize,
    /// How many more may wait; the next is turned away with a retryable error.
    pub queued_query_count: usize,
    /// How many tasks the coordinator runs itself at a time.
    pub coordinator_slot_count: usize,
    /// How many attempts of one task may fail before its query does.
    pub max_attempts: u32,
    /// How many more attempts a task may have for reasons that are not its own: its input was lost
    /// under it, or its sealed output.
    pub max_restarts: u32,
    /// How many refused fetches within `refusal_window` declare a worker lost.
    pub max_refusals: u32,
    /// Refused fetches further apart than this have nothing to do with each other.
    pub refusal_window: Duration,
    /// How long a worker that was lost through refused fetches gets no task after it is back, as
    /// long as there is another: a cut network would lose it again and again.
    pub quarantine: Duration,
    /// How long a ready task waits for a slot on the worker that holds most of its input.
    pub locality_wait: Duration,
    /// The same of a task that reads cached tables, or makes a partition of one, counted from when that
    /// worker last freed a slot: reading it from elsewhere costs the whole cluster, and a partition in
    /// the wrong place every later query.
    pub cached_locality_wait: Duration,
    /// Of a task's input bytes, how many percent one worker must hold to be waited for.
    pub locality_share_percent: u64,
    /// Of fewer input bytes no task waits: fetching them takes less time than waiting.
    pub locality_min_bytes: u64,
    /// How long a query waits with no live worker before it fails.
    pub no_worker_timeout: Duration,
    /// How many generations of sealed output that only *finished* tasks have read are kept. With 0 a
    /// partition goes once its readers are done, and a loss behind them makes all of it again; each
    /// generation more keeps recovery to what was lost for one stage further up.
    pub retained_generations: usize,
    /// No further result task starts while this many bytes of sealed result wait to be fetched.
    pub result_window_bytes: u64,
    /// How many tasks travel in one message.
    pub max_tasks_per_message: usize,
    /// How many ended queries are remembered.
    pub remembered_query_count: usize,
    /// How many task rows of ended queries are remembered in all; the oldest queries lose theirs first.
    pub remembered_task_count: usize,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            membership: MembershipConfig::default(),
            running_query_count: 32,
            queued_query_count: 256,
            coordinator_slot_count: 4,
            max_attempts: 4,
            max_restarts: 16,
            max_refusals: 2,
            refusal_window: Duration::from_secs(60),
            quarantine: Duration::from_secs(60),
            locality_wait: Duration::from_millis(50),
            cached_locality_wait: Duration::from_millis(1000),
            locality_share_percent: 75,
            locality_min_bytes: 8 << 20,
            no_worker_timeout: Duration::from_secs(30),
            retained_generations: 2,
            result_window_bytes: 64 << 20,
            max_tasks_per_message: 256,
            remembered_query_count: 200,
            remembered_task_count: 100_000,
        }
    }
}

/// What one query asks of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuerySettings {
    /// Its share of the slots, relative to other queries.
    pub weight: NonZeroU32,
    /// How long it may take, waiting included.
    pub timeout: Option<Duration>,
}

impl Default for QuerySettings {
    fn default() -> Self {
        Self { weight: NonZeroU32::MIN, timeout: None }
    }
}
