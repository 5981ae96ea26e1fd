//! The files of the eight tables at one scale, generated once and kept.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;

use super::tables::{TABLES, Table};
use crate::workspace;

/// What the files are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Parquet: Snappy, row groups of a million rows, as DataFusion's own benchmark has them.
    Parquet,
    /// CSV with a header, comments and addresses in double quotes.
    Csv,
}

impl Format {
    /// Returns the extension of the files.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
        }
    }
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "parquet" => Ok(Self::Parquet),
            "csv" => Ok(Self::Csv),
            _ => bail!("unknown format {name:?}: the formats are parquet, csv"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

/// Counts up when the files of a data set change, so that old ones are not taken for new.
const VERSION: u32 = 1;
const ROW_GROUP_ROW_COUNT: usize = 1 << 20;

/// The eight tables at one scale in one format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DataSet {
    /// The scale factor: 1 is about a gigabyte of CSV.
    pub scale: f64,
    /// What the files are written as.
    pub format: Format,
}

impl DataSet {
    /// What the ordinary test run uses: Parquet, a hundredth of scale 1, some four megabytes.
    pub const SMALL: Self = Self { scale: 0.01, format: Format::Parquet };

    /// Returns the path of a table's file in a data set's directory.
    pub fn file(&self, directory: &Path, table: Table) -> PathBuf {
        directory.join(table.name()).with_extension(self.format.extension())
    }

    /// Returns the directory of the files under Cargo's target directory, generated if need be.
    ///
    /// Several processes may ask at once: one generates, the others wait for it. A directory that
    /// is there is whole, as it gets its name by renaming when all its files are written.
    ///
    /// # Errors
    /// If the target directory cannot be written to.
    pub fn cached(&self) -> Result<PathBuf> {
        let root = workspace::target_dir().join("tpch");
        let directory = root.join(format!("sf{}-{}-v{VERSION}", self.scale, self.format));
        if directory.is_dir() {
            return Ok(directory);
        }
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        let lock = File::create(root.join(".lock"))?;
        lock.lock()?;
        if !directory.is_dir() {
            let unfinished = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(&root)?;
            let files = unfinished.path().join("files");
            self.generate(&files)?;
            fs::rename(&files, &directory)?;
        }
        Ok(directory)
    }

    /// Writes the eight files into `directory`, which is created.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn generate(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        // One thread has the largest table, which is as much work as the others together.
        std::thread::scope(|scope| {
            let largest = scope.spawn(|| self.write(directory, Table::LineItem));
            let others = TABLES.into_iter().filter(|table| *table != Table::LineItem);
            let result =
                others.map(|table| self.write(directory, table)).collect::<Result<Vec<_>>>();
            match largest.join() {
                Ok(written) => written.and(result.map(|_| ())),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn write(&self, directory: &Path, table: Table) -> Result<()> {
        let path = self.file(directory, table);
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        match self.format {
            Format::Csv => table.write_csv(self.scale, &mut out)?,
            Format::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::SNAPPY)
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROW_COUNT))
                    // The files do not say which version wrote them, and so stay the same.
                    .set_created_by("skep-testkit".to_owned())
                    .build();
                let mut writer = ArrowWriter::try_new(&mut out, table.schema(), Some(properties))?;
                table.write_batches(self.scale, &mut |batch| Ok(writer.write(&batch)?))?;
                writer.close()?;
            }
        }
        out.flush().with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{CsvReadOptions, ParquetReadOptions, SessionContext};

    use super::*;

    #[test]
    fn a_cached_set_is_whole_and_found_again() {
        let directory = DataSet::SMALL.cached().unwrap();
        for table in TABLES {
            assert!(DataSet::SMALL.file(&directory, table).is_file(), "{}", table.name());
        }
        assert_eq!(DataSet::SMALL.cached().unwrap(), directory);
    }

    #[test]
    fn the_same_files_come_out_every_time() {
        let tiny = DataSet { scale: 0.001, format: Format::Parquet };
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for directory in &directories {
            tiny.generate(directory.path()).unwrap();
        }
        for table in TABLES {
            let [left, right] =
                directories.each_ref().map(|d| fs::read(tiny.file(d.path(), table)));
            assert!(left.unwrap() == right.unwrap(), "{}", table.name());
        }
    }

    /// The two formats come from two writers and hold the same rows.
    #[tokio::test]
    async fn csv_and_parquet_hold_the_same_rows() {
        let ctx = SessionContext::new();
        let directory = tempfile::tempdir().unwrap();
        for format in [Format::Csv, Format::Parquet] {
            DataSet { scale: 0.001, format }.generate(directory.path()).unwrap();
        }
        for table in TABLES {
            let name = table.name();
            let path = |extension| format!("{}/{name}.{extension}", directory.path().display());
            let schema = table.schema();
            let csv = CsvReadOptions::new().schema(&schema);
            ctx.register_csv(format!("{name}_csv"), path("csv"), csv).await.unwrap();
            let options = ParquetReadOptions::default();
            ctx.register_parquet(name, path("parquet"), options).await.unwrap();
            for (left, right) in
                [(name.to_owned(), format!("{name}_csv")), (format!("{name}_csv"), name.to_owned())]
            {
                let query = format!("SELECT * FROM {left} EXCEPT ALL SELECT * FROM {right}");
                let rows = ctx.sql(&query).await.unwrap().count().await.unwrap();
                assert_eq!(rows, 0, "{left} without {right}");
            }
            let rows = ctx.table(name).await.unwrap().count().await.unwrap();
            assert!(rows > 0, "{name}");
        }
    }
}
