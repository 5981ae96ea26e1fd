//! What the server says of itself: `CommandGetSqlInfo`.
//!
//! Drivers believe it: whether there are transactions, how identifiers are quoted, how long a
//! statement may be. So it says what is true, also where another answer would please them.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity,
    SqlSupportedGroupBy, SqlSupportedResultSetConcurrency, SqlSupportedResultSetType,
    SqlSupportedSubqueries, SqlSupportedTransaction, SqlSupportedUnions, SqlSupportsConvert,
    SqlTransactionIsolationLevel,
};
use skep_engine::{SUBSTRAIT_VERSIONS, Session};

/// The version of Arrow, as its crates are numbered.
const ARROW_VERSION: &str = "59";

/// Words that stand for something here and not in SQL-92.
const KEYWORDS: [&str; 12] = [
    "ANTI", "CACHE", "CLUSTER", "COPY", "DATABASE", "EXPLAIN", "LATERAL", "LIMIT", "OFFSET",
    "QUALIFY", "SEMI", "UNNEST",
];

/// Bounds that a driver may ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Most bytes of a statement.
    pub(super) statement_bytes: usize,
    /// Most sessions.
    pub(super) sessions: usize,
    /// How long a prepared statement can be used.
    pub(super) prepared_timeout: Duration,
}

/// Says all that there is to say.
///
/// # Errors
/// Arrow's, if the columns do not fit together.
pub(super) fn sql_info(session: &Session, bounds: Bounds) -> Result<SqlInfoData, FlightError> {
    let mut info = SqlInfoDataBuilder::new();
    server(&mut info, bounds);
    names(&mut info);
    functions(&mut info, session);
    grammar(&mut info);
    results(&mut info);
    limits(&mut info, bounds);
    info.build()
}

fn server(info: &mut SqlInfoDataBuilder, bounds: Bounds) {
    info.append(SqlInfo::FlightSqlServerName, "skep");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, ARROW_VERSION);
    info.append(SqlInfo::FlightSqlServerReadOnly, false);
    info.append(SqlInfo::FlightSqlServerSql, true);
    let [oldest, newest] = SUBSTRAIT_VERSIONS;
    info.append(SqlInfo::FlightSqlServerSubstrait, true);
    info.append(SqlInfo::FlightSqlServerSubstraitMinVersion, oldest);
    info.append(SqlInfo::FlightSqlServerSubstraitMaxVersion, newest);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    // Of handles of prepared statements, in milliseconds; what runs has no limit by default.
    let timeout = i32::try_from(bounds.prepared_timeout.as_millis()).unwrap_or(i32::MAX);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, timeout);
    // None.
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
}

fn names(info: &mut SqlInfoDataBuilder) {
    use SqlSupportedCaseSensitivity::{SqlCaseSensitivityLowercase, SqlCaseSensitivityUnknown};
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, true);
    info.append(SqlInfo::SqlDdlTable, true);
    info.append(SqlInfo::SqlIdentifierCase, SqlCaseSensitivityLowercase as i32);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    // There is no word for what they are: kept as written, and told apart by case.
    info.append(SqlInfo::SqlQuotedIdentifierCase, SqlCaseSensitivityUnknown as i32);
    info.append(SqlInfo::SqlKeywords, KEYWORDS.as_slice());
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlExtraNameCharacters, "");
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlProcedureTerm, "procedure");
    info.append(SqlInfo::SqlCatalogAtStart, true);
    info.append(SqlInfo::SqlSchemasSupportedActions, 0_i32);
    info.append(SqlInfo::SqlCatalogsSupportedActions, 0_i32);
}

fn functions(info: &mut SqlInfoDataBuilder, session: &Session) {
    let named = |section: &str| session.function_names(section);
    info.append(SqlInfo::SqlNumericFunctions, named("Math Functions"));
    info.append(SqlInfo::SqlStringFunctions, named("String Functions"));
    info.append(SqlInfo::SqlSystemFunctions, named("Conditional Functions"));
    info.append(SqlInfo::SqlDatetimeFunctions, named("Time and Date Functions"));
    use SqlSupportsConvert::{
        SqlConvertBigint, SqlConvertDate, SqlConvertDecimal, SqlConvertFloat, SqlConvertInteger,
        SqlConvertReal, SqlConvertSmallint, SqlConvertTimestamp, SqlConvertTinyint,
        SqlConvertVarchar,
    };
    let numbers = [
        SqlConvertTinyint,
        SqlConvertSmallint,
        SqlConvertInteger,
        SqlConvertBigint,
        SqlConvertReal,
        SqlConvertFloat,
        SqlConvertDecimal,
    ];
    let times = [SqlConvertDate, SqlConvertTimestamp];
    let list = |types: &[SqlSupportsConvert]| {
        let types = types.iter().chain([&SqlConvertVarchar]);
        types.map(|to| *to as i32).collect::<Vec<_>>()
    };
    let mut conversions = BTreeMap::new();
    for from in numbers {
        conversions.insert(from as i32, list(&numbers));
    }
    for from in times {
        conversions.insert(from as i32, list(&times));
    }
    conversions.insert(SqlConvertVarchar as i32, list(&[numbers.as_slice(), &times].concat()));
    info.append(SqlInfo::SqlSupportsConvert, conversions);
}

