//! Who asks, and what they may do.
//!
//! A session belongs to a [`Principal`]. What its role does not allow is refused where it would be
//! done: where a table is made, written or dropped, where a statement names files itself, where the
//! process shows what others do. So it does not matter which way a statement came.
//!
//! **Invariant:** whoever is not an admin names files only below the allowed roots. Tables that are
//! kept were allowed when they were made, and are open to all; so are views that an admin made. The
//! files of other views are those of whoever uses them: roots that become narrower reach them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;

use crate::error::{Error, Result};
use crate::files::Location;

/// What somebody may do. Each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Asks, of tables that are there.
    Reader,
    /// Makes, fills and drops tables too.
    Writer,
    /// Sees what others do too, and names any file.
    Admin,
}

impl Role {
    /// All roles, from the least.
    pub const ALL: [Self; 3] = [Self::Reader, Self::Writer, Self::Admin];

    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| format!("\"{text}\" is no role: there are admin, writer and reader"))
    }
}

/// Whose a session is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The name.
    pub user: Arc<str>,
    /// What they may do.
    pub role: Role,
}

impl Principal {
    /// Makes one.
    pub fn new(user: &str, role: Role) -> Self {
        Self { user: user.into(), role }
    }

    /// Returns who asks where nobody is asked who they are: they may do everything.
    pub fn anonymous() -> Self {
        Self::new("anonymous", Role::Admin)
    }

    /// Returns whether they may see what this user does.
    pub fn sees(&self, user: &str) -> bool {
        self.role == Role::Admin || *self.user == *user
    }
}

/// Where whoever is no admin may name files.
#[derive(Debug, Default)]
pub(crate) struct AllowedRoots(Vec<Root>);

#[derive(Debug)]
struct Root {
    text: String,
    location: Location,
}

impl AllowedRoots {
    /// Reads directories and URLs.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for what is neither.
    pub(crate) fn parse(texts: &[String]) -> Result<Self> {
        let root = |text: &String| {
            let location = Location::parse(text)?;
            match location.pattern {
                None => Ok(Root { text: text.clone(), location }),
                Some(_) => Err(Error::InvalidOption {
                    option: "allowed_roots".to_owned(),
                    message: format!("\"{text}\" is a pattern"),
                    hint: Some("name the directory: all below it is allowed".to_owned()),
                }),
            }
        };
        Ok(Self(texts.iter().map(root).collect::<Result<_>>()?))
    }

    fn contains(&self, location: &Location) -> bool {
        let place = location.local.as_deref().map(real_path);
        self.0.iter().any(|root| match (&root.location.local, &place) {
            (Some(root), Some(place)) => place.starts_with(real_path(root)),
            (None, None) => {
                root.location.store == location.store
                    && location.base.prefix_matches(&root.location.base)
            }
            _ => false,
        })
    }

    fn hint(&self) -> String {
        if self.0.is_empty() {
            return "only an admin names files here, unless allowed_roots opens directories"
                .to_owned();
        }
        let roots: Vec<_> = self.0.iter().map(|root| root.text.as_str()).collect();
        format!("files may be named below {}", roots.join(", "))
    }
}

/// Follows links as far as there is anything; what is not there yet has none.
fn real_path(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    for place in path.ancestors() {
        if let Ok(mut real) = place.canonicalize() {
            real.extend(missing.iter().rev());
            return real;
        }
        missing.extend(place.file_name());
    }
    path.to_owned()
}

/// What the user of a session may do. Also an extension of its configuration.
#[derive(Debug)]
pub(crate) struct AccessPolicy {
    principal: Principal,
    roots: Arc<AllowedRoots>,
}

