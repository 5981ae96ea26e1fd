//! The state machine of membership.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::snapshot::{ClusterSnapshot, WorkerInfo};
use crate::ids::{Incarnation, WorkerId};

/// One life of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerLife {
    /// The worker.
    pub worker: WorkerId,
    /// Which of its lives; a later one is greater.
    pub incarnation: Incarnation,
}

impl fmt::Display for WorkerLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.worker, self.incarnation)
    }
}

/// Bounds of membership.
#[derive(Debug, Clone)]
pub struct MembershipConfig {
    /// A worker not heard of for this long is lost.
    pub heartbeat_timeout: Duration,
    /// How long after its stream closed a worker may reconnect as the same life. Short, because a
    /// killed process shows in the same way and recovery waits for it.
    pub reconnect_grace: Duration,
    /// How many lost workers are remembered for `system.workers` and for refusing their return.
    pub remembered_worker_count: usize,
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self {
            heartbeat_timeout: Duration::from_secs(5),
            reconnect_grace: Duration::from_millis(200),
            remembered_worker_count: 256,
        }
    }
}

/// What a worker says of itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Who it is.
    pub life: WorkerLife,
    /// How many tasks it runs at a time; none is taken for one.
    pub slot_count: usize,
    /// Its memory limit.
    pub memory_bytes: u64,
    /// Where other workers reach its data.
    pub data_address: String,
    /// Its process.
    pub pid: u32,
    /// Its program version.
    pub version: String,
}

/// What a heartbeat says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Memory in use.
    pub memory_bytes: u64,
    /// Bytes of partitions kept, in memory and on disk.
    pub stored_bytes: u64,
}

/// Whether a worker lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Connected and heard of.
    Live,
    /// Its stream closed a moment ago; it may still come back as the same life.
    Disconnected,
    /// Given up. This life never comes back.
    Lost(LossReason),
}

/// Why a worker was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossReason {
    /// Its stream closed and it did not reconnect in time.
    Disconnected,
    /// It was silent for too long.
    Silent,
    /// Others could not fetch from it.
    FetchRefused,
    /// A new life of the same worker joined.
    Replaced,
    /// It said goodbye, or its process was seen to end.
    Left,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "connection closed",
            Self::Silent => "no heartbeat",
            Self::FetchRefused => "fetches refused",
            Self::Replaced => "replaced by a new incarnation",
            Self::Left => "left",
        })
    }
}

/// What became of the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipChange {
    /// A new life, holding nothing that counts.
    Joined(WorkerLife),
    /// The same life on a new stream.
    Rejoined(WorkerLife),
    /// A life that is over, or older than the current one, has spoken: it must join anew.
    Refused(WorkerLife),
    /// The stream of this life closed.
    Disconnected(WorkerLife),
    /// This life is over.
    Lost(WorkerLife, LossReason),
}

#[derive(Debug)]
struct Member {
    info: WorkerInfo,
    disconnected_at: Duration,
}

/// The members of the cluster.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    members: BTreeMap<WorkerId, Member>,
    version: u64,
    last_tick: Option<Duration>,
}

impl Membership {
    /// Creates an empty cluster.
    pub fn new(config: MembershipConfig) -> Self {
        Self { config, members: BTreeMap::new(), version: 0, last_tick: None }
    }

    /// Returns the picture of now.
    pub fn snapshot(&self) -> ClusterSnapshot {
        let workers = self.members.values().map(|member| member.info.clone()).collect();
        ClusterSnapshot { version: self.version, workers }
    }

    /// Takes a worker in, or back, or turns it away.
    pub fn register(
        &mut self,
        mut registration: Registration,
        now: Duration,
    ) -> Vec<MembershipChange> {
        let life = registration.life;
        registration.slot_count = registration.slot_count.max(1);
        let mut changes = Vec::new();
        if let Some(member) = self.members.get(&life.worker) {
            let known = member.info.registration.life;
            let lost = matches!(member.info.state, WorkerState::Lost(_));
            if life.incarnation < known.incarnation || (life == known && lost) {
                return vec![MembershipChange::Refused(life)];
            }
            if life == known {
                changes.push(MembershipChange::Rejoined(life));
            } else {
                changes.extend(self.lose(known, LossReason::Replaced));
            }
        }
        if changes.first() != Some(&MembershipChange::Rejoined(life)) {
            changes.push(MembershipChange::Joined(life));
        }
        let info = WorkerInfo {
            registration,
            state: WorkerState::Live,
            load: WorkerLoad::default(),
            last_heard: now,
        };
        self.members.insert(life.worker, Member { info, disconnected_at: now });
        self.version += 1;
        self.forget_oldest();
        changes
    }

