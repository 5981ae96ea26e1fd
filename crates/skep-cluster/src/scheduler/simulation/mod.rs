//! A virtual cluster that performs the scheduler's actions, with random delays and faults.
//!
//! Each seed is one schedule: queries, workers, delays and faults all follow from it. Data are
//! simulated too: what a task makes is a function of what it reads, so a partition that is lost or
//! doubled on the way shows in the result. An oracle beside the scheduler keeps its own account of
//! what is sealed, lost and needed, from events and actions alone, and checks every action.
//!
//! `SEED=17 cargo test -p skep-cluster --lib simulation::a_seed` plays one schedule again, with its
//! trace; `SEEDS=100000` makes the ordinary run longer.

mod cached;
mod data;
mod faults;
mod oracle;
mod schedules;
mod sites;
mod world;
