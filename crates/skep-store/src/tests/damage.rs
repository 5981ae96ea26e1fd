//! Files that are not what was written: an error that names the partition, never fewer rows.

use std::fs;

use super::*;
use crate::error::Error;

/// A cheap generator, so that a failing case can be run again by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

async fn spilled(compression: Compression) -> (Fixture, PathBuf) {
    let fixture = Fixture::new(1 << 30, |config| {
        config.compression = compression;
        config.spill_chunk_bytes = 4096;
    });
    let mut writer = fixture.writer(task(1, 0), StorageLevel::DiskOnly);
    for n in 0..12 {
        writer.append(n as usize % 3, batch(n * 50, 50)).await.unwrap();
    }
    writer.seal().await.unwrap();
    let file = fixture.spill_files().remove(0);
    (fixture, file)
}

/// Reads all outputs; returns how many failed. Each failure must name its own partition.
async fn failures(fixture: &Fixture, case: &str) -> usize {
    let mut failed = 0;
    for output in 0..3 {
        let key = task(1, 0).output(output);
        match fixture.read(&key).await {
            Ok(read) => {
                let mut expected = Vec::new();
                for n in (output as i64..12).step_by(3) {
                    expected.push(batch(n * 50, 50));
                }
                assert_eq!(read, expected, "{case}");
            }
            Err(error) => {
                assert!(matches!(error, Error::PartitionDamaged { .. }), "{case}: {error}");
                assert_eq!(error.lost_partition(), Some(&key), "{case}");
                failed += 1;
            }
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_anywhere_is_noticed() {
    for compression in [Compression::Lz4, Compression::None] {
        let (fixture, file) = spilled(compression).await;
        let sound = fs::read(&file).unwrap();
        assert_eq!(failures(&fixture, "sound").await, 0);
        let mut random = Random(0x5eed);
        for case in 0..200 {
            let mut damaged = sound.clone();
            let at = random.next(sound.len() as u64) as usize;
            damaged[at] ^= 1 + random.next(255) as u8;
            fs::write(&file, &damaged).unwrap();
            let case = format!("{compression:?} case {case}, byte {at}");
            assert_eq!(failures(&fixture, &case).await, 1, "{case}");
        }
        fs::write(&file, &sound).unwrap();
        assert_eq!(failures(&fixture, "sound again").await, 0);
        fixture.store.end_query(QueryId(1), Readers::Finish);
        fixture.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_file_and_a_missing_one_are_noticed() {
    let (fixture, file) = spilled(Compression::Lz4).await;
    let sound = fs::read(&file).unwrap();
    let mut random = Random(0xca7);
    for _ in 0..50 {
        let length = random.next(sound.len() as u64) as usize;
        fs::write(&file, &sound[..length]).unwrap();
        assert!(failures(&fixture, &format!("cut at {length}")).await >= 1);
    }
    fs::remove_file(&file).unwrap();
    assert_eq!(failures(&fixture, "removed").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_each_others_places_are_noticed() {
    let fixture = Fixture::roomy();
    let mut writer = fixture.writer(task(1, 0), StorageLevel::DiskOnly);
    for output in 0..2 {
        writer.append(output, batch(7, 50)).await.unwrap();
    }
    writer.seal().await.unwrap();
    let file = fixture.spill_files().remove(0);
    let mut swapped = fs::read(&file).unwrap();
    let half = swapped.len() / 2;
    let (first, second) = swapped.split_at_mut(half);
    first.swap_with_slice(second);
    fs::write(&file, &swapped).unwrap();
    for output in 0..2 {
        let error = fixture.read(&task(1, 0).output(output)).await.unwrap_err();
        assert!(error.to_string().contains("not the one that was written there"), "{error}");
    }
}
