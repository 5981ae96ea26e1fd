//! What there is, as Flight SQL asks for it: catalogs, schemas, tables, keys.
//!
//! The ticket of each is the command itself, so that nothing is kept between the two calls.

use std::sync::{Arc, LazyLock};

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::SqlInfoDataBuilder;
use arrow_flight::sql::{
    Command, CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables,
    ProstMessageExt,
};
use arrow_flight::{FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use tonic::Status;

use super::columns::plain_schema;
use super::front::Answers;
use super::queries::{encode_schema, reported};
use super::sessions::OpenSession;
use super::xdbc::XDBC_TYPES;

/// The types of tables, as `information_schema.tables` has them.
const BASE_TABLE: &str = "BASE TABLE";
const VIEW: &str = "VIEW";

/// Announces the answer to a metadata command.
///
/// # Errors
/// `INTERNAL` if the schema cannot be written.
pub(super) fn announce(
    command: &impl ProstMessageExt,
    schema: &Schema,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Status> {
    let ticket = Ticket::new(command.as_any().encode_to_vec());
    let mut info = FlightInfo::new()
        .with_endpoint(FlightEndpoint::new().with_ticket(ticket))
        .with_descriptor(descriptor)
        .with_ordered(true);
    info.schema = encode_schema(schema)?;
    Ok(info)
}

/// Makes messages of one batch.
pub(super) fn answer(batch: RecordBatch) -> Answers<FlightData> {
    let schema = batch.schema();
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .build(stream::iter([Ok::<_, FlightError>(batch)]))
        .map_err(Status::from)
        .boxed()
}

/// Returns the columns of the answer to a metadata command; `None` if it is none.
pub(super) fn schema_of(command: Command) -> Option<SchemaRef> {
    Some(match command {
        Command::CommandGetCatalogs(command) => command.into_builder().schema(),
        Command::CommandGetDbSchemas(command) => command.into_builder().schema(),
        Command::CommandGetTables(command) => command.into_builder().schema(),
        Command::CommandGetTableTypes(command) => command.into_builder().schema(),
        Command::CommandGetSqlInfo(_) => Arc::new(SqlInfoDataBuilder::schema().clone()),
        Command::CommandGetXdbcTypeInfo(_) => XDBC_TYPES.schema(),
        Command::CommandGetPrimaryKeys(_) => Arc::clone(&PRIMARY_KEYS),
        Command::CommandGetExportedKeys(_)
        | Command::CommandGetImportedKeys(_)
        | Command::CommandGetCrossReference(_) => Arc::clone(&FOREIGN_KEYS),
        _ => return None,
    })
}

/// Lists the catalogs: one.
pub(super) fn catalogs(
    session: &OpenSession,
    command: CommandGetCatalogs,
) -> Result<RecordBatch, Status> {
    let mut builder = command.into_builder();
    builder.append(session.session.catalog_name());
    builder.build().map_err(Status::from)
}

/// Lists the schemas that a filter lets through.
pub(super) fn schemas(
    session: &OpenSession,
    command: CommandGetDbSchemas,
) -> Result<RecordBatch, Status> {
    let catalog = session.session.catalog_name();
    let names = session.session.schema_names().map_err(|error| reported(&error, 0))?;
    let mut builder = command.into_builder();
    for name in names {
        builder.append(catalog, name);
    }
    builder.build().map_err(Status::from)
}

/// Lists the tables that filters let through, with their columns if these are asked for.
pub(super) async fn tables(
    session: &OpenSession,
    command: CommandGetTables,
) -> Result<RecordBatch, Status> {
    let catalog = session.session.catalog_name();
    let listings = session.session.table_listings().map_err(|error| reported(&error, 0))?;
    let with_columns = command.include_schema;
    // Only what is asked for is opened: a table may be many files.
    let wanted = match with_columns {
        true => Some(wanted(catalog, &command, &listings)?),
        false => None,
    };
    let mut builder = command.into_builder();
    for (idx, listing) in listings.iter().enumerate() {
        let columns = match &wanted {
            Some(wanted) if wanted[idx] => {
                plain_schema(&session.session.table_columns(listing).await)
            }
            _ => Arc::new(Schema::empty()),
        };
        let kind = if listing.is_view { VIEW } else { BASE_TABLE };
        let (schema, name) = (&listing.schema, &listing.name);
        builder.append(catalog, schema, name, kind, &columns)?;
    }
    builder.build().map_err(Status::from)
}

/// Tells which tables the filters of a command let through, by the builder's own rules.
fn wanted(
    catalog: &str,
    command: &CommandGetTables,
    listings: &[skep_engine::TableListing],
) -> Result<Vec<bool>, Status> {
    let nothing = Schema::empty();
    let passes = |listing: &skep_engine::TableListing| {
        let command = CommandGetTables { include_schema: false, ..command.clone() };
        let mut builder = command.into_builder();
        let kind = if listing.is_view { VIEW } else { BASE_TABLE };
        builder.append(catalog, &listing.schema, &listing.name, kind, &nothing)?;
        Ok(builder.build()?.num_rows() > 0)
    };
    listings.iter().map(passes).collect()
}

/// Lists the types of tables.
pub(super) fn table_types(command: CommandGetTableTypes) -> Result<RecordBatch, Status> {
    let mut builder = command.into_builder();
    builder.append(BASE_TABLE);
    builder.append(VIEW);
    builder.build().map_err(Status::from)
}

/// Lists no primary keys: tables have none.
pub(super) fn primary_keys() -> RecordBatch {
    RecordBatch::new_empty(Arc::clone(&PRIMARY_KEYS))
}

/// Lists no foreign keys: tables have none.
pub(super) fn foreign_keys() -> RecordBatch {
    RecordBatch::new_empty(Arc::clone(&FOREIGN_KEYS))
}

/// The columns of `CommandGetPrimaryKeys`. Source: FlightSql.proto.
pub(super) static PRIMARY_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
});

/// The columns of the commands for exported and imported keys and for cross references. Source:
/// FlightSql.proto.
pub(super) static FOREIGN_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
});
