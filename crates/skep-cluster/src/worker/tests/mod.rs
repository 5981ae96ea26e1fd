//! Tests of running tasks, on real stores.
