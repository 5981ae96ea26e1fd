//! The types of SQL here, as drivers list them: `CommandGetXdbcTypeInfo`.

use std::sync::LazyLock;

use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};

/// The types, by the names that `CREATE TABLE` takes.
pub(super) static XDBC_TYPES: LazyLock<XdbcTypeInfoData> = LazyLock::new(|| {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for info in numbers().into_iter().chain(texts()).chain(times()) {
        builder.append(info);
    }
    // It fails only for columns of unequal length.
    builder.build().unwrap_or_else(|error| unreachable!("the list of types: {error}"))
});

fn plain(name: &str, data_type: XdbcDataType) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type,
        sql_data_type: data_type,
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        auto_increment: Some(false),
        local_type_name: Some(name.to_owned()),
        ..XdbcTypeInfo::default()
    }
}

fn integer(name: &str, data_type: XdbcDataType, digits: i32, is_unsigned: bool) -> XdbcTypeInfo {
    XdbcTypeInfo {
        column_size: Some(digits),
        unsigned_attribute: Some(is_unsigned),
        minimum_scale: Some(0),
        maximum_scale: Some(0),
        num_prec_radix: Some(10),
        ..plain(name, data_type)
    }
}

fn numbers() -> Vec<XdbcTypeInfo> {
    use XdbcDataType::{
        XdbcBigint, XdbcBit, XdbcDecimal, XdbcDouble, XdbcInteger, XdbcReal, XdbcSmallint,
        XdbcTinyint,
    };
    let float = |name, data_type, bits| XdbcTypeInfo {
        column_size: Some(bits),
        unsigned_attribute: Some(false),
        num_prec_radix: Some(2),
        ..plain(name, data_type)
    };
    vec![
        XdbcTypeInfo { column_size: Some(1), ..plain("BOOLEAN", XdbcBit) },
        integer("TINYINT", XdbcTinyint, 3, false),
        integer("SMALLINT", XdbcSmallint, 5, false),
        integer("INT", XdbcInteger, 10, false),
        integer("BIGINT", XdbcBigint, 19, false),
        integer("TINYINT UNSIGNED", XdbcTinyint, 3, true),
        integer("SMALLINT UNSIGNED", XdbcSmallint, 5, true),
        integer("INT UNSIGNED", XdbcInteger, 10, true),
        integer("BIGINT UNSIGNED", XdbcBigint, 20, true),
        float("REAL", XdbcReal, 24),
        float("DOUBLE", XdbcDouble, 53),
        XdbcTypeInfo {
            column_size: Some(76),
            create_params: Some(vec!["precision".to_owned(), "scale".to_owned()]),
            unsigned_attribute: Some(false),
            fixed_prec_scale: true,
            minimum_scale: Some(-76),
            maximum_scale: Some(76),
            num_prec_radix: Some(10),
            ..plain("DECIMAL", XdbcDecimal)
        },
    ]
}

fn texts() -> Vec<XdbcTypeInfo> {
    let quoted = |prefix: &str| (Some(prefix.to_owned()), Some("'".to_owned()));
    let (literal_prefix, literal_suffix) = quoted("'");
    let text = XdbcTypeInfo {
        column_size: Some(i32::MAX),
        literal_prefix,
        literal_suffix,
        case_sensitive: true,
        ..plain("VARCHAR", XdbcDataType::XdbcVarchar)
    };
    let (literal_prefix, literal_suffix) = quoted("X'");
    let bytes = XdbcTypeInfo {
        column_size: Some(i32::MAX),
        literal_prefix,
        literal_suffix,
        ..plain("BYTEA", XdbcDataType::XdbcVarbinary)
    };
    vec![text, bytes]
}

fn times() -> Vec<XdbcTypeInfo> {
    use XdbcDatetimeSubcode::{
        XdbcSubcodeTime, XdbcSubcodeTimestamp, XdbcSubcodeTimestampWithTimezone, XdbcSubcodeYear,
    };
    let time = |name: &str, keyword: &str, data_type, code, size| XdbcTypeInfo {
        column_size: Some(size),
        literal_prefix: Some(format!("{keyword} '")),
        literal_suffix: Some("'".to_owned()),
        sql_data_type: XdbcDataType::XdbcDatetime,
        datetime_subcode: Some(code),
        ..plain(name, data_type)
    };
    let timestamp = XdbcDataType::XdbcTimestamp;
    vec![
        // The number 1 has two names: year, and date.
        time("DATE", "DATE", XdbcDataType::XdbcDate, XdbcSubcodeYear, 10),
        time("TIME", "TIME", XdbcDataType::XdbcTime, XdbcSubcodeTime, 18),
        time("TIMESTAMP", "TIMESTAMP", timestamp, XdbcSubcodeTimestamp, 29),
        time(
            "TIMESTAMP WITH TIME ZONE",
            "TIMESTAMP",
            timestamp,
            XdbcSubcodeTimestampWithTimezone,
            35,
        ),
        XdbcTypeInfo {
            literal_prefix: Some("INTERVAL '".to_owned()),
            literal_suffix: Some("'".to_owned()),
            ..plain("INTERVAL", XdbcDataType::XdbcInterval)
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_listed_all_or_by_number() {
        assert_eq!(XDBC_TYPES.record_batch(None).unwrap().num_rows(), 19);
        let bigints = i32::from(XdbcDataType::XdbcBigint);
        assert_eq!(XDBC_TYPES.record_batch(Some(bigints)).unwrap().num_rows(), 2);
    }
}
