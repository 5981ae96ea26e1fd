//! Leaves out of a statement's text what may grant access: for lists of what runs, which everybody
//! reads.
//!
//! What follows a name that speaks of a secret (`'aws.secret_access_key' '...'`, `password = '...'`),
//! and within any text the user and the signature of a URL. It is better to leave out too much.

use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::parser::DIALECT;

/// What stands in the place of what is left out.
const MASK: &str = "***";

/// Parts of names whose values are nobody else's business.
const SECRET: [&str; 12] = [
    "secret",
    "password",
    "passwd",
    "passphrase",
    "token",
    "credential",
    "signature",
    "access_key",
    "account_key",
    "private_key",
    "api_key",
    "service_account",
];

/// Names by themselves: within others they mean something else.
const SECRET_WORDS: [&str; 4] = ["sas", "sig", "key", "pwd"];

/// Returns the text of a statement without its secrets; everything else stays as it is.
///
/// A text that cannot be read as SQL is left out whole.
pub fn mask_secrets(statement: &str) -> String {
    let Ok(tokens) = Tokenizer::new(&DIALECT, statement).tokenize_with_location() else {
        return MASK.to_owned();
    };
    let mut masked = String::with_capacity(statement.len());
    // Whether the next value belongs to a name that speaks of a secret.
    let mut is_secret = false;
    for (token, text) in with_texts(statement, &tokens) {
        match token {
            Token::Whitespace(_) => masked += &in_urls(text),
            // What stands between a name and its value, or within a name.
            Token::Period | Token::Eq | Token::RArrow | Token::Colon | Token::Assignment => {
                masked += text;
            }
            Token::Word(word) => {
                // `SET password TO 'x'`, `IDENTIFIED BY 'x'`.
                let is_between = ["to", "by"].contains(&word.value.to_lowercase().as_str());
                is_secret = is_between && is_secret || is_secret_name(&word.value);
                masked += text;
            }
            other => match value_of(other) {
                Some(_) if is_secret => {
                    masked += &format!("'{MASK}'");
                    is_secret = false;
                }
                Some(value) => {
                    is_secret = is_secret_name(value);
                    masked += &in_urls(text);
                }
                None => {
                    is_secret = false;
                    masked += text;
                }
            },
        }
    }
    masked
}

/// Returns each token with its text, as it is written.
fn with_texts<'a>(
    statement: &'a str,
    tokens: &'a [TokenWithSpan],
) -> impl Iterator<Item = (&'a Token, &'a str)> {
    let mut place = Location { line: 1, column: 1 };
    let mut chars = statement.char_indices();
    let mut start_of = move |wanted: Location| {
        loop {
            let rest = chars.clone();
            match chars.next() {
                Some((at, _)) if place >= wanted => {
                    chars = rest;
                    return at;
                }
                Some((_, '\n')) => place = Location { line: place.line + 1, column: 1 },
                Some(_) => place.column += 1,
                None => return statement.len(),
            }
        }
    };
    let starts: Vec<usize> = tokens.iter().map(|token| start_of(token.span.start)).collect();
    let ends: Vec<usize> = starts.iter().copied().skip(1).chain([statement.len()]).collect();
    tokens.iter().zip(starts.into_iter().zip(ends)).map(move |(token, (start, end))| {
        (&token.token, statement.get(start..end).unwrap_or_default())
    })
}

fn value_of(token: &Token) -> Option<&str> {
    match token {
        Token::SingleQuotedString(text)
        | Token::DoubleQuotedString(text)
        | Token::NationalStringLiteral(text)
        | Token::EscapedStringLiteral(text)
        | Token::UnicodeStringLiteral(text)
        | Token::HexStringLiteral(text)
        | Token::SingleQuotedByteStringLiteral(text)
        | Token::SingleQuotedRawStringLiteral(text)
        | Token::TripleSingleQuotedString(text)
        | Token::TripleDoubleQuotedString(text)
        | Token::Number(text, _) => Some(text),
        Token::DollarQuotedString(quoted) => Some(&quoted.value),
        _ => None,
    }
}

