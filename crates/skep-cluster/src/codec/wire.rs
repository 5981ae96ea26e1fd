//! The messages of ours inside DataFusion's: extension nodes of plans and expressions.
//!
//! Each is there because DataFusion 55.2 has no message for a thing, or one that forgets a part:
//!
//! - [`ExchangeRead`]: the leaf is ours.
//! - [`Subqueries`], [`Subquery`]: DataFusion finds the results of a scalar subquery by nesting
//!   alone; here each use names its `ScalarSubqueryExec`, so that scopes may nest and the keys of a
//!   stage's output may use one too.
//! - [`Cast`]: DataFusion forgets what a cast says of its result besides the type, as that it may be
//!   NULL; a union puts one more projection over an input that it takes for another.
//! - [`Windows`]: whether a window function runs in reverse.
//! - [`Scan`]: compression, framing of JSON and Arrow, line ends of CSV, in which order Parquet's row
//!   groups are best read.
//! - [`Series`]: that no column is wanted of a series, and its order.
//! - [`TopK`]: the operator has no message.
//! - [`CacheScan`], [`Cached`], [`DecodedGroups`]: the leaf that reads a cached table is ours, too,
//!   and what decodes the groups that are made of its codes.
//! - `Groups`: how many sets there are of an aggregate whose grouping sets are all empty.
//! - `Segment`: protobuf's decoder refuses what is nested more than a hundred deep; a deep plan or
//!   expression is cut into pieces that are bytes to one another.

use datafusion_proto::protobuf;

/// A stage as it travels.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Program {
    #[prost(message, optional, tag = "1")]
    pub(super) plan: Option<protobuf::PhysicalPlanNode>,
    #[prost(enumeration = "OutputKind", tag = "2")]
    pub(super) output: i32,
    /// Of outputs that are split.
    #[prost(message, optional, tag = "3")]
    pub(super) partitioning: Option<protobuf::Partitioning>,
    #[prost(uint64, tag = "4")]
    pub(super) task_count: u64,
    /// Of a stage that makes a cached table, how messages call it.
    #[prost(string, optional, tag = "5")]
    pub(super) lineage_of: Option<String>,
    /// Of a stage whose tasks' outputs are the partitions of a cached table.
    #[prost(message, optional, tag = "6")]
    pub(super) cached: Option<Cached>,
}

/// A cached table.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Cached {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
    #[prost(uint64, tag = "3")]
    pub(super) epoch: u64,
    #[prost(message, optional, tag = "4")]
    pub(super) schema: Option<protobuf::Schema>,
    #[prost(message, optional, tag = "5")]
    pub(super) clustered: Option<Places>,
    #[prost(uint64, tag = "6")]
    pub(super) partition_count: u64,
    #[prost(bool, tag = "7")]
    pub(super) is_narrow: bool,
    #[prost(enumeration = "Level", tag = "8")]
    pub(super) level: i32,
}

/// Places of columns.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Places {
    #[prost(uint64, repeated, tag = "1")]
    pub(super) places: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Level {
    MemoryAndDisk = 0,
    MemoryOnly = 1,
    DiskOnly = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CacheScan {
    #[prost(message, optional, tag = "1")]
    pub(super) table: Option<Cached>,
    #[prost(uint32, tag = "2")]
    pub(super) producer: u32,
    #[prost(message, optional, tag = "3")]
    pub(super) projection: Option<Places>,
    #[prost(message, optional, tag = "4")]
    pub(super) filter: Option<protobuf::PhysicalExprNode>,
    #[prost(message, repeated, tag = "5")]
    pub(super) dynamic_filters: Vec<protobuf::PhysicalExprNode>,
    /// Of the batches, how many are wanted and how many there are; for people.
    #[prost(message, optional, tag = "6")]
    pub(super) batches: Option<Places>,
    #[prost(bool, tag = "7")]
    pub(super) is_filter: bool,
    /// Which partitions of the table each of the plan's reads; empty where it is that of its number.
    #[prost(message, repeated, tag = "8")]
    pub(super) groups: Vec<Places>,
    /// Which of the projected columns are given as one number of all.
    #[prost(message, optional, tag = "9")]
    pub(super) coded: Option<Places>,
    /// Whether texts are given without views.
    #[prost(bool, tag = "10")]
    pub(super) is_plain: bool,
}

/// What gives groups over codes their texts back.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecodedGroups {
    /// Which of the groups.
    #[prost(message, optional, tag = "1")]
    pub(super) coded: Option<Places>,
    /// Of what it gives.
    #[prost(message, optional, tag = "2")]
    pub(super) schema: Option<protobuf::Schema>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum OutputKind {
    Split = 0,
    Gather = 1,
    Merge = 2,
    Broadcast = 3,
    Forward = 4,
    Result = 5,
    ResultInOrder = 6,
    Cached = 7,
}

/// What an extension node of a plan holds; its inputs are the node's own.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PlanExtension {
    #[prost(oneof = "PlanKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub(super) kind: Option<PlanKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum PlanKind {
    #[prost(message, tag = "1")]
    Exchange(ExchangeRead),
    /// Inputs: the input, then the subqueries.
    #[prost(message, tag = "2")]
    Subqueries(Subqueries),
    /// Input: the window operator, its functions forward.
    #[prost(message, tag = "3")]
    Windows(Windows),
    /// Input: the scan.
    #[prost(message, tag = "4")]
    Scan(Scan),
    /// Input: the series.
    #[prost(message, tag = "5")]
    Series(Series),
    /// Input: the input.
    #[prost(message, tag = "6")]
    TopK(TopK),
    /// A plan node.
    #[prost(bytes, tag = "7")]
    Segment(Vec<u8>),
    /// Input: the aggregate, without its grouping sets.
    #[prost(uint64, tag = "8")]
    Groups(u64),
    #[prost(message, tag = "9")]
    CacheScan(Box<CacheScan>),
    /// Input: the aggregate over codes.
    #[prost(message, tag = "10")]
    DecodedGroups(DecodedGroups),
}

