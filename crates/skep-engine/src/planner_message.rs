//! What DataFusion's planner says, in a user's words.
//!
//! Its errors are text only, some with the `Debug` form of a syntax tree or of a function within.
//! This module reads the texts of version 55; one that it does not know passes as it is.

use crate::error::Error;

/// Returns the error for a planning failure with this text.
pub(crate) fn plan_error(message: &str) -> Error {
    if let Some(rest) = message.strip_prefix("Invalid function '")
        && let Some((name, advice)) = rest.split_once('\'')
    {
        let hint = advice
            .split_once("Did you mean '")
            .and_then(|(_, rest)| rest.split_once('\''))
            .map(|(meant, _)| format!("did you mean \"{meant}\"?"));
        return Error::NotFound { kind: "function", name: name.to_owned(), position: None, hint };
    }
    if let Some((_, rest)) = message.split_once("column \"")
        && let Some((column, _)) = rest.split_once("\" must appear in the GROUP BY clause")
    {
        return with_hint(
            format!("column \"{column}\" is neither in GROUP BY nor in an aggregate function"),
            "group by it, or take its min, max or any_value",
        );
    }
    if let Some((what, candidates)) = message.split_once(" No function matches the given name") {
        return unmatched_function(what, candidates);
    }
    unmatched_signatures(message)
        .or_else(|| known_phrase(message))
        .unwrap_or_else(|| Error::plan(message))
}

/// Sentences of the planner that say it in its own words.
fn known_phrase(message: &str) -> Option<Error> {
    if let Some(rest) = message.strip_prefix("Order by column out of bounds, specified: ")
        && let Some((position, columns)) = rest.split_once(", max: ")
    {
        let message = format!("ORDER BY {position}: there are {columns} output columns");
        return Some(Error::plan(message));
    }
    if message.starts_with("Too many columns! The subquery should only return one column") {
        return Some(with_hint(
            "a subquery in an expression must have one column".to_owned(),
            "select one column, or use EXISTS",
        ));
    }
    if message.starts_with("Insert-returning clause not supported") {
        return Some(Error::Unsupported { what: "INSERT ... RETURNING".to_owned(), hint: None });
    }
    if message.starts_with("Aggregate functions are not allowed in the WHERE clause") {
        return Some(with_hint(
            "aggregate functions are not allowed in WHERE".to_owned(),
            "HAVING filters groups",
        ));
    }
    let (_, rest) = message.split_once("Cannot get result type for temporal operation ")?;
    let (operation, _) = rest.split_once(": ")?;
    let hint = if operation.contains("Interval") && operation.contains('*') {
        "write the whole interval out, as INTERVAL '3 hours'"
    } else {
        "cast one side to the type that is meant"
    };
    Some(with_hint(format!("there is no operation {operation}"), hint))
}

/// Returns the error for something that the planner does not have.
pub(crate) fn unsupported_error(message: &str) -> Error {
    if message.starts_with("Physical plan does not support logical expression WindowFunction") {
        return with_hint(
            "a window function cannot stand here".to_owned(),
            "QUALIFY filters on window functions",
        );
    }
    if let Some(name) = message.strip_prefix("Unsupported SQL type ") {
        return Error::Unsupported { what: format!("the type {name}"), hint: None };
    }
    if let Some(types) = message.strip_prefix("Unsupported CAST from ") {
        return Error::Unsupported { what: format!("CAST from {types}"), hint: None };
    }
    let message = without_dump(message);
    Error::Unsupported { what: format!("this statement ({message})"), hint: None }
}

fn with_hint(message: String, hint: &str) -> Error {
    Error::Plan { message, position: None, hint: Some(hint.to_owned()) }
}

/// `candidates` ends with one signature a line.
fn unmatched_function(what: &str, candidates: &str) -> Error {
    let signatures: Vec<&str> = match candidates.split_once("Candidate functions:") {
        Some((_, lines)) => lines.lines().map(str::trim).collect(),
        None => Vec::new(),
    };
    // A function that checks its arguments itself has nothing to show.
    let signatures: Vec<&str> = signatures
        .into_iter()
        .filter(|line| !line.is_empty() && !line.contains("UserDefined"))
        .collect();
    let what = what.split_once("\n").map_or(what, |(first, _)| first);
    let what = what.split_once(": Error during planning: ").map_or(what, |(_, reason)| reason);
    Error::Plan {
        message: what.trim_end_matches('.').to_owned(),
        position: None,
        hint: (!signatures.is_empty())
            .then(|| format!("it can be called as {}", signatures.join(" or "))),
    }
}

/// `Function 'sum' failed to match any signature, errors: ...'sum' requires Int64, but received
/// Boolean (DataType: Boolean).,...`: once for each signature.
fn unmatched_signatures(message: &str) -> Option<Error> {
    let (_, rest) = message.split_once("Function '")?;
    let (name, rest) = rest.split_once("' failed to match any signature")?;
    let (_, rest) = rest.split_once("but received ")?;
    let (given, _) = rest.split_once(" (DataType")?;
    Some(Error::plan(format!("function \"{name}\" does not take a {given}")))
}

/// Cuts off the `Debug` form of a structure.
fn without_dump(message: &str) -> &str {
    let Some((text, _)) = message.split_once(" { ") else {
        return message;
    };
    match text.rsplit_once('(') {
        Some((before, inside)) if !inside.contains(')') => before,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_does_not_fit_is_one_line() {
        let error = plan_error(
            "Function 'abs' expects 1 arguments but received 2. No function matches the given \
             name and argument types 'abs(Utf8, Utf8)'. You might need to add explicit type \
             casts.\n\tCandidate functions:\n\tabs(Numeric(1))",
        );
        assert_eq!(error.to_string(), "Function 'abs' expects 1 arguments but received 2");
        assert_eq!(error.hint(), Some("it can be called as abs(Numeric(1))"));
        let error = plan_error(
            "Function 'sum' failed to match any signature, errors: Error during planning: \
             Function 'sum' requires Decimal, but received Boolean (DataType: Boolean).,Error",
        );
        assert_eq!(error.to_string(), "function \"sum\" does not take a Boolean");
    }

    #[test]
    fn no_structure_of_the_planner_is_shown() {
        let error = unsupported_error("Unsupported ast node Pivot { table: Table { name } }");
        assert_eq!(
            error.to_string(),
            "this statement (Unsupported ast node Pivot) is not supported"
        );
        let error = unsupported_error("No place for Case(Case { expr: None }) here");
        assert_eq!(error.to_string(), "this statement (No place for Case) is not supported");
        let error = unsupported_error("Unsupported SQL type NOPE");
        assert_eq!(error.to_string(), "the type NOPE is not supported");
        assert_eq!(without_dump("plain (text)"), "plain (text)");
    }

    #[test]
    fn a_column_outside_of_the_groups_is_named() {
        let error = plan_error(
            "Column in SELECT must be in GROUP BY or an aggregate function: While expanding \
             wildcard, column \"t.s\" must appear in the GROUP BY clause or must be part of",
        );
        assert_eq!(
            error.to_string(),
            "column \"t.s\" is neither in GROUP BY nor in an aggregate function"
        );
    }
}