    /// Notes a sign of life, and what a heartbeat said.
    pub fn heard(
        &mut self,
        life: WorkerLife,
        load: Option<WorkerLoad>,
        now: Duration,
    ) -> Vec<MembershipChange> {
        match self.member(life) {
            Some(member) => {
                member.info.last_heard = now;
                if let Some(load) = load {
                    member.info.load = load;
                }
                Vec::new()
            }
            None => vec![MembershipChange::Refused(life)],
        }
    }

    /// Notes that the stream of a worker closed.
    pub fn disconnect(&mut self, life: WorkerLife, now: Duration) -> Vec<MembershipChange> {
        let grace = self.config.reconnect_grace;
        let Some(member) = self.member(life) else { return Vec::new() };
        if grace.is_zero() {
            return self.lose(life, LossReason::Disconnected);
        }
        if member.info.state == WorkerState::Disconnected {
            return Vec::new();
        }
        member.info.state = WorkerState::Disconnected;
        member.disconnected_at = now;
        self.version += 1;
        vec![MembershipChange::Disconnected(life)]
    }

    /// Gives a life up. Does nothing if it is not the current one.
    pub fn lose(&mut self, life: WorkerLife, reason: LossReason) -> Vec<MembershipChange> {
        let Some(member) = self.member(life) else { return Vec::new() };
        member.info.state = WorkerState::Lost(reason);
        self.version += 1;
        vec![MembershipChange::Lost(life, reason)]
    }

    /// Lets time pass; to be called several times within the heartbeat bound.
    ///
    /// After a gap of half the bound or more the caller itself stood still, and what the workers
    /// said meanwhile is still on its way: all of them get a fresh start.
    pub fn tick(&mut self, now: Duration) -> Vec<MembershipChange> {
        let gap = self.last_tick.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        self.last_tick = Some(now);
        if gap * 2 >= self.config.heartbeat_timeout {
            for member in self.members.values_mut() {
                member.info.last_heard = now;
                member.disconnected_at = now;
            }
            return Vec::new();
        }
        let late = self.members.values().filter_map(|member| self.overdue(member, now));
        let late: Vec<_> = late.collect();
        late.into_iter().flat_map(|(life, reason)| self.lose(life, reason)).collect()
    }

    /// Returns the moment at which a tick would give somebody up, if nothing is heard until then.
    pub fn next_loss(&self) -> Option<Duration> {
        let at = |member: &Member| match member.info.state {
            WorkerState::Live => Some(member.info.last_heard + self.config.heartbeat_timeout),
            WorkerState::Disconnected => Some(member.disconnected_at + self.config.reconnect_grace),
            WorkerState::Lost(_) => None,
        };
        self.members.values().filter_map(at).min()
    }

    fn overdue(&self, member: &Member, now: Duration) -> Option<(WorkerLife, LossReason)> {
        let life = member.info.registration.life;
        let silent = now >= member.info.last_heard + self.config.heartbeat_timeout;
        let gone = now >= member.disconnected_at + self.config.reconnect_grace;
        match member.info.state {
            WorkerState::Live if silent => Some((life, LossReason::Silent)),
            WorkerState::Disconnected if gone => Some((life, LossReason::Disconnected)),
            _ => None,
        }
    }

    /// The member whose current, not lost, life this is.
    fn member(&mut self, life: WorkerLife) -> Option<&mut Member> {
        let member = self.members.get_mut(&life.worker)?;
        let lost = matches!(member.info.state, WorkerState::Lost(_));
        (member.info.registration.life == life && !lost).then_some(member)
    }

