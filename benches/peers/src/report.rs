//! The table of times, its last lines, and the file of figures.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, Value, json};
use skep_bench::baseline;
use skep_bench::figures::{geometric_mean, milliseconds, round};

use crate::Race;

/// Where the first two contenders stand.
const EMBEDDED_IDX: usize = 0;
const CLUSTER_IDX: usize = 1;

/// Characters of a column, and of the first one.
const WIDTH: usize = 14;
const FIRST_WIDTH: usize = 24;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    /// The contenders: skep embedded, skep's cluster, the peers.
    pub(crate) names: Vec<&'static str>,
    pub(crate) queries: Vec<QueryFigures>,
}

/// The best time of each contender for one query, or why it has none.
#[derive(Debug)]
pub(crate) struct QueryFigures {
    pub(crate) number: usize,
    pub(crate) row_count: usize,
    pub(crate) times: Vec<Result<Duration>>,
}

impl QueryFigures {
    fn time(&self, idx: usize) -> Option<f64> {
        self.times[idx].as_ref().ok().map(|time| milliseconds(*time))
    }
}

/// One contender over the queries that it answered.
#[derive(Debug)]
struct Summary {
    answered: usize,
    total: f64,
    /// Over those queries: its time by that of skep embedded.
    to_embedded: Ratio,
    /// Over those queries: the time of skep's cluster by its own.
    cluster_to_it: Ratio,
}

#[derive(Debug)]
struct Ratio {
    of_totals: f64,
    geometric_mean: f64,
}

impl Ratio {
    /// Compares pairs of times.
    fn of(pairs: &[(f64, f64)]) -> Self {
        let sum = |time: fn(&(f64, f64)) -> f64| pairs.iter().map(time).sum::<f64>();
        Self {
            of_totals: round(sum(|pair| pair.0) / sum(|pair| pair.1)),
            geometric_mean: round(geometric_mean(pairs.iter().map(|pair| pair.0 / pair.1))),
        }
    }
}

impl Figures {
    fn summary(&self, idx: usize) -> Summary {
        // Both of skep's have answered every query.
        let pairs = |other: usize| -> Vec<(f64, f64)> {
            let pair = |query: &QueryFigures| query.time(idx).zip(query.time(other));
            self.queries.iter().filter_map(pair).collect()
        };
        let times: Vec<f64> = self.queries.iter().filter_map(|query| query.time(idx)).collect();
        let swapped: Vec<_> =
            pairs(CLUSTER_IDX).into_iter().map(|(its, cluster)| (cluster, its)).collect();
        Summary {
            answered: times.len(),
            total: times.iter().sum(),
            to_embedded: Ratio::of(&pairs(EMBEDDED_IDX)),
            cluster_to_it: Ratio::of(&swapped),
        }
    }
}

/// Writes the first line of the table.
pub(crate) fn write_heading(names: &[&str]) -> Result<()> {
    let cells: Vec<_> = names.iter().map(|&name| short(name).to_owned()).collect();
    write_line("ms", &cells)
}

/// Writes the times of one query.
pub(crate) fn write_row(query: &QueryFigures) -> Result<()> {
    let cells: Vec<_> = (0..query.times.len())
        .map(|idx| query.time(idx).map_or("fails".to_owned(), |time| format!("{time:.1}")))
        .collect();
    write_line(&format!("q{:02}", query.number), &cells)
}

/// Writes the last lines of the table, what failed, and the file, if it is asked for.
pub(crate) fn write(race: &Race, figures: &Figures) -> Result<()> {
    let summaries: Vec<_> = (0..figures.names.len()).map(|idx| figures.summary(idx)).collect();
    let lines: [(&str, fn(&Summary) -> String); 6] = [
        ("answered", |summary| summary.answered.to_string()),
        ("total of these", |summary| format!("{:.1}", summary.total)),
        ("  / embedded", |summary| format!("{:.3}", summary.to_embedded.of_totals)),
        ("  geometric mean", |summary| format!("{:.3}", summary.to_embedded.geometric_mean)),
        ("cluster / it", |summary| format!("{:.3}", summary.cluster_to_it.of_totals)),
        ("  geometric mean", |summary| format!("{:.3}", summary.cluster_to_it.geometric_mean)),
    ];
    for (name, cell) in lines {
        write_line(name, &summaries.iter().map(cell).collect::<Vec<_>>())?;
    }
    let mut out = io::stdout();
    for query in &figures.queries {
        for (name, time) in figures.names.iter().zip(&query.times) {
            if let Err(error) = time {
                writeln!(out, "q{:02} {name}: {error:#}", query.number)?;
            }
        }
    }
    if race.save {
        let value = value(race, figures, &summaries);
        baseline::save(&format!("peers-tpch-sf{}", race.scale), &value)?;
    }
    Ok(())
}

fn value(race: &Race, figures: &Figures, summaries: &[Summary]) -> Value {
    let engines = figures.names.iter().zip(summaries).map(|(name, summary)| {
        json!({
            "engine": name,
            "answered": summary.answered,
            "total_ms": round(summary.total),
            "ratio_to_embedded": summary.to_embedded.of_totals,
            "geometric_mean_to_embedded": summary.to_embedded.geometric_mean,
            "ratio_of_cluster_to_it": summary.cluster_to_it.of_totals,
            "geometric_mean_of_cluster_to_it": summary.cluster_to_it.geometric_mean,
        })
    });
    let queries = figures.queries.iter().map(|query| {
        let times = figures.names.iter().zip(&query.times).map(|(name, time)| match time {
            Ok(time) => (format!("{name}_ms"), json!(round(milliseconds(*time)))),
            Err(error) => (format!("{name}_fails"), json!(format!("{error:#}"))),
        });
        let mut object: Map<String, Value> = times.collect();
        object.insert("query".to_owned(), json!(query.number));
        object.insert("rows".to_owned(), json!(query.row_count));
        Value::Object(object)
    });
    json!({
        "scale": race.scale,
        "runs": race.runs,
        "workers": race.workers,
        "slots": race.slots,
        "partitions": race.partitions(),
        "engines": engines.collect::<Vec<_>>(),
        "queries": queries.collect::<Vec<_>>(),
    })
}

fn write_line(first: &str, cells: &[String]) -> Result<()> {
    let cells: String = cells.iter().map(|cell| format!("{cell:>WIDTH$}")).collect();
    Ok(writeln!(io::stdout(), "{first:FIRST_WIDTH$}{cells}")?)
}

/// Shortens a name that is wider than a column.
fn short(name: &str) -> &str {
    if name.len() < WIDTH { name } else { "df-distributed" }
}
