//! One table or view of the catalog.

use std::fmt;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::logical_expr::TableType;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::files::FileTable;

/// The text of a view, planned anew by each query that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ViewText {
    /// The query as the user wrote it.
    pub(crate) query: String,
    /// Names for the query's columns; empty leaves them.
    pub(crate) columns: Vec<String>,
    /// The schema in which the query's bare names are looked up.
    pub(crate) schema: String,
    /// Whether an admin made it, who may name any file. The files of others are looked at with the
    /// roots of each use.
    pub(crate) by_admin: bool,
}

/// What a table is.
#[derive(Debug, Clone)]
pub(crate) enum Definition {
    /// Files that somebody else keeps, or that skep does (`managed`).
    Files { table: FileTable, managed: bool },
    /// A view kept as text.
    View(ViewText),
    /// A plan or a table of this process, for temporary views and registered DataFrames.
    Provider { provider: Arc<dyn TableProvider>, text: Option<String> },
    /// What the process shows of itself, to be read only.
    System(Arc<dyn TableProvider>),
}

/// A table or view, with what was found out when it was first opened.
pub(crate) struct TableEntry {
    pub(crate) definition: Definition,
    pub(crate) comment: Option<String>,
    /// Opened once for all queries: listing and schema inference cost reads.
    pub(crate) opened: OnceCell<Arc<dyn TableProvider>>,
    /// The directory of a temporary table's rows, which goes when the last query over it ends.
    directory: Option<TempDir>,
}

impl TableEntry {
    pub(crate) fn new(definition: Definition, comment: Option<String>) -> Self {
        Self { definition, comment, opened: OnceCell::new(), directory: None }
    }

    /// Ties a directory's life to the entry's.
    pub(crate) fn with_directory(mut self, directory: TempDir) -> Self {
        self.directory = Some(directory);
        self
    }

    /// Whether it is a view to the user: something without rows of its own.
    pub(crate) fn is_view(&self) -> bool {
        match &self.definition {
            Definition::Files { .. } | Definition::System(_) => false,
            Definition::View(_) => true,
            Definition::Provider { provider, .. } => provider.table_type() == TableType::View,
        }
    }

    pub(crate) fn table_type(&self) -> TableType {
        if self.is_view() { TableType::View } else { TableType::Base }
    }
}

impl fmt::Debug for TableEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableEntry")
            .field("definition", &self.definition)
            .field("comment", &self.comment)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}
