//! What is written: order, sizes, copies, memory.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::joins::CrossJoinExec;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;

use super::super::output::{OutputWriter, Waiting};
use super::rows::{RowsExec, number_schema, numbered, numbers};
use super::*;
use crate::exchange::plan::{Exchange, ExchangeReadExec};
use crate::store::{StorageLevel, WriterKey, WriterSpec};

fn by_number(partitions: usize) -> Output {
    let number: Arc<dyn PhysicalExpr> = Arc::new(Column::new("number", 0));
    Output::Hash { exprs: vec![number], partitions }
}

#[tokio::test]
async fn small_batches_become_large_ones_in_order() {
    let mut site = Fixture::new();
    let all: Vec<RecordBatch> = (0..250).map(|i| numbered(i * 7, 7)).collect();
    site.plan(1, 0, move |_context| Ok(decoded(RowsExec::batches(all.clone()), Output::Gather)));
    let output = site.finish(attempt(1, 0, 0, 0), vec![]).await;
    assert_eq!(output.rows, 1750);
    assert_eq!(output.bytes, [1750 * 8]);
    let batches = site.read(attempt(1, 0, 0, 0), 0).await;
    assert_eq!(numbers(&batches), (0..1750).collect::<Vec<_>>());
    // The session's batch size is 100.
    let sizes: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
    assert!(sizes.len() == 18 && sizes[..17].iter().all(|rows| *rows == 100), "{sizes:?}");
}

#[tokio::test]
async fn outputs_of_a_hash_exchange_keep_their_order_and_all_rows() {
    let mut site = Fixture::new();
    // Small, large, and in between.
    let sizes = [3, 1000, 30, 0, 90, 55, 1, 400, 2, 2];
    let mut all = Vec::new();
    let mut first = 0;
    for rows in sizes.repeat(5) {
        all.push(numbered(first, rows));
        first += rows as i64;
    }
    site.plan(1, 0, move |_context| Ok(decoded(RowsExec::batches(all.clone()), by_number(5))));
    let output = site.finish(attempt(1, 0, 0, 0), vec![]).await;
    assert_eq!((output.rows, output.bytes.len()), (first as u64, 5));
    let mut seen = Vec::new();
    for partition in 0..5 {
        let part = numbers(&site.read(attempt(1, 0, 0, 0), partition).await);
        assert!(part.is_sorted() && !part.is_empty());
        seen.extend(part);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..first).collect::<Vec<_>>());
}

#[tokio::test]
async fn batches_without_columns_keep_their_rows() {
    let mut site = Fixture::new();
    let schema = Arc::new(Schema::empty());
    let options = |rows| RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = |rows| {
        RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options(rows)).unwrap()
    };
    let all: Vec<RecordBatch> = [1, 5, 2000, 30, 7].into_iter().map(batch).collect();
    let (whole, dealt) = (all.clone(), all);
    site.plan(1, 0, move |_context| Ok(decoded(RowsExec::batches(whole.clone()), Output::Gather)));
    site.plan(1, 1, move |_context| {
        Ok(decoded(RowsExec::batches(dealt.clone()), Output::RoundRobin { partitions: 2 }))
    });
    let output = site.finish(attempt(1, 0, 0, 0), vec![]).await;
    assert_eq!(output.rows, 2043);
    let rows = |batches: Vec<RecordBatch>| -> usize { batches.iter().map(|b| b.num_rows()).sum() };
    assert_eq!(rows(site.read(attempt(1, 0, 0, 0), 0).await), 2043);
    assert_eq!(site.finish(attempt(1, 1, 0, 0), vec![]).await.rows, 2043);
    assert_eq!(rows(site.read(attempt(1, 1, 0, 0), 0).await), 2008);
    assert_eq!(rows(site.read(attempt(1, 1, 0, 0), 1).await), 35);
}

#[tokio::test]
async fn what_lies_on_the_site_is_read_and_passed_on_without_a_copy() {
    let mut site = Fixture::new();
    // A large one, and a small one that has nothing to be put together with.
    for (query, rows) in [(1, 5000), (2, 3)] {
        let batch = numbered(0, rows);
        let written = batch.column(0).as_primitive::<Int64Type>().values().as_ptr() as usize;
        let input = RowsExec::batches(vec![batch]);
        let above = Arc::clone(&input);
        site.plan(query, 0, move |_context| Ok(decoded(Arc::clone(&input), Output::Gather)));
        site.plan(query, 1, move |_context| {
            let read =
                ExchangeReadExec::over(StageId(0), &above, &Output::Gather, Exchange::Gather)?;
            Ok(decoded(Arc::new(read), Output::Result { in_order: false }))
        });
        let made = site.finish(attempt(query, 0, 0, 0), vec![]).await;
        let sources = vec![source(attempt(query, 0, 0, 0), site.site)];
        let output = site.finish(attempt(query, 1, 0, 0), sources).await;
        assert_eq!((output.rows, output.input_bytes), (rows as u64, made.bytes[0]));
        let batches = site.read(attempt(query, 1, 0, 0), 0).await;
        let read = batches[0].column(0).as_primitive::<Int64Type>().values().as_ptr() as usize;
        assert_eq!((batches.len(), read), (1, written));
    }
    assert_eq!(site.neighbours.readers.load(Ordering::Relaxed), 0);
}

