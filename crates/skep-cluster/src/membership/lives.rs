//! Who is who: the lives that the coordinator gives to the workers that register.

use std::collections::BTreeMap;

use super::state::WorkerLife;
use crate::ids::{Incarnation, WorkerId};

/// Incarnations that are claimed beyond this are not believed: there must be room above.
const MAX_CLAIMED_INCARNATION: u64 = u64::MAX / 2;

/// What decides who a worker is.
#[derive(Debug, Clone, Copy)]
pub struct LifeRequest<'a> {
    /// The life that it says it has.
    pub claimed: Option<WorkerLife>,
    /// The id that it would like to have.
    pub wanted_id: Option<WorkerId>,
    /// Where others reach its data.
    pub data_address: &'a str,
}

/// The lives given out so far.
///
/// A coordinator that was restarted knows nobody and takes the word of those who say who they are,
/// so that their running tasks and sealed outputs can be looked at. Whoever claims a life that is
/// not theirs gets another one, and what they hold then counts for nothing.
///
/// **Invariant:** no life is given out twice, and of one worker each new life is greater than every
/// one before, also across a restart of the coordinator: incarnations go on from a start that grows
/// faster than they are given out, and from whatever is claimed.
#[derive(Debug)]
pub struct LifeRegistry {
    known: BTreeMap<WorkerId, Known>,
    last_incarnation: u64,
    /// Grows with each request, to know the oldest.
    clock: u64,
    max_count: usize,
}

#[derive(Debug)]
struct Known {
    incarnation: Incarnation,
    data_address: String,
    heard: u64,
    is_over: bool,
}

impl LifeRegistry {
    /// Creates a registry that knows nobody and remembers `max_count` workers. `start` is the
    /// coordinator's own: greater at each of its starts, as the time in microseconds is.
    pub fn new(start: u64, max_count: usize) -> Self {
        let last_incarnation = start.min(MAX_CLAIMED_INCARNATION);
        Self { known: BTreeMap::new(), last_incarnation, clock: 0, max_count: max_count.max(1) }
    }

    /// Returns who this is: the life that is claimed, if it can be theirs, else a new one: of the
    /// wanted id if it is free, of the worker that was known at this address, or of a new id, from 1.
    pub fn assign(&mut self, request: LifeRequest<'_>) -> WorkerLife {
        let address = request.data_address;
        let claimed = request.claimed.filter(|life| self.is_plausible(*life, address));
        let life = claimed.unwrap_or_else(|| {
            let wanted = request.wanted_id.filter(|id| self.is_free(*id, address));
            let worker = wanted.or_else(|| self.at(address)).unwrap_or_else(|| self.unused());
            WorkerLife { worker, incarnation: Incarnation(self.last_incarnation + 1) }
        });
        self.last_incarnation = self.last_incarnation.max(life.incarnation.0);
        self.clock += 1;
        let known = Known {
            incarnation: life.incarnation,
            data_address: address.to_owned(),
            heard: self.clock,
            is_over: false,
        };
        self.known.insert(life.worker, known);
        self.forget_oldest(life.worker);
        life
    }

    /// Takes note that a life is over: its id may be wanted by somebody at another address, and the
    /// life itself cannot be claimed any more.
    pub fn end(&mut self, life: WorkerLife) {
        if let Some(known) = self.known.get_mut(&life.worker)
            && known.incarnation == life.incarnation
        {
            known.is_over = true;
        }
    }

    fn is_plausible(&self, life: WorkerLife, address: &str) -> bool {
        let is_possible = life.worker.0 != 0 && life.incarnation.0 <= MAX_CLAIMED_INCARNATION;
        is_possible
            && self.known.get(&life.worker).is_none_or(|known| {
                let is_same = known.incarnation == life.incarnation;
                is_same && known.data_address == address && !known.is_over
            })
    }

    fn is_free(&self, id: WorkerId, address: &str) -> bool {
        let is_free = |known: &Known| known.is_over || known.data_address == address;
        id.0 != 0 && self.known.get(&id).is_none_or(is_free)
    }

    /// The worker last heard of at this address.
    fn at(&self, address: &str) -> Option<WorkerId> {
        let here = self.known.iter().filter(|(_, known)| known.data_address == address);
        here.max_by_key(|(_, known)| known.heard).map(|(id, _)| *id)
    }

    /// The first id above 0 that nobody known has.
    fn unused(&self) -> WorkerId {
        let mut id = 1;
        for known in self.known.keys() {
            if known.0 > id {
                break;
            }
            id = known.0.saturating_add(1);
        }
        WorkerId(id)
    }

    /// Those whose life is over go first.
    fn forget_oldest(&mut self, but: WorkerId) {
        while self.known.len() > self.max_count {
            let others = self.known.iter().filter(|(id, _)| **id != but);
            let oldest = others.min_by_key(|(_, known)| (!known.is_over, known.heard));
            let Some(id) = oldest.map(|(id, _)| *id) else { return };
            self.known.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(worker: u64, incarnation: u64) -> WorkerLife {
        WorkerLife { worker: WorkerId(worker), incarnation: Incarnation(incarnation) }
    }

    fn newcomer(data_address: &str) -> LifeRequest<'_> {
        LifeRequest { claimed: None, wanted_id: None, data_address }
    }

    fn claims(life: WorkerLife, data_address: &str) -> LifeRequest<'_> {
        LifeRequest { claimed: Some(life), ..newcomer(data_address) }
    }

