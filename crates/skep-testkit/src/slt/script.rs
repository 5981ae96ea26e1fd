//! One script against one engine: run it, or write down what the engine answers.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use skep_engine::EngineConfig;
use sqllogictest::{
    Injected, Record, Runner, default_normalizer, parse_file, strict_column_validator,
    update_record_with_output,
};

use super::column_type::ColumnType;
use super::connection::{Connection, Instance, InstanceKind};
use super::header::Header;
use super::mode::Mode;
use super::placeholders::Placeholders;
use super::validator;
use crate::cluster::ClusterShape;

/// What to do with a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Compare the answers with the expected ones.
    Check,
    /// Write the answers into the script, in place of the expected ones.
    Complete,
}

/// A statement that takes longer than this hangs; slow scripts get five times as much.
const STATEMENT_LIMIT: Duration = Duration::from_secs(120);
/// Memory of the engine unless the header says otherwise.
const MEMORY_LIMIT: usize = 2 << 30;
/// Partitions of a query unless the header says otherwise: the same on every machine.
const TARGET_PARTITIONS: usize = 4;

/// Workers of a cluster, and tasks that each runs at a time.
const WORKERS: usize = 3;
const SLOTS: usize = 2;

/// Runs one script on a fresh engine, or cluster, with a fresh data directory. `binary` is the
/// `skep` that a cluster of processes is started from.
///
/// # Errors
/// If the script cannot be read, or an answer is not the expected one; the text says which record
/// of which line, and how the answers differ.
pub async fn run_script(path: &Path, mode: Mode, run: Run, binary: Option<&Path>) -> Result<()> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let header = Header::parse(&text)?;
    let records = parse_file::<ColumnType>(path).map_err(|error| anyhow!("{error}"))?;
    // Records that come by `include` may name paths too.
    let whole_text =
        records.iter().filter(|record| !is_injected(record)).fold(text, |mut whole, record| {
            // A String takes whatever is written to it.
            let _ = writeln!(whole, "{record}");
            whole
        });

    let directory = tempfile::Builder::new().prefix("skep-slt-").tempdir()?;
    let [data_dir, test_dir, spill_dir] =
        ["data", "test", "spill"].map(|name| directory.path().join(name));
    for dir in [&data_dir, &test_dir, &spill_dir] {
        std::fs::create_dir(dir)?;
    }
    let placeholders = Placeholders::for_script(&whole_text, &test_dir.canonicalize()?)?;
    let target_partitions = match mode {
        Mode::Shaped(shape) => shape.target_partitions,
        _ => TARGET_PARTITIONS,
    };
    let config = EngineConfig {
        data_dir: Some(data_dir.clone()),
        memory_limit: Some(header.memory_limit.unwrap_or(MEMORY_LIMIT)),
        spill_dir: Some(spill_dir.clone()),
        target_partitions: Some(header.target_partitions.unwrap_or(target_partitions)),
        ..EngineConfig::default()
    };
    let is_slow = path.extension().is_some_and(|extension| extension == "slt_slow");
    let statement_limit = if is_slow { STATEMENT_LIMIT * 5 } else { STATEMENT_LIMIT };
    let shape = || ClusterShape {
        worker_count: WORKERS,
        slot_count: SLOTS,
        memory_limit: header.memory_limit.unwrap_or(MEMORY_LIMIT),
        partition_memory_limit: None,
        target_partitions: config.target_partitions,
        data_dir: data_dir.clone(),
        spill_dir: spill_dir.clone(),
        spreads_small: true,
        extra_config: String::new(),
        extra_arguments: Vec::new(),
    };
    let kind = match mode {
        Mode::Embedded => InstanceKind::Embedded(config),
        Mode::InProcess => InstanceKind::InProcess(shape()),
        Mode::Shaped(other) => InstanceKind::InProcess(ClusterShape {
            worker_count: other.worker_count,
            slot_count: other.slot_count,
            partition_memory_limit: other.partition_memory_limit(),
            ..shape()
        }),
        Mode::MultiProcess => {
            let binary = binary.context("the mode of many processes needs the skep binary")?;
            InstanceKind::MultiProcess(shape(), binary.to_owned())
        }
    };
    let instance = Arc::new(Instance::new(kind, placeholders, statement_limit));

    let mut runner = Runner::new(|| {
        let connection = instance.connect();
        async move { Ok(connection) }
    });
    runner.with_column_validator(strict_column_validator);
    runner.with_validator(validator::matches);
    runner.add_label(mode.name());
    let result = match run {
        Run::Check => check(&mut runner, &instance, records).await,
        Run::Complete => complete(&mut runner, &instance, records, path).await,
    };
    runner.shutdown_async().await;
    result
}

fn is_injected(record: &Record<ColumnType>) -> bool {
    matches!(record, Record::Injected(_))
}

