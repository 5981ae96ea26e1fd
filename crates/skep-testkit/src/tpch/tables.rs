//! The eight tables: their columns, and their generated rows as Arrow batches or lines of CSV.
//!
//! `tpchgen` knows nothing of Arrow, so each table's columns are listed here with the field of the
//! generated row that fills them. Keys are 64-bit integers, money is `DECIMAL(15, 2)`, strings are
//! UTF-8.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Result;
use datafusion::arrow::array::builder::{
    Date32Builder, Decimal128Builder, Int32Builder, Int64Builder, StringBuilder,
};
use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tpchgen::csv::{
    CustomerCsv, LineItemCsv, NationCsv, OrderCsv, PartCsv, PartSuppCsv, RegionCsv, SupplierCsv,
};
use tpchgen::dates::TPCHDate;
use tpchgen::decimal::TPCHDecimal;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};

/// Rows in a batch on the way to a file.
const BATCH_ROW_COUNT: usize = 64 * 1024;

/// One of the eight tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum Table {
    Nation,
    Region,
    Part,
    Supplier,
    PartSupp,
    Customer,
    Orders,
    LineItem,
}

/// The tables, in the order of the specification.
pub const TABLES: [Table; 8] = [
    Table::Nation,
    Table::Region,
    Table::Part,
    Table::Supplier,
    Table::PartSupp,
    Table::Customer,
    Table::Orders,
    Table::LineItem,
];

/// A column under construction; each kind also has a `push` for what the generator gives.
trait Column: Default {
    const DATA_TYPE: DataType;
    fn finish(self) -> Result<ArrayRef>;
}

/// Keys: 64-bit integers.
#[derive(Default)]
struct Key(Int64Builder);

impl Key {
    fn push(&mut self, value: i64) {
        self.0.append_value(value);
    }
}

impl Column for Key {
    const DATA_TYPE: DataType = DataType::Int64;

    fn finish(mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.0.finish()))
    }
}

/// Small numbers: 32-bit integers.
#[derive(Default)]
struct Number(Int32Builder);

impl Number {
    fn push(&mut self, value: i32) {
        self.0.append_value(value);
    }
}

impl Column for Number {
    const DATA_TYPE: DataType = DataType::Int32;

    fn finish(mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.0.finish()))
    }
}

/// Money and quantities: `DECIMAL(15, 2)`.
#[derive(Default)]
struct Money(Decimal128Builder);

impl Money {
    const PRECISION: u8 = 15;
    const SCALE: i8 = 2;

    fn push(&mut self, value: TPCHDecimal) {
        self.0.append_value(value.into_inner().into());
    }
}

impl Column for Money {
    const DATA_TYPE: DataType = DataType::Decimal128(Self::PRECISION, Self::SCALE);

    fn finish(mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.0.finish().with_precision_and_scale(Self::PRECISION, Self::SCALE)?))
    }
}

/// Calendar dates.
#[derive(Default)]
struct Date(Date32Builder);

impl Date {
    fn push(&mut self, value: TPCHDate) {
        self.0.append_value(value.to_unix_epoch());
    }
}

impl Column for Date {
    const DATA_TYPE: DataType = DataType::Date32;

    fn finish(mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.0.finish()))
    }
}

/// Strings, written as the generator's values display.
#[derive(Default)]
struct Text(StringBuilder);

impl Text {
    fn push(&mut self, value: impl Display) {
        // The builder takes whatever is written to it.
        let _ = write!(self.0, "{value}");
        self.0.append_value("");
    }
}

impl Column for Text {
    const DATA_TYPE: DataType = DataType::Utf8;

    fn finish(mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.0.finish()))
    }
}