    fn wants(id: u64, data_address: &str) -> LifeRequest<'_> {
        LifeRequest { wanted_id: Some(WorkerId(id)), ..newcomer(data_address) }
    }

    #[test]
    fn ids_go_from_one_and_incarnations_grow_from_the_start() {
        let mut registry = LifeRegistry::new(100, 10);
        assert_eq!(registry.assign(newcomer("a:1")), life(1, 101));
        assert_eq!(registry.assign(newcomer("b:1")), life(2, 102));
        assert_eq!(registry.assign(newcomer("c:1")), life(3, 103));
    }

    #[test]
    fn the_same_address_is_the_same_worker_in_a_later_life() {
        let mut registry = LifeRegistry::new(0, 10);
        registry.assign(newcomer("a:1"));
        registry.assign(newcomer("b:1"));
        assert_eq!(registry.assign(newcomer("a:1")), life(1, 3));
        assert_eq!(registry.assign(newcomer("a:1")), life(1, 4));
    }

    #[test]
    fn a_life_goes_on_for_whom_it_was_given() {
        let mut registry = LifeRegistry::new(0, 10);
        let first = registry.assign(newcomer("a:1"));
        assert_eq!(registry.assign(claims(first, "a:1")), first);
        // Another address, or an older life of this one, is somebody else.
        assert_eq!(registry.assign(claims(first, "b:1")), life(2, 2));
        let second = registry.assign(newcomer("a:1"));
        assert_eq!(registry.assign(claims(first, "a:1")), life(1, 4));
        assert_eq!(registry.assign(claims(second, "a:1")), life(1, 5));
    }

    #[test]
    fn a_restarted_coordinator_takes_the_word_of_its_workers() {
        let mut registry = LifeRegistry::new(1000, 10);
        let old = life(7, 2000);
        assert_eq!(registry.assign(claims(old, "a:1")), old);
        assert_eq!(registry.assign(newcomer("b:1")), life(1, 2001));
        // Even so it never gives out what may have been given out before.
        assert_eq!(registry.assign(newcomer("a:1")), life(7, 2002));
    }

    #[test]
    fn an_ended_life_cannot_be_claimed() {
        let mut registry = LifeRegistry::new(0, 10);
        let first = registry.assign(newcomer("a:1"));
        registry.end(first);
        assert_eq!(registry.assign(claims(first, "a:1")), life(1, 2));
        // The end of an older life says nothing about the current one.
        registry.end(first);
        assert_eq!(registry.assign(claims(life(1, 2), "a:1")), life(1, 2));
    }

    #[test]
    fn a_wanted_id_is_given_if_it_is_free() {
        let mut registry = LifeRegistry::new(0, 10);
        let third = registry.assign(wants(3, "a:1"));
        assert_eq!(third, life(3, 1));
        assert_eq!(registry.assign(wants(3, "b:1")), life(1, 2));
        assert_eq!(registry.assign(wants(3, "a:1")), life(3, 3));
        registry.end(life(3, 3));
        assert_eq!(registry.assign(wants(3, "c:1")), life(3, 4));
        assert_eq!(registry.assign(wants(0, "d:1")), life(2, 5));
        // The wish counts for more than an address that somebody else had.
        registry.end(life(1, 2));
        assert_eq!(registry.assign(wants(4, "b:1")), life(4, 6));
    }

    #[test]
    fn impossible_lives_are_not_believed() {
        let mut registry = LifeRegistry::new(5, 10);
        assert_eq!(registry.assign(claims(life(0, 3), "a:1")), life(1, 6));
        assert_eq!(registry.assign(claims(life(9, u64::MAX), "b:1")), life(2, 7));
        let last = life(u64::MAX, 3);
        assert_eq!(registry.assign(claims(last, "c:1")), last);
        assert_eq!(registry.assign(newcomer("d:1")), life(3, 8));
    }

    #[test]
    fn the_oldest_are_forgotten_and_their_lives_are_not_given_again() {
        let mut registry = LifeRegistry::new(0, 3);
        let addresses: Vec<_> = (0..50).map(|port| format!("a:{port}")).collect();
        let mut given: Vec<_> =
            addresses.iter().map(|address| registry.assign(newcomer(address))).collect();
        assert_eq!(registry.known.len(), 3);
        given.sort_unstable_by_key(|life| life.incarnation);
        given.dedup_by_key(|life| life.incarnation);
        assert_eq!(given.len(), 50);
    }

    #[test]
    fn ended_workers_are_forgotten_before_live_ones() {
        let mut registry = LifeRegistry::new(0, 2);
        let first = registry.assign(newcomer("a:1"));
        let second = registry.assign(newcomer("b:1"));
        registry.end(second);
        registry.assign(newcomer("c:1"));
        assert_eq!(registry.assign(claims(first, "a:1")), first);
        assert!(!registry.known.contains_key(&second.worker));
    }
}