/// Puts the paths of this run in the place of their names.
fn fill(record: &Record<ColumnType>, placeholders: &Placeholders) -> Record<ColumnType> {
    let mut record = record.clone();
    match &mut record {
        Record::Statement { sql, .. } | Record::Query { sql, .. } | Record::Let { sql, .. } => {
            *sql = placeholders.fill(sql);
        }
        Record::System { command, .. } => *command = placeholders.fill(command),
        _ => {}
    }
    record
}

async fn check<M>(
    runner: &mut Runner<Connection, M>,
    instance: &Instance,
    records: Vec<Record<ColumnType>>,
) -> Result<()>
where
    M: sqllogictest::MakeConnection<Conn = Connection>,
{
    for record in records {
        if matches!(record, Record::Halt { .. }) {
            return Err(anyhow!("`halt` would leave the rest of the script unrun"));
        }
        let record = fill(&record, instance.placeholders());
        if let Err(error) = runner.run_async(record).await {
            let text = error.display(false).to_string();
            return Err(anyhow!("{}", instance.placeholders().restore(&text)));
        }
    }
    Ok(())
}

async fn complete<M>(
    runner: &mut Runner<Connection, M>,
    instance: &Instance,
    records: Vec<Record<ColumnType>>,
    path: &Path,
) -> Result<()>
where
    M: sqllogictest::MakeConnection<Conn = Connection>,
{
    let mut text = String::new();
    // Included records run, but are not written: they belong to another file.
    let mut include_depth = 0_usize;
    for record in records {
        match &record {
            Record::Injected(Injected::BeginInclude(_)) => include_depth += 1,
            Record::Injected(Injected::EndInclude(_)) => include_depth -= 1,
            _ => {
                let output = runner.apply_record(fill(&record, instance.placeholders())).await;
                if include_depth > 0 {
                    continue;
                }
                let updated = update_record_with_output(
                    &record,
                    &output,
                    " ",
                    validator::matches,
                    default_normalizer,
                    strict_column_validator,
                );
                writeln!(text, "{}", updated.unwrap_or(record))?;
            }
        }
    }
    let text = format!("{}\n", text.trim_end());
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str, run: Run) -> (Result<()>, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.slt");
        std::fs::write(&path, script).unwrap();
        let result = run_script(&path, Mode::Embedded, run, None).await;
        (result, std::fs::read_to_string(&path).unwrap())
    }

    #[tokio::test]
    async fn a_right_answer_passes_and_a_wrong_one_is_shown() {
        let script = "# description: x\n\nquery IT\nSELECT 1, 'a  b'\n----\n1 a  b\n";
        run(script, Run::Check).await.0.unwrap();
        let wrong = script.replace("1 a  b\n", "2 a  b\n");
        let error = run(&wrong, Run::Check).await.0.unwrap_err().to_string();
        assert!(error.contains("query result mismatch"), "{error}");
        assert!(error.contains("test.slt:3"), "{error}");
    }

    #[tokio::test]
    async fn the_columns_of_an_answer_count() {
        for types in ["I", "III", "TT", ""] {
            let script = format!("# description: x\n\nquery {types}\nSELECT 1, 2\n----\n1 2\n");
            let error = run(&script, Run::Check).await.0.unwrap_err().to_string();
            assert!(error.contains("columns mismatch"), "{types:?}: {error}");
        }
    }

    #[tokio::test]
    async fn an_error_that_does_not_come_fails_the_script() {
        let script = "# description: x\n\nstatement error nothing\nSELECT 1\n";
        assert!(run(script, Run::Check).await.0.is_err());
    }

    #[tokio::test]
    async fn completing_writes_the_answers_and_keeps_the_names_of_paths() {
        let script = "# description: x\n\nquery T\nSELECT '__TEST_DIR__/f' AS path\n----\n?\n\n\
                      statement ok\nSELECT 2\n";
        let (result, completed) = run(script, Run::Complete).await;
        result.unwrap();
        assert_eq!(completed, script.replace("\n?\n", "\n__TEST_DIR__/f\n"));
        run(&completed, Run::Check).await.0.unwrap();
    }

    #[tokio::test]
    async fn connections_are_sessions_and_a_restart_ends_them() {
        let east = "query B\nSELECT arrow_typeof(now()) LIKE '%05:00%'\n----\n";
        let script = format!(
            "# description: x\n\n\
             statement ok\nSET datafusion.execution.time_zone = '+05:00'\n\n\
             connection other\n{east}false\n\n{east}true\n\n\
             statement ok\nRESTART ENGINE\n\n{east}false\n"
        );
        run(&script, Run::Check).await.0.unwrap();
    }

    #[tokio::test]
    async fn a_script_that_stops_early_is_refused() {
        let script = "# description: x\n\nhalt\n\nquery I\nSELECT 1\n----\n2\n";
        assert!(run(script, Run::Check).await.0.is_err());
    }
}
