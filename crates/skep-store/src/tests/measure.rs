//! Figures, for people: run with `SLOW=1` and `--nocapture`.

use std::time::Instant;

use datafusion::arrow::array::StringViewArray;

use super::*;

fn wide(first: i64) -> RecordBatch {
    let rows = 8192;
    let numbers = || Arc::new(Int64Array::from_iter_values(first..first + rows)) as ArrayRef;
    let texts = (first..first + rows).map(|n| format!("customer number {n} of a town"));
    let views = StringViewArray::from_iter_values(texts);
    RecordBatch::try_from_iter([
        ("a", numbers()),
        ("b", numbers()),
        ("c", numbers()),
        ("text", Arc::new(views) as ArrayRef),
    ])
    .unwrap()
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0)
        * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn throughput_and_memory() {
    if std::env::var_os("SLOW").is_none() {
        return;
    }
    let batches = 400;
    let ready: Vec<RecordBatch> = (0..8).map(|n| wide(n * 8192)).collect();
    for (name, level, compression) in [
        ("memory", StorageLevel::MemoryAndDisk, Compression::Lz4),
        ("spill lz4", StorageLevel::DiskOnly, Compression::Lz4),
        ("spill plain", StorageLevel::DiskOnly, Compression::None),
    ] {
        let fixture = Fixture::new(1 << 30, |config| {
            config.compression = compression;
            config.write_buffer_bytes = 1 << 20;
        });
        let mut writer = fixture.writer_of(task(1, 0), level, ready[0].schema(), 8);
        let started = Instant::now();
        for n in 0..batches {
            writer.append(n % 8, ready[n % 8].clone()).await.unwrap();
        }
        let counts = writer.seal().await.unwrap();
        let written = started.elapsed().as_secs_f64();
        let started = Instant::now();
        for counts in &counts {
            let read = fixture.store.read(&counts.partition, 0).unwrap();
            let rows: usize = read
                .try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) })
                .await
                .unwrap();
            assert_eq!(rows as u64, counts.rows);
        }
        let read = started.elapsed().as_secs_f64();
        let bytes = counts.iter().map(|counts| counts.bytes).sum::<u64>() as f64 / 1e6;
        println!(
            "{name}: {bytes:.0} MB, write {:.0} MB/s, read {:.0} MB/s, on disk {:.0} MB",
            bytes / written,
            bytes / read,
            fixture.store.stats().disk_bytes as f64 / 1e6
        );
    }
    let fixture = Fixture::roomy();
    let before = resident_bytes();
    let mut writer =
        fixture.writer_of(task(1, 0), StorageLevel::MemoryAndDisk, ready[0].schema(), 1);
    for n in 0..400 {
        writer.append(0, wide(n * 8192)).await.unwrap();
    }
    println!(
        "accounted {:.0} MB, resident {:.0} MB more",
        fixture.pool.reserved() as f64 / 1e6,
        (resident_bytes() - before) as f64 / 1e6
    );
    let mut writer =
        fixture.writer_of(task(1, 1), StorageLevel::MemoryAndDisk, ready[0].schema(), 200);
    let (accounted, before) = (fixture.pool.reserved(), resident_bytes());
    let started = Instant::now();
    for n in 0..100_000 {
        writer.append(n % 200, ready[n % 8].slice(n % 8000, 41)).await.unwrap();
    }
    println!(
        "100,000 slices of 41 rows: {:.2} s, accounted {:.0} MB, resident {:.0} MB more",
        started.elapsed().as_secs_f64(),
        (fixture.pool.reserved() - accounted) as f64 / 1e6,
        (resident_bytes() - before) as f64 / 1e6
    );
}
