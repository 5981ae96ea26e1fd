//! Each query in each engine, by turns, so that whatever disturbs disturbs all.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use skep_testkit::tpch::query;
use tokio::time::timeout;

use crate::Race;
use crate::answer::Answer;
use crate::contender::{CLUSTER, Contender};
use crate::report::{Figures, QueryFigures, write_heading, write_row};

/// Measures the queries, and shows each as soon as it is measured.
pub(crate) async fn run(
    race: &Race,
    contenders: &[Contender],
    numbers: &[usize],
) -> Result<Figures> {
    let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
    write_heading(&names)?;
    let mut queries = Vec::new();
    for &number in numbers {
        let text = query(number, race.scale);
        let figures = measure(race, contenders, number, &text)
            .await
            .with_context(|| format!("query {number}"))?;
        write_row(&figures)?;
        queries.push(figures);
    }
    Ok(Figures { names, queries })
}

/// Measures one query, after a run that is compared and does not count: it finds files and code cold.
/// An engine that fails once is not asked again; only skep itself must answer.
async fn measure(
    race: &Race,
    contenders: &[Contender],
    number: usize,
    text: &str,
) -> Result<QueryFigures> {
    let expected = ask(race, &contenders[0], text).await?.sorted_rows()?;
    let mut times = vec![Ok(Duration::MAX)];
    for contender in &contenders[1..] {
        let compared = compare(race, contender, text, &expected).await;
        times.push(compared.map(|()| Duration::MAX));
    }
    for run in 0..race.runs {
        for turn in 0..contenders.len() {
            // Another begins each time.
            let idx = (turn + run) % contenders.len();
            if let Ok(best) = times[idx] {
                let answer = ask(race, &contenders[idx], text).await;
                times[idx] = answer.map(|answer| best.min(answer.time));
            }
        }
    }
    let failed = times.iter().take(2).position(Result::is_err);
    if let Some(idx) = failed
        && let Err(error) = times.swap_remove(idx)
    {
        return Err(error.context(format!("skep itself, {}", contenders[idx].name)));
    }
    Ok(QueryFigures { number, row_count: expected.len(), times })
}

async fn compare(
    race: &Race,
    contender: &Contender,
    text: &str,
    expected: &[Vec<String>],
) -> Result<()> {
    let rows = ask(race, contender, text).await?.sorted_rows()?;
    if rows != expected {
        let count = expected.len();
        bail!("another answer: {} rows, where skep embedded has {count}", rows.len());
    }
    Ok(())
}

async fn ask(race: &Race, contender: &Contender, text: &str) -> Result<Answer> {
    match timeout(race.patience(), contender.answer(text)).await {
        Ok(answer) => answer,
        Err(_elapsed) => bail!("no answer in {} s", race.patience),
    }
}

/// Shows how each engine runs the queries; once it has run them before, as files and code are cold
/// the first time.
pub(crate) async fn explain(
    race: &Race,
    contenders: &[Contender],
    numbers: &[usize],
) -> Result<()> {
    let mut out = io::stdout();
    for &number in numbers {
        let text = query(number, race.scale);
        for contender in contenders {
            writeln!(out, "== q{number:02} {}", contender.name)?;
            let shown = async {
                ask(race, contender, &text).await?;
                ask(race, contender, &format!("EXPLAIN ANALYZE {text}")).await?.rows()
            };
            match shown.await {
                Ok(rows) => {
                    for row in rows {
                        writeln!(out, "{}", row.join(" "))?;
                    }
                }
                Err(error) if contender.name == CLUSTER => return Err(error),
                Err(error) => writeln!(out, "{error:#}")?,
            }
        }
    }
    Ok(())
}
