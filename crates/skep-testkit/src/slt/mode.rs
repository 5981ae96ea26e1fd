//! The ways of running skep that a script can be run in.

use std::fmt;
use std::str::FromStr;

use super::shape::Shape;

/// A way of running skep; the same script gives the same answers in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The engine in this process.
    Embedded,
    /// A coordinator and workers in this process.
    InProcess,
    /// A coordinator and workers as processes of their own.
    MultiProcess,
    /// A cluster of another shape in this process.
    Shaped(Shape),
}

impl Mode {
    /// Every mode that a header may name.
    pub const ALL: [Self; 3] = [Self::Embedded, Self::InProcess, Self::MultiProcess];

    /// Returns the name that headers use, and the label that records may be for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::InProcess | Self::Shaped(_) => "in-process",
            Self::MultiProcess => "multi-process",
        }
    }
}

/// Writes the name that trials use.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shaped(shape) => write!(f, "{}/{shape}", self.name()),
            _ => f.write_str(self.name()),
        }
    }
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            anyhow::anyhow!("unknown mode {name:?}: the modes are {known}")
        })
    }
}
