//! Queries as Substrait plans, and the DataFrames of the Rust client that travel as such.

use std::sync::Arc;

use arrow_flight::Action;
use arrow_flight::FlightDescriptor;
use arrow_flight::sql::{
    ActionCreatePreparedSubstraitPlanRequest, CommandStatementSubstraitPlan, ProstMessageExt,
    SqlInfo, SubstraitPlan,
};
use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use datafusion::common::JoinType;
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::prelude::{DataFrame, Expr, col, lit, placeholder};
use datafusion_substrait::substrait::proto::expression::MaskExpression;
use datafusion_substrait::substrait::proto::expression::mask_expression::{
    StructItem, StructSelect,
};
use datafusion_substrait::substrait::proto::extensions::simple_extension_declaration::MappingType;
use datafusion_substrait::substrait::proto::plan_rel::RelType as RootType;
use datafusion_substrait::substrait::proto::read_rel::{LocalFiles, ReadType};
use datafusion_substrait::substrait::proto::rel::RelType;
use datafusion_substrait::substrait::proto::{Plan, ReadRel, Rel, RelRoot};
use prost::Message;
use skep_client::{Client, ErrorCode, Statement, substrait_plan};
use skep_testkit::render;
use tonic::{Code, Request};

use super::{connect, fetch, rendered};
use crate::cluster::rows;
use crate::role::Coordinator;

async fn answer(statement: Statement) -> Result<Vec<Vec<String>>, skep_client::Error> {
    let schema = statement.schema();
    let batches = statement.collect().await?;
    Ok(render::rows(&schema, &batches).unwrap())
}

async fn run(client: &Client, frame: DataFrame) -> Result<Vec<Vec<String>>, skep_client::Error> {
    answer(client.execute_dataframe(frame).await?).await
}

async fn run_plan(client: &Client, plan: &Plan) -> Result<Vec<Vec<String>>, skep_client::Error> {
    answer(client.execute_substrait(plan.encode_to_vec()).await?).await
}

/// A coordinator with tables of people and what they bought.
async fn shop() -> (Coordinator, Client) {
    let coordinator = Coordinator::start_with_worker(&[]);
    let client = Client::connect(&coordinator.url).await.unwrap();
    for statement in [
        "CREATE TABLE people AS SELECT * FROM (VALUES (1, 'ann'), (2, 'bob'), (3, NULL)) AS t (id, who)",
        "CREATE TABLE bought AS SELECT value AS number, value % 3 + 1 AS id, value * 2 AS price \
         FROM generate_series(1, 3000)",
        "CREATE VIEW dear AS SELECT number, id FROM bought WHERE price > 5990",
    ] {
        rows(&client, statement).await.unwrap();
    }
    (coordinator, client)
}

/// Returns the plan of a read of a table, to be changed.
async fn read_of(client: &Client, table: &str) -> (Plan, ReadRel) {
    let frame = client.table(table).await.unwrap();
    let plan = Plan::decode(substrait_plan(frame).unwrap()).unwrap();
    let Some(RootType::Root(root)) = &plan.relations[0].rel_type else { panic!("no root") };
    let mut rel = root.input.clone().unwrap();
    loop {
        rel = match rel.rel_type.unwrap() {
            RelType::Read(read) => return (plan, *read),
            RelType::Project(project) => *project.input.unwrap(),
            other => panic!("{other:?}"),
        };
    }
}

fn with_input(mut plan: Plan, names: &[&str], rel_type: RelType) -> Plan {
    let input = Some(Rel { rel_type: Some(rel_type) });
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    plan.relations[0].rel_type = Some(RootType::Root(RelRoot { input, names }));
    plan
}