/// Tells whether a name, or the last part of one with dots, speaks of a secret.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase().replace('-', "_");
    // Prose and paths are no names.
    let is_name = name.len() <= 64 && !name.contains(|c: char| c.is_whitespace() || c == '/');
    let last = name.rsplit(['.', '_']).next().unwrap_or_default();
    is_name && (SECRET.iter().any(|part| name.contains(part)) || SECRET_WORDS.contains(&last))
}

/// Returns a text without the users and signatures of the URLs in it.
fn in_urls(text: &str) -> String {
    let mut parts = text.split("://");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        masked += "://";
        let end = part
            .find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | ',' | ')'))
            .unwrap_or(part.len());
        let (url, rest) = part.split_at(end);
        let host_end = url.find(['/', '?']).unwrap_or(url.len());
        let (authority, path) = url.split_at(host_end);
        match authority.rsplit_once('@') {
            Some((_user, host)) => masked += &format!("{MASK}@{host}"),
            None => masked += authority,
        }
        match path.split_once('?') {
            Some((path, query)) if query.split('&').any(is_secret_parameter) => {
                masked += &format!("{path}?{MASK}");
            }
            _ => masked += path,
        }
        masked += rest;
    }
    masked
}

fn is_secret_parameter(parameter: &str) -> bool {
    is_secret_name(parameter.split('=').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secrets_are_left_out() {
        for (text, masked) in [
            (
                "CREATE EXTERNAL TABLE t STORED AS parquet LOCATION 's3://b/t' OPTIONS \
                 ('aws.secret_access_key' 'hush', 'aws.region' 'eu')",
                "CREATE EXTERNAL TABLE t STORED AS parquet LOCATION 's3://b/t' OPTIONS \
                 ('aws.secret_access_key' '***', 'aws.region' 'eu')",
            ),
            (
                "COPY t TO 's3://b/x' OPTIONS (password 'hush')",
                "COPY t TO 's3://b/x' OPTIONS (password '***')",
            ),
            ("SET s3.session_token = 'hush'", "SET s3.session_token = '***'"),
            ("SET az.account_key TO 'hush'", "SET az.account_key TO '***'"),
            ("SELECT 1 WHERE api_key=E'hush\\'x' -- why", "SELECT 1 WHERE api_key='***' -- why"),
            ("SELECT f(secret => 17, n => 18)", "SELECT f(secret => '***', n => 18)"),
            ("SELECT $$ 'a' $$, 'token', 'x'", "SELECT $$ 'a' $$, 'token', 'x'"),
        ] {
            assert_eq!(mask_secrets(text), masked);
        }
    }

    #[test]
    fn users_and_signatures_of_urls_are_left_out() {
        for (text, masked) in [
            ("SELECT * FROM 'https://u:hush@h/x.csv'", "SELECT * FROM 'https://***@h/x.csv'"),
            (
                "SELECT * FROM 'https://h/x.csv?a=1&X-Amz-Signature=hush' WHERE a = '?'",
                "SELECT * FROM 'https://h/x.csv?***' WHERE a = '?'",
            ),
            ("SELECT * FROM 'https://h/x.csv?page=1'", "SELECT * FROM 'https://h/x.csv?page=1'"),
            ("SELECT 1 /* see ftp://u:hush@h/ */", "SELECT 1 /* see ftp://***@h/ */"),
        ] {
            assert_eq!(mask_secrets(text), masked);
        }
    }

    #[test]
    fn other_statements_stay_as_they_are() {
        for text in [
            "SELECT 'it''s', \"Key\" , `b`.c::INT -- x\nFROM t /* y */ WHERE a @> [1, 2]",
            "SELECT e'a\\nb', x'00ff', $tag$ it's $tag$, 1.50e3, :p, $1, ?",
            "SELECT monkey, tokens FROM keys ORDER BY monkey",
        ] {
            assert_eq!(mask_secrets(text), text);
        }
        assert_eq!(mask_secrets("SELECT 'never closed"), "***");
    }
}
