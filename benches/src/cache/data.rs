//! The files: `lineitem` of TPC-H, points with ten coordinates, links between pages.
//!
//! All values come from their numbers by one mixing function, so the files are the same everywhere.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use skep_testkit::tpch::{DataSet, Format, Table};
use skep_testkit::workspace;

use super::CacheArguments;
use super::site::Site;

/// Coordinates of a point.
pub(super) const DIMENSIONS: usize = 10;
/// Files that a generated table has, written at the same time.
const FILE_COUNT: u64 = 8;
/// Counts up when files change, so that old ones are not taken for new.
const VERSION: u32 = 1;

/// The columns of `lineitem`, in both formats of the same types.
const LINEITEM: &str = "l_orderkey BIGINT, l_partkey BIGINT, l_suppkey BIGINT, l_linenumber INT, \
    l_quantity DECIMAL(15, 2), l_extendedprice DECIMAL(15, 2), l_discount DECIMAL(15, 2), \
    l_tax DECIMAL(15, 2), l_returnflag VARCHAR, l_linestatus VARCHAR, l_shipdate DATE, \
    l_commitdate DATE, l_receiptdate DATE, l_shipinstruct VARCHAR, l_shipmode VARCHAR, \
    l_comment VARCHAR";
/// Nobody wrote a line break into a value: files are read in pieces.
const CSV_OPTIONS: &str =
    "OPTIONS ('format.has_header' 'true', 'format.newlines_in_values' 'false')";

/// Makes `csv` and `parquet` known, the same rows of `lineitem`, and `cached`, which is `csv` under
/// a name of its own: what is cached of one table is not found by queries of another. Returns the
/// bytes of the text.
pub(super) async fn create_lineitem(site: &Site, arguments: &CacheArguments) -> Result<u64> {
    let file = |format| -> Result<PathBuf> {
        let data_set = DataSet { scale: arguments.scale, format };
        Ok(data_set.file(&data_set.cached()?, Table::LineItem))
    };
    let (csv, parquet) = (file(Format::Csv)?, file(Format::Parquet)?);
    for name in ["csv", "cached"] {
        site.ask(&format!(
            "CREATE EXTERNAL TABLE {name} ({LINEITEM}) STORED AS CSV LOCATION '{}' {CSV_OPTIONS}",
            csv.display()
        ))
        .await?;
    }
    site.ask(&format!(
        "CREATE EXTERNAL TABLE parquet STORED AS PARQUET LOCATION '{}'",
        parquet.display()
    ))
    .await?;
    Ok(fs::metadata(&csv)?.len())
}

/// Makes `points` and `cached_points` known: a label of 0 or 1 and ten coordinates between -1 and 1.
/// Returns the bytes of the text.
pub(super) async fn create_points(site: &Site, arguments: &CacheArguments) -> Result<u64> {
    let header: String =
        std::iter::once("label".to_owned()).chain(coordinates()).collect::<Vec<_>>().join(",");
    let name = format!("points-{}-v{VERSION}", arguments.points);
    let directory = files(&name, &header, arguments.points, |number, line| {
        let mut sum = 0;
        let mut values = [0; DIMENSIONS];
        for (place, value) in values.iter_mut().enumerate() {
            let mixed = mix(number * DIMENSIONS as u64 + place as u64);
            *value = (mixed % 2_000_001) as i64 - 1_000_000;
            sum += *value * (place as i64 - 4);
        }
        // Mostly on the side of a plane that the coordinates say.
        let noise = (mix(!number) % 4_000_001) as i64 - 2_000_000;
        let _ = write!(line, "{}", i32::from(sum + noise > 0));
        for value in values {
            let sign = if value < 0 { "-" } else { "" };
            let (whole, part) = (value.abs() / 1_000_000, value.abs() % 1_000_000);
            let _ = write!(line, ",{sign}{whole}.{part:06}");
        }
    })?;
    let columns: Vec<String> = coordinates().map(|name| format!("{name} DOUBLE")).collect();
    for name in ["points", "cached_points"] {
        site.ask(&format!(
            "CREATE EXTERNAL TABLE {name} (label INT, {}) STORED AS CSV LOCATION '{}/' {CSV_OPTIONS}",
            columns.join(", "),
            directory.display()
        ))
        .await?;
    }
    bytes_of(&directory)
}

/// The power of an even share that gives the places of pages, by how often they are linked to, as on
/// the web: there the numbers of links to a page follow a power law with the exponent 2.1 (Broder et
/// al., Graph structure in the web, 2000), by rank one with 1 / 1.1, whose sums this turns around.
const POPULARITY: i32 = 11;

/// Makes `links` known: from every page to others, to few of them very often; pages are known by
/// their addresses.
pub(super) async fn create_links(site: &Site, arguments: &CacheArguments) -> Result<()> {
    let CacheArguments { links, pages, .. } = *arguments;
    let name = format!("web-{links}-{pages}-v{VERSION}");
    let address = |line: &mut String, page: u64| {
        let _ = write!(line, "https://www.example{:03}.org/pages/{page:08}", page % 1000);
    };
    let directory = files(&name, "src,dst", links, |number, line| {
        // Each page has links, and they lie in no order.
        let source = mix(number % pages) % pages;
        let share = mix(!number) as f64 / u64::MAX as f64;
        let target = (share.powi(POPULARITY) * pages as f64) as u64;
        address(line, source);
        line.push(',');
        address(line, target.min(pages - 1));
    })?;
    site.ask(&format!(
        "CREATE EXTERNAL TABLE links (src VARCHAR, dst VARCHAR) STORED AS CSV LOCATION '{}/' \
         {CSV_OPTIONS}",
        directory.display()
    ))
    .await?;
    Ok(())
}

/// Returns the names of the coordinates.
pub(super) fn coordinates() -> impl Iterator<Item = String> {
    (1..=DIMENSIONS).map(|place| format!("x{place}"))
}

/// The finalizer of SplitMix64: numbers that follow each other come out far apart.
pub(super) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Writes lines into files of a directory under Cargo's target directory, unless they are there.
///
/// Under its name the directory is whole: it gets it by renaming.
fn files(
    name: &str,
    header: &str,
    line_count: u64,
    line: impl Fn(u64, &mut String) + Sync,
) -> Result<PathBuf> {
    let root = workspace::target_dir().join("cache-bench");
    let directory = root.join(name);
    if directory.is_dir() {
        return Ok(directory);
    }
    fs::create_dir_all(&root)?;
    let unfinished = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(&root)?;
    let written = unfinished.path().join("files");
    fs::create_dir(&written)?;
    let write = |file: u64| -> Result<()> {
        let path = written.join(format!("part-{file}.csv"));
        let out = File::create(&path).with_context(|| path.display().to_string())?;
        let mut out = BufWriter::with_capacity(1 << 20, out);
        writeln!(out, "{header}")?;
        let mut text = String::new();
        for number in (line_count * file / FILE_COUNT)..(line_count * (file + 1) / FILE_COUNT) {
            text.clear();
            line(number, &mut text);
            text.push('\n');
            out.write_all(text.as_bytes())?;
        }
        Ok(out.flush()?)
    };
    std::thread::scope(|scope| {
        let writing: Vec<_> = (0..FILE_COUNT)
            .map(|file| {
                scope.spawn({
                    let write = &write;
                    move || write(file)
                })
            })
            .collect();
        writing.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    fs::rename(&written, &directory)?;
    Ok(directory)
}

fn bytes_of(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
