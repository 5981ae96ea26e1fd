//! The 22 queries, in the words of the TPC-H specification with its validation parameters.
//!
//! Source: TPC Benchmark H, clause 2.4 and, for query 15, the approved variant of appendix B that
//! uses a common table expression. Where the clause asks for the first N rows, so does `LIMIT`.

/// How many queries there are; they are numbered from 1.
pub const QUERY_COUNT: usize = 22;

const TEXTS: [&str; QUERY_COUNT] = [
    include_str!("queries/q01.sql"),
    include_str!("queries/q02.sql"),
    include_str!("queries/q03.sql"),
    include_str!("queries/q04.sql"),
    include_str!("queries/q05.sql"),
    include_str!("queries/q06.sql"),
    include_str!("queries/q07.sql"),
    include_str!("queries/q08.sql"),
    include_str!("queries/q09.sql"),
    include_str!("queries/q10.sql"),
    include_str!("queries/q11.sql"),
    include_str!("queries/q12.sql"),
    include_str!("queries/q13.sql"),
    include_str!("queries/q14.sql"),
    include_str!("queries/q15.sql"),
    include_str!("queries/q16.sql"),
    include_str!("queries/q17.sql"),
    include_str!("queries/q18.sql"),
    include_str!("queries/q19.sql"),
    include_str!("queries/q20.sql"),
    include_str!("queries/q21.sql"),
    include_str!("queries/q22.sql"),
];

/// Returns the text of query `number`, without a semicolon.
///
/// The scale matters to query 11 alone, whose fraction is 0.0001 divided by it.
///
/// # Panics
/// If there is no such query.
pub fn query(number: usize, scale: f64) -> String {
    let text = TEXTS[number - 1].trim_end();
    // Ten digits, as in the specification's answers, and no exponent.
    let fraction = format!("{:.10}", 0.0001 / scale);
    text.replace(":fraction", &fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slt::find_scripts;
    use crate::workspace;

    #[test]
    fn the_fraction_of_query_11_follows_the_scale() {
        assert!(query(11, 1.0).contains("* 0.0001000000\n"));
        assert!(query(11, 0.01).contains("* 0.0100000000\n"));
        for number in 1..=QUERY_COUNT {
            assert!(!query(number, 1.0).contains(':'), "query {number}");
        }
    }

    /// What the benchmark runs is what the tests check.
    #[test]
    fn every_script_asks_the_query_of_its_name() {
        let scripts = find_scripts(&workspace::root().join("sql-tests/tpch")).unwrap();
        let mut seen = [0; QUERY_COUNT];
        for path in scripts {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let Some(number) = name.strip_prefix('q').and_then(|text| text.parse().ok()) else {
                continue;
            };
            let is_slow = path.extension().unwrap() == "slt_slow";
            let text = query(number, if is_slow { 1.0 } else { 0.01 });
            let script = std::fs::read_to_string(&path).unwrap();
            assert!(script.contains(&format!("\n{text}\n----\n")), "{}", path.display());
            seen[number - 1] += 1;
        }
        assert_eq!(seen, [2; QUERY_COUNT], "each query at both scales");
    }
}
