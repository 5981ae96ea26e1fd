//! Identities, one newtype each: a bare integer never says what it counts.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// One worker process's place in the cluster; a process that comes back keeps it.
    WorkerId(u64),
    "w"
);
id!(
    /// One life of a worker: a process that restarts, or that wakes after it was given up, is a new
    /// incarnation, and what is said in the name of an old one is ignored.
    Incarnation(u64),
    ""
);
id!(
    /// One run of one query.
    QueryId(u64),
    "q"
);
id!(
    /// One stage of a query, numbered from its leaves.
    StageId(u32),
    "s"
);
id!(
    /// One try of a task, from 0; late news of an older one is recognised by it.
    Attempt(u32),
    ""
);
id!(
    /// One content of a cached table; `REFRESH` makes the next.
    Epoch(u64),
    "e"
);

/// One task: partition `partition` of a stage, whichever attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The query.
    pub query: QueryId,
    /// The stage.
    pub stage: StageId,
    /// The partition of the stage's plan that the task runs, from 0.
    pub partition: usize,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.query, self.stage, self.partition)
    }
}