fn grammar(info: &mut SqlInfoDataBuilder) {
    use SqlSupportedGroupBy::{SqlGroupByBeyondSelect, SqlGroupByUnrelated};
    use SqlSupportedSubqueries::{
        SqlSubqueriesInComparisons, SqlSubqueriesInExists, SqlSubqueriesInIns,
    };
    let bit = |flag: i32| 1_i32 << flag;
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    info.append(SqlInfo::SqlSupportsColumnAliasing, true);
    info.append(SqlInfo::SqlNullPlusNullIsNull, true);
    info.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    info.append(SqlInfo::SqlSupportsDifferentTableCorrelationNames, false);
    info.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    info.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    let groups = bit(SqlGroupByUnrelated as i32) | bit(SqlGroupByBeyondSelect as i32);
    info.append(SqlInfo::SqlSupportedGroupBy, groups);
    info.append(SqlInfo::SqlSupportsLikeEscapeClause, true);
    info.append(SqlInfo::SqlSupportsNonNullableColumns, true);
    // The least of each has UPDATE and DELETE.
    info.append(SqlInfo::SqlSupportedGrammar, 0_i32);
    info.append(SqlInfo::SqlAnsi92SupportedLevel, 0_i32);
    info.append(SqlInfo::SqlSupportsIntegrityEnhancementFacility, false);
    let joins = SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32;
    info.append(SqlInfo::SqlOuterJoinsSupportLevel, joins);
    info.append(SqlInfo::SqlSupportedPositionedCommands, 0_i32);
    info.append(SqlInfo::SqlSelectForUpdateSupported, false);
    info.append(SqlInfo::SqlStoredProceduresSupported, false);
    let subqueries = bit(SqlSubqueriesInComparisons as i32)
        | bit(SqlSubqueriesInExists as i32)
        | bit(SqlSubqueriesInIns as i32);
    info.append(SqlInfo::SqlSupportedSubqueries, subqueries);
    info.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    let unions =
        bit(SqlSupportedUnions::SqlUnion as i32) | bit(SqlSupportedUnions::SqlUnionAll as i32);
    info.append(SqlInfo::SqlSupportedUnions, unions);
}

fn results(info: &mut SqlInfoDataBuilder) {
    use SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly;
    use SqlSupportedResultSetType::SqlResultSetTypeForwardOnly;
    let none = SqlTransactionIsolationLevel::SqlTransactionNone as i32;
    info.append(SqlInfo::SqlDefaultTransactionIsolation, none);
    info.append(SqlInfo::SqlTransactionsSupported, false);
    info.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, 1_i32 << none);
    info.append(SqlInfo::SqlDataDefinitionCausesTransactionCommit, false);
    info.append(SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false);
    let forward = 1_i32 << SqlResultSetTypeForwardOnly as i32;
    let read_only = 1_i32 << SqlResultSetConcurrencyReadOnly as i32;
    info.append(SqlInfo::SqlSupportedResultSetTypes, forward);
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified, 0_i32);
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly, read_only);
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0_i32);
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0_i32);
    info.append(SqlInfo::SqlBatchUpdatesSupported, true);
    info.append(SqlInfo::SqlSavepointsSupported, false);
    info.append(SqlInfo::SqlNamedParametersSupported, false);
    info.append(SqlInfo::SqlLocatorsUpdateCopy, false);
    info.append(SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false);
}

fn limits(info: &mut SqlInfoDataBuilder, bounds: Bounds) {
    let number = |bound: usize| i64::try_from(bound).unwrap_or(i64::MAX);
    info.append(SqlInfo::SqlMaxStatementLength, number(bounds.statement_bytes));
    info.append(SqlInfo::SqlMaxConnections, number(bounds.sessions));
    // Zero: no bound, or none that is known.
    for unbounded in [
        SqlInfo::SqlMaxBinaryLiteralLength,
        SqlInfo::SqlMaxCharLiteralLength,
        SqlInfo::SqlMaxColumnNameLength,
        SqlInfo::SqlMaxColumnsInGroupBy,
        SqlInfo::SqlMaxColumnsInIndex,
        SqlInfo::SqlMaxColumnsInOrderBy,
        SqlInfo::SqlMaxColumnsInSelect,
        SqlInfo::SqlMaxColumnsInTable,
        SqlInfo::SqlMaxCursorNameLength,
        SqlInfo::SqlMaxIndexLength,
        SqlInfo::SqlDbSchemaNameLength,
        SqlInfo::SqlMaxProcedureNameLength,
        SqlInfo::SqlMaxCatalogNameLength,
        SqlInfo::SqlMaxRowSize,
        SqlInfo::SqlMaxStatements,
        SqlInfo::SqlMaxTableNameLength,
        SqlInfo::SqlMaxTablesInSelect,
        SqlInfo::SqlMaxUsernameLength,
    ] {
        info.append(unbounded, 0_i64);
    }
    info.append(SqlInfo::SqlMaxRowSizeIncludesBlobs, true);
}

#[cfg(test)]
mod tests {
    use skep_engine::{Engine, EngineConfig};

    use super::*;

    #[tokio::test]
    async fn everything_that_can_be_asked_is_answered() {
        let config = EngineConfig { memory_limit: Some(64 << 20), ..EngineConfig::default() };
        let session = Engine::open(config).await.unwrap().session();
        let bounds =
            Bounds { statement_bytes: 100, sessions: 10, prepared_timeout: Duration::from_secs(1) };
        let info = sql_info(&session, bounds).unwrap();
        for number in 0..1000_i32 {
            let Ok(known) = SqlInfo::try_from(number) else { continue };
            let rows = info.record_batch([number as u32]).unwrap().num_rows();
            assert_eq!(rows, 1, "{known:?}");
        }
        assert!(session.function_names("String Functions").contains(&"upper".to_owned()));
    }
}
