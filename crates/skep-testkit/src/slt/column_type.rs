//! The letters after `query`, which say what type each column of the answer has.

use datafusion::arrow::datatypes::DataType;

/// The kind of a result column, one letter in a script.
///
/// `?` in a script stands for any kind; the other letters must be met.
#[derive(Debug, Clone, Eq)]
pub enum ColumnType {
    /// `B`: boolean.
    Boolean,
    /// `I`: integers of any width.
    Integer,
    /// `R`: floating point and decimal numbers.
    Real,
    /// `T`: text.
    Text,
    /// `D`: dates and times of day.
    Date,
    /// `P`: timestamps, with a zone or without.
    Timestamp,
    /// `?`: everything else: null, interval, binary, list, struct, map.
    Other,
}

impl ColumnType {
    /// Returns the kind of an Arrow type.
    pub fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => {
                Self::Date
            }
            DataType::Timestamp(_, _) => Self::Timestamp,
            DataType::Dictionary(_, value) => Self::of(value),
            data_type if data_type.is_integer() => Self::Integer,
            data_type if data_type.is_floating() || data_type.is_decimal() => Self::Real,
            _ => Self::Other,
        }
    }
}

/// `?` equals every kind, so that a script can leave one open.
impl PartialEq for ColumnType {
    fn eq(&self, other: &Self) -> bool {
        use sqllogictest::ColumnType as _;
        let (left, right) = (self.to_char(), other.to_char());
        left == right || left == '?' || right == '?'
    }
}

impl sqllogictest::ColumnType for ColumnType {
    fn from_char(letter: char) -> Option<Self> {
        match letter {
            'B' => Some(Self::Boolean),
            'I' => Some(Self::Integer),
            'R' => Some(Self::Real),
            'T' => Some(Self::Text),
            'D' => Some(Self::Date),
            'P' => Some(Self::Timestamp),
            '?' => Some(Self::Other),
            _ => None,
        }
    }

    fn to_char(&self) -> char {
        match self {
            Self::Boolean => 'B',
            Self::Integer => 'I',
            Self::Real => 'R',
            Self::Text => 'T',
            Self::Date => 'D',
            Self::Timestamp => 'P',
            Self::Other => '?',
        }
    }
}
