//! Planning a content: from the plan that is cached to the lineage of its partitions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::repartition::RepartitionExec;
use skep_store::ids::Epoch;

use super::content::{Content, ContentParts};
use super::definitions::Identity;
use super::hosted::{CachedShape, HostedParts, HostedTable};
use super::level::{CacheOptions, ClusterBy};
use super::lineage::{Lineage, let_go, reads_hosted, widened};
use super::substitute::CacheScope;
use super::tables::{CachedPlan, CachedTables, MAX_PARTITIONS};
use super::through::ThroughExec;
use crate::error::{Error, Result};
use crate::guard::guard;
use crate::optimizer;

/// Which content of a cached plan is made.
#[derive(Debug)]
pub(super) struct Making<'a> {
    pub(super) plan: &'a CachedPlan,
    /// From what it may be made.
    pub(super) scope: CacheScope,
    /// How many changes of the sources it will have.
    pub(super) as_of: u64,
    /// The reading of the sources that it is of.
    pub(super) reading: u64,
    /// The content that somebody keeps for the process before this one.
    pub(super) identity: Option<&'a Identity>,
}

impl CachedTables {
    /// Plans a content; none of its partitions is made yet.
    ///
    /// # Errors
    /// If it cannot be planned, or is not what the process before this one had.
    pub(super) async fn new_content(
        self: &Arc<Self>,
        state: &SessionState,
        making: Making<'_>,
    ) -> Result<Arc<Content>> {
        let Making { plan: CachedPlan { id, name, plan, options, .. }, identity, .. } = making;
        let store = self.store.get().await?.clone();
        let state = SessionStateBuilder::new_from_existing(state.clone())
            .with_analyzer_rules(optimizer::analyzer_rules(Some((self, Some(making.scope)))))
            .build();
        let width = state.config().target_partitions();
        let physical = widened(guard(state.create_physical_plan(plan)).await??, width)?;
        let schema = content_schema(plan, &physical)?;
        let clustering = match &options.cluster_by {
            Some(cluster_by) => Some(cluster_columns(cluster_by, &schema, width)?),
            None => None,
        };
        let context = state.task_ctx();
        let lineage_of = |physical: Arc<dyn ExecutionPlan>| {
            let physical = match &clustering {
                Some((columns, count)) => clustered_plan(physical, &schema, columns, *count)?,
                None => physical,
            };
            Ok::<_, Error>(Lineage::new(physical, Arc::clone(&context))?)
        };
        let mut lineage = lineage_of(Arc::clone(&physical))?;
        // Rows lie by the values that the plan gives, which queries see as these only if they are of
        // the same types.
        let is_as_seen = |column: &usize| {
            physical.schema().field(*column).data_type() == schema.field(*column).data_type()
        };
        let clustered = clustering.as_ref().map(|(columns, _count)| columns);
        let clustered = clustered.filter(|columns| columns.iter().all(is_as_seen)).cloned();
        let mut shape = CachedShape {
            name: name.to_string(),
            key: match identity {
                Some(known) => known.key.as_str().into(),
                None => format!("{name}#{id}").into(),
            },
            epoch: Epoch(match identity {
                Some(known) => known.epoch,
                None => self.epochs.fetch_add(1, Ordering::Relaxed),
            }),
            schema: Arc::clone(&schema),
            clustered,
            partition_count: lineage.partition_count(),
            is_narrow: lineage.is_narrow,
        };
        let hosted = self.host(&shape, options, &lineage)?;
        if let Some(hosted) = &hosted {
            shape = hosted.shape().as_ref().clone();
        } else if reads_hosted(lineage.plan())? {
            let executor = Arc::clone(&self.hosting.executor);
            let through = ThroughExec::new(let_go(physical)?, executor);
            lineage = lineage_of(Arc::new(through))?;
            shape.partition_count = lineage.partition_count();
            shape.is_narrow = lineage.is_narrow;
        }
        let content = Content::new(ContentParts {
            shape: Arc::new(shape),
            level: options.level,
            as_of: making.as_of,
            reading: making.reading,
            store,
            hosted,
            width,
            lineage,
            epochs: Arc::clone(&self.epochs),
        });
        match identity {
            Some(known) if content.fingerprint != known.fingerprint => {
                content.end();
                Err(Error::plan("it is not made as it was"))
            }
            _ => Ok(content),
        }
    }

    /// Finds somebody who keeps a content in place of this process.
    fn host(
        &self,
        shape: &CachedShape,
        options: &CacheOptions,
        lineage: &Lineage,
    ) -> Result<Option<Arc<dyn HostedTable>>> {
        let Some(host) = &self.hosting.host else { return Ok(None) };
        host.adopt(HostedParts {
            shape: Arc::new(shape.clone()),
            level: options.level,
            plan: Arc::clone(lineage.plan()),
            context: Arc::clone(lineage.context()),
        })
    }
}

/// Returns the columns as queries see them, each with a name of its own.
fn content_schema(plan: &LogicalPlan, physical: &Arc<dyn ExecutionPlan>) -> Result<SchemaRef> {
    let (seen, made) = (plan.schema(), physical.schema());
    if seen.fields().len() != made.fields().len() {
        return Err(Error::Internal {
            message: "a plan has other columns than its query".to_owned(),
            source: None,
        });
    }
    let mut fields: Vec<Field> = Vec::with_capacity(seen.fields().len());
    for (idx, (field, made)) in seen.fields().iter().zip(made.fields()).enumerate() {
        let is_known = fields.iter().any(|other| other.name() == field.name());
        let name = if is_known { format!("{}:{idx}", field.name()) } else { field.name().clone() };
        let is_nullable = field.is_nullable() || made.is_nullable();
        fields.push(field.as_ref().clone().with_name(name).with_nullable(is_nullable));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn cluster_columns(
    cluster_by: &ClusterBy,
    schema: &Schema,
    width: usize,
) -> Result<(Vec<usize>, usize)> {
    let count = cluster_by.partitions.unwrap_or(width);
    if count == 0 || count > MAX_PARTITIONS {
        return Err(Error::plan(format!(
            "a table is clustered into 1 to {MAX_PARTITIONS} partitions, not {count}"
        )));
    }
    let mut columns = Vec::with_capacity(cluster_by.columns.len());
    for name in &cluster_by.columns {
        let Ok(column) = schema.index_of(name) else {
            let known = schema.fields().iter().map(|field| field.name().as_str());
            return Err(Error::not_found("column", name, known));
        };
        if columns.contains(&column) {
            return Err(Error::plan(format!("column \"{name}\" is in CLUSTER BY twice")));
        }
        columns.push(column);
    }
    if columns.is_empty() {
        return Err(Error::plan("CLUSTER BY needs a column"));
    }
    Ok((columns, count))
}

fn clustered_plan(
    plan: Arc<dyn ExecutionPlan>,
    schema: &Schema,
    columns: &[usize],
    count: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let keys = columns.iter().map(|column| {
        Arc::new(Column::new(schema.field(*column).name(), *column)) as Arc<dyn PhysicalExpr>
    });
    let partitioning = Partitioning::Hash(keys.collect(), count);
    Ok(Arc::new(RepartitionExec::try_new(plan, partitioning)?))
}
