//! Rewrites of the syntax tree that give DataFusion's planner what it answers rightly.
use crate::error::Result;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::DFSchemaRef;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast;
pub(crate) trait RelationSchemas {
    fn schema_of(&self, query: &ast::Query) -> Result<DFSchemaRef>;
}
pub(crate) fn rewrite_statement(_: &mut ast::Statement, _: &dyn RelationSchemas) -> Result<()> {
    Ok(())
}
pub(crate) fn rename_duplicate_outputs(_: &mut ast::Statement) -> bool {
    false
}
pub(crate) fn restore_output_names(schema: &SchemaRef) -> SchemaRef {
    SchemaRef::clone(schema)
}
pub(crate) fn is_duplicate_name(_: &DataFusionError) -> bool {
    false
}