/// What an extension node of an expression holds.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExprExtension {
    #[prost(oneof = "ExprKind", tags = "1, 2, 3")]
    pub(super) kind: Option<ExprKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum ExprKind {
    #[prost(message, tag = "1")]
    Subquery(Subquery),
    /// An expression node.
    #[prost(bytes, tag = "2")]
    Segment(Vec<u8>),
    #[prost(message, tag = "3")]
    Cast(Cast),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExchangeRead {
    #[prost(uint32, tag = "1")]
    pub(super) producer: u32,
    #[prost(uint64, tag = "2")]
    pub(super) producer_tasks: u64,
    #[prost(enumeration = "ExchangeKind", tag = "3")]
    pub(super) exchange: i32,
    /// What producers are merged by.
    #[prost(message, optional, tag = "4")]
    pub(super) merge_order: Option<SortExprs>,
    #[prost(message, optional, tag = "5")]
    pub(super) schema: Option<protobuf::Schema>,
    #[prost(message, optional, tag = "6")]
    pub(super) partitioning: Option<protobuf::Partitioning>,
    #[prost(message, repeated, tag = "7")]
    pub(super) orders: Vec<SortExprs>,
    #[prost(message, repeated, tag = "8")]
    pub(super) equals: Vec<EqualExprs>,
    #[prost(enumeration = "Emission", tag = "10")]
    pub(super) emission: i32,
    #[prost(enumeration = "Bound", tag = "11")]
    pub(super) bound: i32,
    #[prost(bool, tag = "12")]
    pub(super) is_eager: bool,
    #[prost(bool, tag = "13")]
    pub(super) is_cooperative: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ExchangeKind {
    Shuffle = 0,
    ShuffleMerge = 1,
    Gather = 2,
    Merge = 3,
    Broadcast = 4,
    Forward = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Emission {
    Incremental = 0,
    Final = 1,
    Both = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Bound {
    Bounded = 0,
    Unbounded = 1,
    UnboundedInMemory = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SortExprs {
    #[prost(message, repeated, tag = "1")]
    pub(super) exprs: Vec<protobuf::PhysicalSortExprNode>,
}

/// Expressions that have the same value in each row.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EqualExprs {
    #[prost(message, repeated, tag = "1")]
    pub(super) exprs: Vec<protobuf::PhysicalExprNode>,
    #[prost(enumeration = "Constant", tag = "2")]
    pub(super) constant: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) value: Option<protobuf::ScalarValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Constant {
    No = 0,
    PerPartition = 1,
    Everywhere = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Subqueries {
    #[prost(uint32, tag = "1")]
    pub(super) scope: u32,
    /// Of each subquery, its place in the scope's results.
    #[prost(uint32, repeated, tag = "2")]
    pub(super) places: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Subquery {
    #[prost(uint32, tag = "1")]
    pub(super) scope: u32,
    #[prost(message, optional, tag = "2")]
    pub(super) expr: Option<protobuf::PhysicalExprNode>,
}

/// A cast that says what its result is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Cast {
    #[prost(message, optional, tag = "1")]
    pub(super) expr: Option<protobuf::PhysicalExprNode>,
    #[prost(message, optional, tag = "2")]
    pub(super) field: Option<protobuf::Field>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Windows {
    /// Of each function, whether it runs in reverse.
    #[prost(bool, repeated, tag = "1")]
    pub(super) reversed: Vec<bool>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Scan {
    #[prost(string, tag = "1")]
    pub(super) compression: String,
    #[prost(bool, tag = "2")]
    pub(super) preserve_order: bool,
    #[prost(bool, tag = "3")]
    pub(super) is_json_array: bool,
    #[prost(bool, tag = "4")]
    pub(super) is_arrow_stream: bool,
    #[prost(uint32, optional, tag = "5")]
    pub(super) csv_terminator: Option<u32>,
    /// Of Parquet, the order that the operators above would like best.
    #[prost(message, optional, tag = "6")]
    pub(super) wanted_order: Option<SortExprs>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Series {
    #[prost(bool, tag = "1")]
    pub(super) is_without_columns: bool,
    #[prost(message, repeated, tag = "2")]
    pub(super) orders: Vec<SortExprs>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TopK {
    #[prost(message, optional, tag = "1")]
    pub(super) order: Option<SortExprs>,
    #[prost(uint64, tag = "2")]
    pub(super) prefix_len: u64,
    #[prost(uint64, tag = "3")]
    pub(super) fetch: u64,
    #[prost(bool, tag = "4")]
    pub(super) keeps_ties: bool,
}