impl AccessPolicy {
    pub(crate) fn new(principal: Principal, roots: Arc<AllowedRoots>) -> Self {
        Self { principal, roots }
    }

    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Checks that rows and tables may be changed; `what` says how.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] naming the role that may.
    pub(crate) fn require_writer(&self, what: &str) -> Result<()> {
        if self.principal.role >= Role::Writer {
            return Ok(());
        }
        let Principal { user, role } = &self.principal;
        Err(Error::PermissionDenied {
            message: format!("no permission for {what}: user \"{user}\" is a {role}"),
            hint: Some("it takes the role writer or admin".to_owned()),
        })
    }

    /// Checks that files may be named.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] naming where they may be; [`Error::InvalidOption`] for what is no
    /// location.
    pub(crate) fn check_location(&self, text: &str) -> Result<()> {
        if self.principal.role == Role::Admin {
            return Ok(());
        }
        let location = Location::parse(text)?;
        if self.roots.contains(&location) {
            return Ok(());
        }
        Err(Error::PermissionDenied {
            message: format!("no permission to name the files \"{}\"", location.text),
            hint: Some(self.roots.hint()),
        })
    }

    /// Checks that a plan writes nothing that may not be written, whatever stands around it.
    ///
    /// # Errors
    /// As [`require_writer`](Self::require_writer).
    pub(crate) fn check_plan(&self, plan: &LogicalPlan) -> Result<()> {
        if self.principal.role >= Role::Writer {
            return Ok(());
        }
        let mut change = None;
        plan.apply(|node| {
            change = match node {
                LogicalPlan::Dml(statement) => Some(statement.op.to_string()),
                LogicalPlan::Copy(_) => Some("COPY".to_owned()),
                LogicalPlan::Ddl(statement) => Some(statement.name().to_owned()),
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            Ok(TreeNodeRecursion::Stop)
        })?;
        change.map_or(Ok(()), |change| self.require_writer(&change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(role: Role, roots: &[String]) -> AccessPolicy {
        let roots = Arc::new(AllowedRoots::parse(roots).unwrap());
        AccessPolicy::new(Principal::new("ann", role), roots)
    }

    #[test]
    fn roles_have_names_and_an_order() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().unwrap_err().contains("writer"));
        assert!(Role::Reader < Role::Writer && Role::Writer < Role::Admin);
        assert!(Principal::new("ann", Role::Writer).sees("ann"));
        assert!(!Principal::new("ann", Role::Writer).sees("bob"));
        assert!(Principal::new("ann", Role::Admin).sees("bob"));
    }

    #[test]
    fn files_are_named_below_the_roots_alone() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("open");
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(directory.path().join("open-not")).unwrap();
        std::os::unix::fs::symlink(directory.path(), root.join("out")).unwrap();
        let root = root.to_str().unwrap().to_owned();
        let roots = [root.clone(), "s3://bucket/public".to_owned()];
        let writer = policy(Role::Writer, &roots);
        for allowed in [
            root.clone(),
            format!("{root}/a.csv"),
            format!("{root}/*/b.csv"),
            format!("file://{root}/not/there.csv"),
            format!("{root}/x/../y.csv"),
            "s3://bucket/public/a/*.parquet".to_owned(),
        ] {
            writer.check_location(&allowed).unwrap();
        }
        for refused in [
            format!("{root}-not/a.csv"),
            format!("{root}/../a.csv"),
            format!("{root}/out/a.csv"),
            "/etc/passwd".to_owned(),
            "/*.csv".to_owned(),
            "a.csv".to_owned(),
            "s3://bucket/publicity/a.csv".to_owned(),
            "s3://other/public/a.csv".to_owned(),
            "http://bucket/public/a.csv".to_owned(),
        ] {
            let error = writer.check_location(&refused).unwrap_err();
            assert_eq!(error.code(), skep_proto::ErrorCode::PermissionDenied, "{refused}");
            assert!(error.hint().unwrap().contains(&root), "{refused}");
            policy(Role::Admin, &roots).check_location(&refused).unwrap();
        }
        let error = policy(Role::Writer, &[]).check_location("a.csv").unwrap_err();
        assert!(error.hint().unwrap().contains("allowed_roots"));
        assert!(AllowedRoots::parse(&["/data/*.csv".to_owned()]).is_err());
    }
}
