//! Makes guessing slow: who failed several times waits, longer each time.
//!
//! Who tries one name after the other is slowed by the address; not for long, as many people may have
//! the same, and what is known to be right passes in any case.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often one may err before it costs time.
const FREE_FAILURES: u32 = 3;

/// The wait after the next failure; doubled with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How often an address may err, whoever is named, and how long it waits between any two tries after
/// that.
const FREE_FAILURES_OF_ADDRESS: u32 = 32;
const WAIT_OF_ADDRESS: Duration = Duration::from_secs(1);

/// Failures are forgotten so long after the last.
const MEMORY: Duration = Duration::from_secs(15 * 60);

/// Most users and addresses that are remembered; the one that failed longest ago goes first.
const MAX_REMEMBERED: usize = 4096;

/// Most bytes of a name that are remembered.
const MAX_NAME_BYTES: usize = 64;

/// Nobody in particular stands for all of an address.
type Who = (Option<String>, Option<IpAddr>);

/// The failed logins of a while.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    failed: Mutex<HashMap<Who, Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait_of_address(self) -> Duration {
        if self.count > FREE_FAILURES_OF_ADDRESS { WAIT_OF_ADDRESS } else { Duration::ZERO }
    }

    fn wait(self) -> Duration {
        let beyond = self.count.saturating_sub(FREE_FAILURES);
        match beyond {
            0 => Duration::ZERO,
            beyond => FIRST_WAIT.saturating_mul(1 << (beyond - 1).min(16)).min(LONGEST_WAIT),
        }
    }
}

impl Throttle {
    /// Returns how long this user must wait before the next try from this address.
    pub(super) fn wait(&self, user: &str, from: Option<IpAddr>, now: Instant) -> Duration {
        let failed = self.failed.lock();
        let left = |who: &Who, wait: fn(Failures) -> Duration| {
            let failures = failed.get(who).copied();
            failures.map_or(Duration::ZERO, |failures| {
                (failures.last + wait(failures)).saturating_duration_since(now)
            })
        };
        left(&who(user, from), Failures::wait).max(left(&(None, from), Failures::wait_of_address))
    }

    /// Notes a failure.
    pub(super) fn failed(&self, user: &str, from: Option<IpAddr>, now: Instant) {
        self.note(who(user, from), now);
        if from.is_some() {
            self.note((None, from), now);
        }
    }

    fn note(&self, who: Who, now: Instant) {
        let mut failed = self.failed.lock();
        if failed.len() >= MAX_REMEMBERED {
            failed.retain(|_, failures| now.saturating_duration_since(failures.last) < MEMORY);
        }
        if failed.len() >= MAX_REMEMBERED {
            let oldest = failed.iter().min_by_key(|(_, failures)| failures.last);
            if let Some(oldest) = oldest.map(|(who, _)| who.clone()) {
                failed.remove(&oldest);
            }
        }
        let failures = failed.entry(who).or_insert(Failures { count: 0, last: now });
        if now.saturating_duration_since(failures.last) >= MEMORY {
            failures.count = 0;
        }
        *failures = Failures { count: failures.count.saturating_add(1), last: now };
    }

    /// Forgets what failed before this success; not of the address, where others may be guessing.
    pub(super) fn succeeded(&self, user: &str, from: Option<IpAddr>) {
        self.failed.lock().remove(&who(user, from));
    }
}

fn who(user: &str, from: Option<IpAddr>) -> Who {
    let end = user.floor_char_boundary(MAX_NAME_BYTES);
    (Some(user[..end].to_owned()), from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..FREE_FAILURES {
            assert_eq!(throttle.wait("ann", None, now), Duration::ZERO);
            throttle.failed("ann", None, now);
        }
        for expected in [0, 1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(throttle.wait("ann", None, now), Duration::from_secs(expected));
            throttle.failed("ann", None, now);
        }
        assert_eq!(throttle.wait("ann", None, now + LONGEST_WAIT), Duration::ZERO);
        assert_eq!(throttle.wait("bob", None, now), Duration::ZERO);
        let elsewhere = Some(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(throttle.wait("ann", elsewhere, now), Duration::ZERO);
        let later = now + MEMORY;
        throttle.failed("ann", None, later);
        assert_eq!(throttle.wait("ann", None, later), Duration::ZERO);
        throttle.succeeded("ann", None);
        assert!(throttle.failed.lock().is_empty());
    }

    #[test]
    fn an_address_that_tries_many_names_is_slowed() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let here = Some(IpAddr::from([10, 0, 0, 1]));
        for idx in 0..=FREE_FAILURES_OF_ADDRESS {
            assert_eq!(throttle.wait(&format!("user{idx}"), here, now), Duration::ZERO);
            throttle.failed(&format!("user{idx}"), here, now);
        }
        assert_eq!(throttle.wait("another", here, now), WAIT_OF_ADDRESS);
        // One who gets in does not let the others guess.
        throttle.succeeded("user1", here);
        assert_eq!(throttle.wait("another", here, now), WAIT_OF_ADDRESS);
        assert_eq!(throttle.wait("another", here, now + WAIT_OF_ADDRESS), Duration::ZERO);
        let elsewhere = Some(IpAddr::from([10, 0, 0, 2]));
        assert_eq!(throttle.wait("another", elsewhere, now), Duration::ZERO);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for idx in 0..MAX_REMEMBERED + 10 {
            let at = now + Duration::from_millis(idx as u64);
            throttle.failed(&format!("user{idx}"), None, at);
        }
        let failed = throttle.failed.lock();
        assert_eq!(failed.len(), MAX_REMEMBERED);
        assert!(!failed.contains_key(&who("user0", None)));
    }
}
