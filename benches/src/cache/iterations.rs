//! Jobs that go over the same points again and again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use skep_bench::figures::{milliseconds, round};

use super::CacheArguments;
use super::data::{DIMENSIONS, coordinates, create_points, mix};
use super::report::{Bound, Report, is_near};
use super::site::{Site, ratio};
use crate::processes::{Rows, quantile};

/// Iterations of a job.
pub(super) const ITERATIONS: usize = 10;
/// Iterations over the files, which all take as long.
const FILE_ITERATIONS: usize = 3;
const STEP: f64 = 1e-7;

/// Logistic regression by gradient descent: all over CSV, and all over what is cached.
pub(super) async fn measure(arguments: &CacheArguments, report: &mut Report) -> Result<()> {
    let site = Site::open(arguments, None).await?;
    let bytes = create_points(&site, arguments).await?;
    site.ask("SELECT count(*), max(x1) FROM points").await?;
    let mut over_files = Vec::new();
    let mut weights = [0.0; DIMENSIONS];
    for _ in 0..FILE_ITERATIONS {
        over_files.push(step(&site, "points", &mut weights).await?);
    }
    let after_files = weights;
    // Loading is part of the first iteration.
    site.ask("CACHE LAZY TABLE cached_points").await?;
    let mut over_cached = Vec::new();
    weights = [0.0; DIMENSIONS];
    for iteration in 0..ITERATIONS {
        over_cached.push(step(&site, "cached_points", &mut weights).await?);
        if iteration + 1 == FILE_ITERATIONS {
            let mut pairs = weights.iter().zip(&after_files);
            let are_near = pairs.all(|(cached, file)| is_near(*cached, *file, 1e-6, 1e-3));
            ensure!(are_near, "cached: {weights:?}, over files: {after_files:?}");
        }
    }
    let mut later = over_cached[1..].to_vec();
    later.sort_unstable();
    over_files.sort_unstable();
    let (file, cached) = (quantile(&over_files, 0.5), quantile(&later, 0.5));
    let all: Vec<f64> = over_cached.iter().map(|time| round(milliseconds(*time))).collect();
    report.add(
        "logistic regression, iteration over CSV / later cached one",
        ratio(file, cached),
        Bound::AtLeast(10.0),
        json!({
            "csv_mb": round(bytes as f64 / 1e6),
            "memory_mb": round(site.cached_bytes("cached_points").await? / 1e6),
            "csv_ms": round(milliseconds(file)),
            "cached_ms": round(milliseconds(cached)),
            "iterations_ms": all,
        }),
    )?;
    report.add(
        "logistic regression, first iteration / later ones",
        ratio(over_cached[0], cached),
        Bound::None,
        json!(null),
    )
}

/// Makes a step of the descent, and returns how long it took.
async fn step(site: &Site, table: &str, weights: &mut [f64; DIMENSIONS]) -> Result<Duration> {
    let (rows, time) = site.time(&gradient_query(table, weights)).await?;
    let gradient = rows.first().context("no gradient")?;
    ensure!(gradient.len() == DIMENSIONS, "{gradient:?}");
    for (weight, by) in weights.iter_mut().zip(gradient) {
        *weight += STEP * by.parse::<f64>().with_context(|| by.clone())?;
    }
    Ok(time)
}

/// The gradient of the logarithm of the likelihood.
fn gradient_query(table: &str, weights: &[f64; DIMENSIONS]) -> String {
    let names: Vec<String> = coordinates().collect();
    let sums: Vec<String> = names.iter().map(|name| format!("sum(error * {name})")).collect();
    let products = names.iter().zip(weights).map(|(name, weight)| format!("{weight:e} * {name}"));
    let product = products.collect::<Vec<_>>().join(" + ");
    format!(
        "SELECT {} FROM (SELECT {}, label - 1e0 / (1e0 + exp(-({product}))) AS error FROM {table})",
        sums.join(", "),
        names.join(", ")
    )
}

/// A step of k-means: it computes much more over each point than a step of the descent.
///
/// Shape: a row for each center that is the nearest of a point: its number, how many points, and the
/// sums of their coordinates.
pub(super) fn centers_query(table: &str, centers: &[[f64; DIMENSIONS]]) -> String {
    let names: Vec<String> = coordinates().collect();
    let distance = |center: &[f64; DIMENSIONS]| {
        let of_axis =
            |(name, place): (&String, &f64)| format!("({name} - {place:e}) * ({name} - {place:e})");
        names.iter().zip(center).map(of_axis).collect::<Vec<_>>().join(" + ")
    };
    let distances: Vec<String> = centers
        .iter()
        .enumerate()
        .map(|(number, center)| format!("{} AS d{number}", distance(center)))
        .collect();
    let numbers = 0..centers.len();
    let all: Vec<String> = numbers.clone().map(|number| format!("d{number}")).collect();
    let cases: Vec<String> =
        numbers.map(|number| format!("WHEN d{number} <= least THEN {number}")).collect();
    let sums: Vec<String> = names.iter().map(|name| format!("sum({name})")).collect();
    let names = names.join(", ");
    format!(
        "SELECT nearest, count(*), {} FROM ( \
           SELECT {names}, CASE {} END AS nearest FROM ( \
             SELECT *, least({}) AS least FROM (SELECT {names}, {} FROM {table}))) \
         GROUP BY nearest ORDER BY nearest",
        sums.join(", "),
        cases.join(" "),
        all.join(", "),
        distances.join(", "),
    )
}

/// Places to begin with.
pub(super) fn first_centers(count: usize) -> Vec<[f64; DIMENSIONS]> {
    let place = |number: u64| (mix(number ^ 0x00C0_FFEE) % 2_000_001) as f64 / 1e6 - 1.0;
    (0..count as u64)
        .map(|center| std::array::from_fn(|axis| place(center * DIMENSIONS as u64 + axis as u64)))
        .collect()
}

/// Moves each center into the middle of its points; one without points stays.
pub(super) fn moved_centers(centers: &mut [[f64; DIMENSIONS]], rows: &Rows) -> Result<()> {
    for row in rows {
        let numbers = row.iter().map(|cell| cell.parse::<f64>().with_context(|| cell.clone()));
        let numbers = numbers.collect::<Result<Vec<f64>>>()?;
        let [number, count, sums @ ..] = numbers.as_slice() else { continue };
        if let Some(center) = centers.get_mut(*number as usize) {
            center.iter_mut().zip(sums).for_each(|(place, sum)| *place = sum / count);
        }
    }
    Ok(())
}