fn texts(first: i64, rows: usize) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("number", DataType::Int64, false),
        Field::new("text", DataType::Utf8, false),
    ]);
    let all = first..first + rows as i64;
    let text = StringArray::from_iter_values(all.clone().map(|n| format!("{n:0>100}")));
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(all)), Arc::new(text)];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn output_writer(
    site: &Fixture,
    batch: &RecordBatch,
    max_bytes: usize,
    pool: &Arc<dyn MemoryPool>,
) -> OutputWriter {
    let key = WriterKey::Exchange {
        query: QueryId(1),
        stage: StageId(0),
        producer: 0,
        attempt: Attempt(0),
    };
    let level = StorageLevel::MemoryAndDisk;
    let spec = WriterSpec { key, schema: batch.schema(), output_count: 50, level };
    let writer = site.store.writer(spec).unwrap();
    let partitioner = by_number(50).partitioner(0, 1, Time::new()).unwrap();
    let waiting = Waiting { batch_size: 8192, max_bytes };
    OutputWriter::new(writer, batch.schema(), 50, partitioner, waiting, pool)
}

#[tokio::test]
async fn what_waits_is_accounted_and_bounded() {
    for make in [numbered, texts] {
        let site = Fixture::new();
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1 << 30));
        let bound = 256 * 1024;
        let mut output = output_writer(&site, &make(0, 1), bound, &pool);
        let mut peak = 0;
        for i in 0..300 {
            output.write(make(i * 100, 100)).await.unwrap();
            peak = peak.max(pool.reserved());
            assert!(pool.reserved() <= bound, "{}", pool.reserved());
        }
        assert!(peak > bound / 4, "{peak}");
        let (counts, _) = output.seal().await.unwrap();
        assert_eq!(counts.iter().map(|counts| counts.rows).sum::<u64>(), 30_000);
        // Fewer batches than pieces, in spite of the bound.
        let batches: u64 = counts.iter().map(|counts| counts.batches).sum();
        assert!(batches < 2000, "{batches}");
        assert_eq!(pool.reserved(), 0);
    }
}

#[tokio::test]
async fn without_memory_nothing_waits_and_all_is_written() {
    let site = Fixture::new();
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1));
    let mut output = output_writer(&site, &texts(0, 1), 1 << 20, &pool);
    for i in 0..20 {
        output.write(texts(i * 100, 100)).await.unwrap();
    }
    let (counts, _) = output.seal().await.unwrap();
    assert_eq!(counts.iter().map(|counts| counts.rows).sum::<u64>(), 2000);
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn a_task_without_rows_seals_empty_outputs() {
    let mut site = Fixture::new();
    let none = RecordBatch::new_empty(number_schema());
    site.plan(1, 0, move |_context| {
        Ok(decoded(RowsExec::batches(vec![none.clone()]), by_number(3)))
    });
    let output = site.finish(attempt(1, 0, 0, 0), vec![]).await;
    assert_eq!((output.rows, output.bytes), (0, vec![0, 0, 0]));
    assert!(site.read(attempt(1, 0, 0, 0), 2).await.is_empty());
}

#[tokio::test]
async fn the_result_reads_the_same_however_its_input_was_cut() {
    let cuts: [&[usize]; 3] = [&[300], &[7, 100, 93, 100], &[1, 1, 298]];
    let mut seen = Vec::new();
    for (query, cut) in (1..).zip(cuts) {
        let mut site = Fixture::new();
        let mut sources = Vec::new();
        let first: Arc<dyn ExecutionPlan> = RowsExec::streams(number_schema(), 3, {
            let cut = cut.to_vec();
            move |partition, _context| {
                let mut next = partition as i64 * 300;
                let batch = |rows: &usize| {
                    next += *rows as i64;
                    Ok(numbered(next - *rows as i64, *rows))
                };
                let batches: Vec<_> = cut.iter().map(batch).collect();
                Box::pin(futures::stream::iter(batches))
            }
        });
        let made = Arc::clone(&first);
        site.plan(query, 0, move |_context| Ok(decoded(Arc::clone(&made), Output::Gather)));
        site.plan(query, 1, move |_context| {
            let output = Output::Gather;
            let read = ExchangeReadExec::over(StageId(0), &first, &output, Exchange::Gather)?;
            let read: Arc<dyn ExecutionPlan> = Arc::new(read);
            // The rows of this one, whatever stands above: a join with a single row.
            let one: Arc<dyn ExecutionPlan> =
                Arc::new(PlaceholderRowExec::new(Arc::new(Schema::empty())));
            Ok(decoded(Arc::new(CrossJoinExec::new(one, read)), Output::Result { in_order: true }))
        });
        for partition in (0..3).rev() {
            site.finish(attempt(query, 0, partition, 0), vec![]).await;
            sources.push(source(attempt(query, 0, partition, 0), site.site));
        }
        site.finish(attempt(query, 1, 0, 0), sources).await;
        let batches = site.read(attempt(query, 1, 0, 0), 0).await;
        assert_eq!(numbers(&batches), (0..900).collect::<Vec<_>>());
        seen.push(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
}