/// Writes the functions of one table: schema, batches, CSV.
macro_rules! table {
    ($module:ident, $generator:ident, $csv:ident, $row:ident, {
        $($column:ident: $kind:ident = $value:expr,)*
    }) => {
        mod $module {
            use super::*;

            pub(super) fn schema() -> SchemaRef {
                let column = |name, data_type| Field::new(name, data_type, false);
                Arc::new(Schema::new(vec![
                    $(column(stringify!($column), <$kind as Column>::DATA_TYPE)),*
                ]))
            }

            pub(super) fn write_batches(
                scale: f64,
                sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
            ) -> Result<()> {
                let schema = schema();
                let mut rows = $generator::new(scale, 1, 1).iter();
                loop {
                    $(let mut $column = $kind::default();)*
                    let mut row_count = 0;
                    for $row in rows.by_ref().take(BATCH_ROW_COUNT) {
                        $($column.push($value);)*
                        row_count += 1;
                    }
                    if row_count == 0 {
                        return Ok(());
                    }
                    let columns = vec![$($column.finish()?),*];
                    sink(RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
                }
            }

            pub(super) fn write_csv(scale: f64, out: &mut dyn Write) -> io::Result<()> {
                writeln!(out, "{}", $csv::header())?;
                for row in $generator::new(scale, 1, 1).iter() {
                    writeln!(out, "{}", $csv::new(row))?;
                }
                Ok(())
            }
        }
    };
}

table!(nation, NationGenerator, NationCsv, row, {
    n_nationkey: Key = row.n_nationkey,
    n_name: Text = row.n_name,
    n_regionkey: Key = row.n_regionkey,
    n_comment: Text = row.n_comment,
});

table!(region, RegionGenerator, RegionCsv, row, {
    r_regionkey: Key = row.r_regionkey,
    r_name: Text = row.r_name,
    r_comment: Text = row.r_comment,
});

table!(part, PartGenerator, PartCsv, row, {
    p_partkey: Key = row.p_partkey,
    p_name: Text = row.p_name,
    p_mfgr: Text = row.p_mfgr,
    p_brand: Text = row.p_brand,
    p_type: Text = row.p_type,
    p_size: Number = row.p_size,
    p_container: Text = row.p_container,
    p_retailprice: Money = row.p_retailprice,
    p_comment: Text = row.p_comment,
});

table!(supplier, SupplierGenerator, SupplierCsv, row, {
    s_suppkey: Key = row.s_suppkey,
    s_name: Text = row.s_name,
    s_address: Text = row.s_address,
    s_nationkey: Key = row.s_nationkey,
    s_phone: Text = row.s_phone,
    s_acctbal: Money = row.s_acctbal,
    s_comment: Text = row.s_comment,
});

table!(partsupp, PartSuppGenerator, PartSuppCsv, row, {
    ps_partkey: Key = row.ps_partkey,
    ps_suppkey: Key = row.ps_suppkey,
    ps_availqty: Number = row.ps_availqty,
    ps_supplycost: Money = row.ps_supplycost,
    ps_comment: Text = row.ps_comment,
});

table!(customer, CustomerGenerator, CustomerCsv, row, {
    c_custkey: Key = row.c_custkey,
    c_name: Text = row.c_name,
    c_address: Text = row.c_address,
    c_nationkey: Key = row.c_nationkey,
    c_phone: Text = row.c_phone,
    c_acctbal: Money = row.c_acctbal,
    c_mktsegment: Text = row.c_mktsegment,
    c_comment: Text = row.c_comment,
});

table!(orders, OrderGenerator, OrderCsv, row, {
    o_orderkey: Key = row.o_orderkey,
    o_custkey: Key = row.o_custkey,
    o_orderstatus: Text = row.o_orderstatus,
    o_totalprice: Money = row.o_totalprice,
    o_orderdate: Date = row.o_orderdate,
    o_orderpriority: Text = row.o_orderpriority,
    o_clerk: Text = row.o_clerk,
    o_shippriority: Number = row.o_shippriority,
    o_comment: Text = row.o_comment,
});

table!(lineitem, LineItemGenerator, LineItemCsv, row, {
    l_orderkey: Key = row.l_orderkey,
    l_partkey: Key = row.l_partkey,
    l_suppkey: Key = row.l_suppkey,
    l_linenumber: Number = row.l_linenumber,
    // The generator counts whole units here, and hundredths elsewhere.
    l_quantity: Money = TPCHDecimal::new(row.l_quantity * 100),
    l_extendedprice: Money = row.l_extendedprice,
    l_discount: Money = row.l_discount,
    l_tax: Money = row.l_tax,
    l_returnflag: Text = row.l_returnflag,
    l_linestatus: Text = row.l_linestatus,
    l_shipdate: Date = row.l_shipdate,
    l_commitdate: Date = row.l_commitdate,
    l_receiptdate: Date = row.l_receiptdate,
    l_shipinstruct: Text = row.l_shipinstruct,
    l_shipmode: Text = row.l_shipmode,
    l_comment: Text = row.l_comment,
});

impl Table {
    /// Returns the table's name, which is also the stem of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nation => "nation",
            Self::Region => "region",
            Self::Part => "part",
            Self::Supplier => "supplier",
            Self::PartSupp => "partsupp",
            Self::Customer => "customer",
            Self::Orders => "orders",
            Self::LineItem => "lineitem",
        }
    }

    /// Returns the columns.
    pub fn schema(self) -> SchemaRef {
        match self {
            Self::Nation => nation::schema(),
            Self::Region => region::schema(),
            Self::Part => part::schema(),
            Self::Supplier => supplier::schema(),
            Self::PartSupp => partsupp::schema(),
            Self::Customer => customer::schema(),
            Self::Orders => orders::schema(),
            Self::LineItem => lineitem::schema(),
        }
    }

    /// Generates the rows, in key order, and hands them to `sink` batch by batch.
    pub(super) fn write_batches(
        self,
        scale: f64,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Nation => nation::write_batches(scale, sink),
            Self::Region => region::write_batches(scale, sink),
            Self::Part => part::write_batches(scale, sink),
            Self::Supplier => supplier::write_batches(scale, sink),
            Self::PartSupp => partsupp::write_batches(scale, sink),
            Self::Customer => customer::write_batches(scale, sink),
            Self::Orders => orders::write_batches(scale, sink),
            Self::LineItem => lineitem::write_batches(scale, sink),
        }
    }

    /// Generates the rows, in key order, as CSV with a header.
    pub(super) fn write_csv(self, scale: f64, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Nation => nation::write_csv(scale, out),
            Self::Region => region::write_csv(scale, out),
            Self::Part => part::write_csv(scale, out),
            Self::Supplier => supplier::write_csv(scale, out),
            Self::PartSupp => partsupp::write_csv(scale, out),
            Self::Customer => customer::write_csv(scale, out),
            Self::Orders => orders::write_csv(scale, out),
            Self::LineItem => lineitem::write_csv(scale, out),
        }
    }
}