#[tokio::test]
async fn a_data_frame_gives_what_its_sql_gives() {
    let (_coordinator, client) = shop().await;
    let people = || client.table("people");
    let bought = || client.table("bought");
    let spent = bought().await.unwrap().aggregate(
        vec![col("id")],
        vec![sum(col("price")).alias("spent"), count(col("number")).alias("n")],
    );
    let joined = people().await.unwrap().join(
        spent.unwrap().select(vec![col("id").alias("buyer"), col("spent"), col("n")]).unwrap(),
        JoinType::Left,
        &["id"],
        &["buyer"],
        None,
    );
    let joined = joined.unwrap().select_columns(&["who", "spent", "n"]).unwrap();
    let filtered =
        bought().await.unwrap().filter(col("price").gt(lit(5995)).and(col("id").eq(lit(1))));
    let view = client.table("dear").await.unwrap().select_columns(&["id"]).unwrap();
    let union = people().await.unwrap().select_columns(&["id"]).unwrap();
    let union = union.union(people().await.unwrap().select_columns(&["id"]).unwrap()).unwrap();
    for (frame, sql) in [
        (people().await.unwrap(), "SELECT * FROM people"),
        (
            joined.sort(vec![col("spent").sort(false, false)]).unwrap(),
            "SELECT who, spent, n FROM people LEFT JOIN (SELECT id, sum(price) AS spent, \
             count(number) AS n FROM bought GROUP BY id) USING (id) ORDER BY spent DESC",
        ),
        (filtered.unwrap(), "SELECT * FROM bought WHERE price > 5995 AND id = 1"),
        (view, "SELECT id FROM dear"),
        (union.distinct().unwrap(), "SELECT DISTINCT id FROM people"),
        (
            bought()
                .await
                .unwrap()
                .sort(vec![col("number").sort(true, false)])
                .unwrap()
                .limit(5, Some(2))
                .unwrap(),
            "SELECT * FROM bought ORDER BY number LIMIT 2 OFFSET 5",
        ),
    ] {
        let mut expected = rows(&client, sql).await.unwrap();
        let mut given = run(&client, frame).await.unwrap();
        assert!(!expected.is_empty());
        expected.sort();
        given.sort();
        assert_eq!(given, expected, "{sql}");
    }
    // It was run there: here is nothing.
    let error = people().await.unwrap().collect().await.unwrap_err();
    assert!(error.to_string().contains("Client::execute_dataframe"), "{error}");
    assert_eq!(client.table("nope").await.unwrap_err().code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn names_mean_what_they_mean_in_the_session() {
    let (coordinator, client) = shop().await;
    let frame =
        || async { client.table("people").await.unwrap().select_columns(&["who"]).unwrap() };
    let before = frame().await;
    rows(&client, "CREATE TEMPORARY TABLE people AS SELECT 1 AS id, 'mine' AS who").await.unwrap();
    assert_eq!(run(&client, frame().await).await.unwrap(), [["mine"]]);
    let other = Client::connect(&coordinator.url).await.unwrap();
    assert_eq!(run(&other, before).await.unwrap().len(), 3);
    // A table that is another now than the plan expects.
    let stale = frame().await;
    rows(&client, "CREATE OR REPLACE TEMPORARY TABLE people AS SELECT 1 AS id, 7 AS who")
        .await
        .unwrap();
    let error = run(&client, stale).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(error.message().contains("the plan expects"), "{error}");
    rows(&client, "DROP TABLE people").await.unwrap();
    let dropped = client.table("bought").await.unwrap();
    rows(&client, "DROP TABLE bought").await.unwrap();
    let error = run(&client, dropped).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (ErrorCode::NotFound, "table \"bought\" not found")
    );
}

#[tokio::test]
async fn what_holds_for_sql_holds_for_plans() {
    let (_coordinator, client) = shop().await;
    // Arithmetic and sums fail rather than wrap.
    let highest = "CREATE TABLE high AS SELECT arrow_cast(9223372036854775807, 'Int64') AS x \
                   FROM generate_series(1, 2)";
    rows(&client, highest).await.unwrap();
    let high = || async { client.table("high").await.unwrap() };
    let wrapped = high().await.select(vec![(col("x") + lit(1_i64)).alias("y")]).unwrap();
    let summed =
        high().await.aggregate(Vec::<Expr>::new(), vec![sum(col("x")).alias("s")]).unwrap();
    for frame in [wrapped, summed] {
        let error = run(&client, frame).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
        assert!(error.message().contains("range"), "{error}");
    }
    // It is a statement like any other: listed, cancelled when it is dropped, late in time.
    let people = client.table("people").await.unwrap();
    let statement = client.execute_dataframe(people).await.unwrap();
    let id = statement.handle().query().to_owned();
    drop(statement);
    let listed = format!("SELECT sql FROM system.queries WHERE query = '{id}'");
    let listed = rows(&client, &listed).await.unwrap();
    assert!(listed.concat().concat().contains("a Substrait plan of "), "{listed:?}");
}

#[tokio::test]
async fn parameters_of_a_plan_are_bound() {
    let (_coordinator, client) = shop().await;
    let bought = client.table("bought").await.unwrap();
    let frame = bought.filter(col("number").eq(placeholder("$1"))).unwrap();
    let plan = substrait_plan(frame.select_columns(&["price"]).unwrap()).unwrap();
    let prepared = client.prepare_substrait(plan).await.unwrap();
    assert_eq!(prepared.schema().field(0).name(), "price");
    for (number, price) in [(7, "14"), (8, "16")] {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![number]));
        let values = RecordBatch::try_from_iter([("1", values)]).unwrap();
        let statement = prepared.execute(Some(values)).await.unwrap();
        assert_eq!(answer(statement).await.unwrap(), [[price]]);
    }
    let error = prepared.update(None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
}

