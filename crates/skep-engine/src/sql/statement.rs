//! The statements that skep runs itself; everything else is a plan for DataFusion.

use datafusion::sql::parser::{CopyToStatement, CreateExternalTable, Statement as PlanStatement};
use datafusion::sql::sqlparser::ast::{ColumnDef, ObjectName, Query};

use crate::cache::ClusterBy;

/// One parsed statement.
#[derive(Debug)]
pub(crate) enum Statement {
    /// A query, `INSERT`, `EXPLAIN`, `PREPARE`: what the planner makes a plan of.
    Plan(Box<PlanStatement>),
    /// `EXPLAIN DISTRIBUTED`.
    ExplainDistributed(Box<PlanStatement>),
    /// `COPY ... TO`.
    Copy(Box<CopyToStatement>),
    /// `CREATE EXTERNAL TABLE`, in DataFusion's dialect.
    CreateExternalTable(Box<CreateExternalTable>),
    /// `CREATE TABLE`, plain, `USING` a format, or `AS` a query.
    CreateTable(Box<CreateTable>),
    /// `CREATE VIEW ... AS`.
    CreateView(Box<CreateView>),
    /// `CREATE SCHEMA` or `DATABASE`.
    CreateSchema {
        /// Its name.
        name: ObjectName,
        /// Whether one that is there is fine.
        if_not_exists: bool,
    },
    /// `DROP TABLE | VIEW | SCHEMA`.
    Drop(Drop),
    /// `SHOW ...`.
    Show(Show),
    /// `DESCRIBE [EXTENDED] t`.
    DescribeTable {
        /// The table.
        name: ObjectName,
        /// With where it is and how it is read.
        extended: bool,
    },
    /// `DESCRIBE query`.
    DescribeQuery(Box<Query>),
    /// `SET name = value`.
    Set {
        /// The setting.
        name: String,
        /// Its new value, as text.
        value: String,
    },
    /// `RESET name`, or all of them.
    Reset(Option<String>),
    /// `USE schema`.
    Use(ObjectName),
    /// `CACHE TABLE`.
    Cache(Box<CacheTable>),
    /// `UNCACHE TABLE`.
    Uncache {
        /// The table.
        name: ObjectName,
        /// Whether one that is not there, or not cached, is fine.
        if_exists: bool,
    },
    /// `CLEAR CACHE`.
    ClearCache,
    /// `REFRESH TABLE`.
    Refresh(ObjectName),
}

/// What `CREATE TABLE` and `CREATE TEMPORARY VIEW ... USING` say.
#[derive(Debug, Default)]
pub(crate) struct CreateTable {
    pub(crate) name: Option<ObjectName>,
    pub(crate) or_replace: bool,
    pub(crate) if_not_exists: bool,
    pub(crate) temporary: bool,
    /// Whether it was written `VIEW`, which must then name its files.
    pub(crate) as_view: bool,
    pub(crate) columns: Vec<ColumnDef>,
    pub(crate) format: Option<String>,
    pub(crate) options: Vec<(String, String)>,
    pub(crate) partition_by: Vec<String>,
    pub(crate) location: Option<String>,
    pub(crate) comment: Option<String>,
    pub(crate) query: Option<Box<Query>>,
}

/// What `CACHE TABLE` says.
#[derive(Debug)]
pub(crate) struct CacheTable {
    pub(crate) name: ObjectName,
    pub(crate) is_lazy: bool,
    pub(crate) options: Vec<(String, String)>,
    pub(crate) cluster_by: Option<ClusterBy>,
    pub(crate) query: Option<Box<Query>>,
    /// The query as the user wrote it.
    pub(crate) text: String,
}

/// What `CREATE VIEW ... AS` says.
#[derive(Debug)]
pub(crate) struct CreateView {
    pub(crate) name: ObjectName,
    pub(crate) or_replace: bool,
    pub(crate) if_not_exists: bool,
    pub(crate) temporary: bool,
    pub(crate) columns: Vec<String>,
    pub(crate) comment: Option<String>,
    pub(crate) query: Box<Query>,
    /// The query as the user wrote it.
    pub(crate) text: String,
}

/// What kind of thing a `DROP` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DropKind {
    Table,
    View,
    Schema,
}

/// What `DROP` says.
#[derive(Debug)]
pub(crate) struct Drop {
    pub(crate) kind: DropKind,
    pub(crate) names: Vec<ObjectName>,
    pub(crate) if_exists: bool,
    pub(crate) cascade: bool,
}

/// What `SHOW` asks for; a pattern is SQL's LIKE, with `*` as Spark has it.
#[derive(Debug)]
pub(crate) enum Show {
    Tables { schema: Option<ObjectName>, pattern: Option<String> },
    Views { schema: Option<ObjectName>, pattern: Option<String> },
    Columns { table: ObjectName },
    CreateTable { table: ObjectName },
    Functions { pattern: Option<String> },
    Settings { pattern: Option<String> },
    Setting { name: String },
    Schemas { pattern: Option<String> },
    Catalogs { pattern: Option<String> },
}
