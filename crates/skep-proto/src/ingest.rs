//! Rows into a table, as clients ask for it and the engine does it.

/// Where rows go, and what is to happen if that is or is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingest {
    /// The schema; `None` is the session's current one.
    pub schema: Option<String>,
    /// The table, as it is called: no letter is changed.
    pub table: String,
    /// Whether it is a table of the session, and goes with it.
    pub is_temporary: bool,
    /// What to do if there is no such table.
    pub if_missing: IfMissing,
    /// What to do if there is one.
    pub if_exists: IfExists,
}

/// What to do if there is no such table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// Make one, with the columns of the rows.
    Create,
    /// Fail.
    Fail,
}

/// What to do if there is such a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// Fail.
    Fail,
    /// Put the rows beside those that are there.
    Append,
    /// Put a new table in its place.
    Replace,
}