#[tokio::test]
async fn filters_and_masks_of_reads_count() {
    let (_coordinator, client) = shop().await;
    // The condition of a filter, as it stands in a plan.
    let frame = client.table("bought").await.unwrap().filter(col("number").lt(lit(4_i64))).unwrap();
    let filtered = Plan::decode(substrait_plan(frame).unwrap()).unwrap();
    let Some(RootType::Root(root)) = &filtered.relations[0].rel_type else { panic!("no root") };
    let Some(RelType::Filter(filter)) = root.input.clone().unwrap().rel_type else {
        panic!("no filter")
    };
    let condition = filter.condition.clone();
    let Some(RelType::Read(read)) = filter.input.unwrap().rel_type else { panic!("no read") };
    let struct_items =
        [2, 0].map(|field| StructItem { field, child: None }).into_iter().collect::<Vec<_>>();
    let mask = MaskExpression {
        select: Some(StructSelect { struct_items }),
        maintain_singular_struct: false,
    };
    let inside = ReadRel { filter: condition, projection: Some(mask), ..*read };
    let plan = with_input(filtered.clone(), &["price", "number"], RelType::Read(Box::new(inside)));
    let mut given = run_plan(&client, &plan).await.unwrap();
    given.sort();
    assert_eq!(given, [["2", "1"], ["4", "2"], ["6", "3"]]);
}