    fn forget_oldest(&mut self) {
        let lost = |member: &&Member| matches!(member.info.state, WorkerState::Lost(_));
        let excess = self.members.values().filter(lost).count();
        for _ in self.config.remembered_worker_count..excess {
            let oldest = self.members.values().filter(lost).min_by_key(|m| m.info.last_heard);
            if let Some(id) = oldest.map(|member| member.info.registration.life.worker) {
                self.members.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn life(worker: u64, incarnation: u64) -> WorkerLife {
        WorkerLife { worker: WorkerId(worker), incarnation: Incarnation(incarnation) }
    }

    fn registration(life: WorkerLife) -> Registration {
        Registration {
            life,
            slot_count: 2,
            memory_bytes: 1 << 30,
            data_address: "127.0.0.1:1".to_owned(),
            pid: 1,
            version: "0".to_owned(),
        }
    }

    fn with(lives: &[WorkerLife]) -> Membership {
        let mut membership = Membership::new(MembershipConfig::default());
        membership.tick(Duration::ZERO);
        for life in lives {
            assert_eq!(
                membership.register(registration(*life), Duration::ZERO),
                [MembershipChange::Joined(*life)]
            );
        }
        membership
    }

    #[test]
    fn a_silent_worker_is_lost_and_a_heard_one_is_not() {
        let mut membership = with(&[life(1, 1), life(2, 1)]);
        for second in 1..5 {
            assert_eq!(membership.heard(life(2, 1), None, SECOND * second), []);
            assert_eq!(membership.tick(SECOND * second), []);
        }
        assert_eq!(membership.next_loss(), Some(SECOND * 5));
        let lost = [MembershipChange::Lost(life(1, 1), LossReason::Silent)];
        assert_eq!(membership.tick(SECOND * 5), lost);
        assert_eq!(membership.snapshot().live().count(), 1);
    }

    #[test]
    fn a_lost_life_is_refused_and_a_new_one_joins() {
        let mut membership = with(&[life(1, 1)]);
        membership.lose(life(1, 1), LossReason::Left);
        let refused = [MembershipChange::Refused(life(1, 1))];
        assert_eq!(membership.heard(life(1, 1), None, SECOND), refused);
        assert_eq!(membership.register(registration(life(1, 1)), SECOND), refused);
        let joined = [MembershipChange::Joined(life(1, 2))];
        assert_eq!(membership.register(registration(life(1, 2)), SECOND), joined);
        assert_eq!(membership.register(registration(life(1, 1)), SECOND), refused);
    }

    #[test]
    fn a_new_life_ends_the_old_one() {
        let mut membership = with(&[life(1, 1)]);
        assert_eq!(
            membership.register(registration(life(1, 2)), SECOND),
            [
                MembershipChange::Lost(life(1, 1), LossReason::Replaced),
                MembershipChange::Joined(life(1, 2))
            ]
        );
    }

    #[test]
    fn a_closed_stream_may_come_back_within_the_grace_only() {
        let mut membership = with(&[life(1, 1), life(2, 1)]);
        membership.disconnect(life(1, 1), SECOND);
        membership.disconnect(life(2, 1), SECOND);
        let rejoined = [MembershipChange::Rejoined(life(1, 1))];
        assert_eq!(membership.register(registration(life(1, 1)), SECOND), rejoined);
        let lost = [MembershipChange::Lost(life(2, 1), LossReason::Disconnected)];
        assert_eq!(membership.tick(SECOND + Duration::from_millis(200)), lost);
    }

    #[test]
    fn a_coordinator_that_slept_does_not_blame_its_workers() {
        let mut membership = with(&[life(1, 1)]);
        membership.tick(SECOND);
        assert_eq!(membership.tick(SECOND * 60), []);
        assert_eq!(membership.tick(SECOND * 61), []);
    }

    #[test]
    fn lost_workers_are_forgotten_at_the_bound() {
        let config = MembershipConfig { remembered_worker_count: 2, ..Default::default() };
        let mut membership = Membership::new(config);
        for worker in 0..10 {
            membership.register(registration(life(worker, 1)), SECOND);
            membership.lose(life(worker, 1), LossReason::Left);
        }
        assert!(membership.snapshot().workers.len() <= 3);
    }
}