#[tokio::test]
async fn what_a_plan_has_that_there_is_not_is_said() {
    let (_coordinator, client) = shop().await;
    let people = || async { client.table("people").await.unwrap() };
    let (plan, read) = read_of(&client, "people").await;
    let named = |rel_type| with_input(plan.clone(), &["id", "who"], rel_type);
    let files = ReadType::LocalFiles(LocalFiles::default());
    let files = ReadRel { read_type: Some(files), ..read.clone() };
    let nothing = ReadRel { read_type: None, ..read.clone() };
    let no_schema = ReadRel { base_schema: None, ..read };
    let upper = people().await.select(vec![datafusion::functions::expr_fn::upper(col("who"))]);
    let mut unknown = Plan::decode(substrait_plan(upper.unwrap()).unwrap()).unwrap();
    for extension in &mut unknown.extensions {
        if let Some(MappingType::ExtensionFunction(function)) = &mut extension.mapping_type {
            function.name = "shout".to_owned();
        }
    }
    let mut no_root = plan.clone();
    no_root.relations[0].rel_type = Some(RootType::Root(RelRoot::default()));
    let mut none = plan.clone();
    none.relations.clear();
    for (plan, code, message) in [
        (named(RelType::Read(Box::new(files))), ErrorCode::Unimplemented, "a read of files"),
        (named(RelType::Write(Box::default())), ErrorCode::Unimplemented, ""),
        (named(RelType::Read(Box::new(nothing))), ErrorCode::InvalidArgument, "names nothing"),
        (named(RelType::Read(Box::new(no_schema))), ErrorCode::InvalidArgument, "no schema"),
        (named(RelType::Cross(Box::default())), ErrorCode::InvalidArgument, "cannot be read"),
        (unknown, ErrorCode::Unimplemented, "shout"),
        (no_root, ErrorCode::InvalidArgument, "no input"),
        (none, ErrorCode::InvalidArgument, "0 relations"),
    ] {
        let error = run_plan(&client, &plan).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(message), "{error}");
    }
    for garbage in [b"no plan".to_vec(), vec![0xff; 100], Vec::new()] {
        let error = client.execute_substrait(garbage).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
    }
    let long = client.execute_substrait(vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert!(long.message().contains("1048576 are allowed"), "{long}");
    // Nothing of it has harmed anything.
    assert_eq!(rows(&client, "SELECT 1").await.unwrap(), [["1"]]);
}

#[tokio::test]
async fn every_call_of_the_protocol_takes_plans() {
    let (coordinator, client) = shop().await;
    let frame = client.table("people").await.unwrap().select_columns(&["who"]).unwrap();
    let frame = frame.sort(vec![col("who").sort(true, false)]).unwrap();
    let bytes = substrait_plan(frame).unwrap();
    let mut foreign = connect(&coordinator).await;
    let plan = || Some(SubstraitPlan { plan: bytes.clone(), version: "0.85.0".to_owned() });
    let command = CommandStatementSubstraitPlan { plan: plan(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let request = super::with_token(&foreign, descriptor.clone());
    let info = foreign.inner_mut().get_flight_info(request).await.unwrap().into_inner();
    let request = super::with_token(&foreign, descriptor.clone());
    let schema = foreign.inner_mut().get_schema(request).await.unwrap().into_inner();
    let schema = datafusion::arrow::datatypes::Schema::try_from(schema).unwrap();
    assert_eq!(info.clone().try_decode_schema().unwrap(), schema);
    // Twice: a ticket holds its plan.
    for _ in 0..2 {
        let (schema, batches) = fetch(&mut foreign, info.clone()).await.unwrap();
        assert_eq!(rendered(&schema, &batches), [["ann"], ["bob"], ["NULL"]]);
    }
    let request = super::with_token(&foreign, descriptor);
    let polled = foreign.inner_mut().poll_flight_info(request).await.unwrap().into_inner();
    assert!(polled.info.is_some());
    let inside = Some("1".into());
    let command = CommandStatementSubstraitPlan { plan: plan(), transaction_id: inside.clone() };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let request = super::with_token(&foreign, descriptor);
    let refusal = foreign.inner_mut().get_flight_info(request).await.unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::Unimplemented, "there are no transactions")
    );
    let prepared = ActionCreatePreparedSubstraitPlanRequest { plan: None, transaction_id: None };
    let action = Action::new("CreatePreparedSubstraitPlan", prepared.as_any().encode_to_vec());
    let refusal = foreign.do_action(Request::new(action)).await.map(drop);
    super::refused(refusal, Code::InvalidArgument, "no Substrait plan");
    let info = foreign.get_sql_info(vec![SqlInfo::FlightSqlServerSubstrait]).await.unwrap();
    let (_, said) = fetch(&mut foreign, info).await.unwrap();
    assert!(said[0].column(1).as_union().value(0).as_boolean().value(0));
}
