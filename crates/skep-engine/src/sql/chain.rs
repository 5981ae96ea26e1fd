//! A bound on chains: operators, joins and set operations that depend on one another.
//!
//! The parser bounds nesting, but not `1 + 1 + 1 ...`, which it reads in a loop and returns as a
//! tree as deep as the chain is long.
//! All that follows walks trees by recursion, and a stack that is used up ends the process with
//! the sessions of everyone, so the depth is estimated here, from the tokens, before there is any
//! tree.
//!
//! The estimate follows the precedence of `OR` and `AND`, the lists and clauses, the parentheses
//! and `CASE`, and is never far below the depth of the tree.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::{Error, Position, Result};

/// Refuses a statement that is deeper than `bound`.
///
/// # Errors
/// [`Error::Syntax`] at the operator that is one too many.
pub(super) fn check(tokens: &[TokenWithSpan], bound: usize) -> Result<()> {
    let mut walk = Walk { levels: vec![Level::new(Opener::Statement)], previous: Previous::Start };
    for token in tokens {
        walk.take(&token.token);
        if walk.levels.last().is_some_and(|level| level.depth() > bound) {
            let place = token.span.start;
            return Err(too_long(bound, Position { line: place.line, column: place.column }));
        }
    }
    Ok(())
}

fn too_long(bound: usize, position: Position) -> Error {
    Error::Syntax {
        message: format!(
            "more than {bound} operators, joins or set operations depend on one another \
             (skep.max_chain_length)"
        ),
        position: Some(position),
        hint: Some("IN (...) takes any number of values, and VALUES any number of rows".to_owned()),
    }
}

/// What came before a token, which tells operators and clauses from names that look like them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Previous {
    Start,
    Operator,
    Operand,
    Period,
}

struct Walk {
    /// The open parentheses, outermost first; never empty.
    levels: Vec<Level>,
    previous: Previous,
}

impl Walk {
    fn take(&mut self, token: &Token) {
        let level = self.levels.last_mut();
        let Some(level) = level else { return };
        self.previous = match token {
            Token::Whitespace(_) | Token::EOF => return,
            Token::Word(word)
                if word.quote_style.is_none() && self.previous != Previous::Period =>
            {
                self.word(word.keyword)
            }
            Token::LParen | Token::LBrace => self.open(Opener::Bracket),
            Token::LBracket => {
                level.expression.operator();
                self.open(Opener::Bracket)
            }
            Token::RParen | Token::RBrace | Token::RBracket => self.close(Opener::Bracket),
            Token::Comma => {
                level.comma();
                Previous::Start
            }
            Token::Period => Previous::Period,
            // A wildcard.
            Token::Mul if self.previous != Previous::Operand => Previous::Operand,
            other if is_operand(other) => Previous::Operand,
            _ => {
                level.expression.operator();
                Previous::Operator
            }
        };
    }

    fn word(&mut self, keyword: Keyword) -> Previous {
        let after_operator = self.previous == Previous::Operator;
        let Some(level) = self.levels.last_mut() else { return Previous::Operand };
        match keyword {
            Keyword::CASE => self.open(Opener::Case),
            Keyword::END if level.opener == Opener::Case => self.close(Opener::Case),
            Keyword::WHEN | Keyword::THEN | Keyword::ELSE if level.opener == Opener::Case => {
                level.end_expression();
                Previous::Start
            }
            // They belong to what stands before them: IS NOT DISTINCT FROM, SELECT ALL.
            Keyword::NOT | Keyword::DISTINCT | Keyword::ALL => self.previous,
            // An operand by a name that elsewhere begins a clause.
            _ if after_operator => Previous::Operand,
            Keyword::AND => {
                level.expression.and();
                Previous::Operator
            }
            Keyword::OR => {
                level.expression.or();
                Previous::Operator
            }
            _ if is_operator(keyword) => {
                level.expression.operator();
                Previous::Operator
            }
            _ => match level.clause(keyword) {
                true => Previous::Start,
                false => Previous::Operand,
            },
        }
    }

    fn open(&mut self, opener: Opener) -> Previous {
        self.levels.push(Level::new(opener));
        Previous::Start
    }

    /// Closes the innermost level of a kind, and what was left open in it.
    fn close(&mut self, opener: Opener) -> Previous {
        let Some(place) = self.levels.iter().rposition(|level| level.opener == opener) else {
            return Previous::Operand;
        };
        while self.levels.len() > place {
            let depth = self.levels.pop().map_or(0, |level| level.depth());
            if let Some(outer) = self.levels.last_mut() {
                outer.expression.nested(depth);
            }
        }
        Previous::Operand
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opener {
    Statement,
    Bracket,
    Case,
}

/// What commas separate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Expressions,
    /// Each comma is a join.
    Relations,
    /// Each query may stand upon all before it.
    WithQueries,
}

/// What stands between two parentheses: a list of expressions or a query.
struct Level {
    opener: Opener,
    list: List,
    expression: Expression,
    /// The deepest of the expressions before, in this SELECT.
    deepest: usize,
    joins: usize,
    /// The deepest of the SELECTs before.
    deepest_select: usize,
    set_operations: usize,
}

impl Level {
    fn new(opener: Opener) -> Self {
        Self {
            opener,
            list: List::Expressions,
            expression: Expression::default(),
            deepest: 0,
            joins: 0,
            deepest_select: 0,
            set_operations: 0,
        }
    }

    fn depth(&self) -> usize {
        let select = self.joins + self.deepest.max(self.expression.depth());
        self.set_operations + self.deepest_select.max(select)
    }

    fn end_expression(&mut self) {
        self.deepest = self.deepest.max(std::mem::take(&mut self.expression).depth());
    }

    fn end_with_query(&mut self) {
        self.set_operations += 1 + std::mem::take(&mut self.expression).depth();
    }

    fn end_select(&mut self) {
        self.end_expression();
        let select = std::mem::take(&mut self.joins) + std::mem::take(&mut self.deepest);
        self.deepest_select = self.deepest_select.max(select);
        self.list = List::Expressions;
    }

    fn comma(&mut self) {
        match self.list {
            List::Expressions => self.end_expression(),
            List::Relations => {
                self.end_expression();
                self.joins += 1;
            }
            List::WithQueries => self.end_with_query(),
        }
    }

    /// Tells whether a word begins a clause, and notes which.
    fn clause(&mut self, keyword: Keyword) -> bool {
        let list = match keyword {
            Keyword::WITH => List::WithQueries,
            Keyword::FROM => List::Relations,
            Keyword::JOIN => {
                self.end_expression();
                self.joins += 1;
                return true;
            }
            Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS => {
                self.end_select();
                self.set_operations += 1;
                return true;
            }
            Keyword::ON | Keyword::USING | Keyword::VALUES => self.list,
            Keyword::SELECT
            | Keyword::WHERE
            | Keyword::GROUP
            | Keyword::HAVING
            | Keyword::QUALIFY
            | Keyword::WINDOW
            | Keyword::ORDER
            | Keyword::LIMIT
            | Keyword::OFFSET => List::Expressions,
            _ => return false,
        };
        match self.list {
            List::WithQueries if keyword == Keyword::SELECT => self.end_with_query(),
            _ => self.end_expression(),
        }
        self.list = list;
        true
    }
}

/// One expression as far as it is read: alternatives of conjunctions of terms.
#[derive(Default)]
struct Expression {
    operators: usize,
    /// The deepest parenthesis of the term.
    deepest_nested: usize,
    ands: usize,
    deepest_term: usize,
    ors: usize,
    deepest_conjunction: usize,
}

impl Expression {
    fn operator(&mut self) {
        self.operators += 1;
    }

    fn nested(&mut self, depth: usize) {
        self.deepest_nested = self.deepest_nested.max(depth);
    }

    fn and(&mut self) {
        self.deepest_term = self.term();
        self.operators = 0;
        self.deepest_nested = 0;
        self.ands += 1;
    }

    fn or(&mut self) {
        let deepest_conjunction = self.conjunction();
        *self = Self { ors: self.ors + 1, deepest_conjunction, ..Self::default() };
    }

    fn term(&self) -> usize {
        self.deepest_term.max(self.operators + self.deepest_nested)
    }

    fn conjunction(&self) -> usize {
        self.deepest_conjunction.max(self.ands + self.term())
    }

    fn depth(&self) -> usize {
        self.ors + self.conjunction()
    }
}

/// The binary operators that are words, but for `AND` and `OR`.
fn is_operator(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::XOR
            | Keyword::IS
            | Keyword::NOTNULL
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::RLIKE
            | Keyword::REGEXP
            | Keyword::SIMILAR
            | Keyword::BETWEEN
            | Keyword::IN
            | Keyword::DIV
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::OVERLAPS
            | Keyword::MEMBER
    )
}

fn is_operand(token: &Token) -> bool {
    matches!(
        token,
        Token::Word(_)
            | Token::Number(..)
            | Token::Char(_)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::TripleSingleQuotedString(_)
            | Token::TripleDoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DoubleQuotedByteStringLiteral(_)
            | Token::TripleSingleQuotedByteStringLiteral(_)
            | Token::TripleDoubleQuotedByteStringLiteral(_)
            | Token::SingleQuotedRawStringLiteral(_)
            | Token::DoubleQuotedRawStringLiteral(_)
            | Token::TripleSingleQuotedRawStringLiteral(_)
            | Token::TripleDoubleQuotedRawStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::QuoteDelimitedStringLiteral(_)
            | Token::NationalQuoteDelimitedStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::Placeholder(_)
            | Token::SemiColon
    )
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::check;

    /// The least bound under which a statement passes.
    fn depth(text: &str) -> usize {
        let tokens = Tokenizer::new(&GenericDialect {}, text);
        let tokens = { tokens }.tokenize_with_location().expect("tokens");
        (0..).find(|bound| check(&tokens, *bound).is_ok()).expect("a bound")
    }

    #[test]
    fn operators_that_depend_on_one_another_add_up() {
        assert_eq!(depth("SELECT 1"), 0);
        assert_eq!(depth("SELECT 1 + 1 - a * 2 || 'x'"), 4);
        assert_eq!(depth("SELECT a::int::text[1][2]"), 4);
        assert_eq!(depth("SELECT (1 + 1 + 1) + 1"), 3);
        assert_eq!(depth("SELECT 1 + (1 + 1) + (1 + 1 + 1)"), 4);
        assert_eq!(depth("SELECT CASE WHEN a + 1 > 2 THEN 1 ELSE 1 + 1 END + 1 + 1"), 4);
        assert_eq!(depth("SELECT a IS NOT DISTINCT FROM b IS NOT DISTINCT FROM c"), 2);
        assert_eq!(depth("SELECT 1 + values + on + limit"), 3);
    }

    #[test]
    fn what_stands_side_by_side_does_not() {
        assert_eq!(depth("SELECT *, t.*, a + 1, b + 1, count(*) FROM t WHERE a + 1 > 0"), 2);
        assert_eq!(depth("SELECT 1 WHERE a IN (1, 2, 3, 4, 5, 6)"), 1);
        assert_eq!(depth("SELECT 1 WHERE a = 1 AND b = 2 OR a = 3 AND b = 4 OR a = 5"), 4);
        assert_eq!(depth("VALUES (1 + 1, 2), (1 + 1, 2), (1 + 1, 2)"), 1);
        assert_eq!(
            depth("SELECT CASE WHEN a = 1 THEN 1 WHEN a = 2 THEN 2 WHEN a = 3 THEN 3 END"),
            1
        );
    }

    #[test]
    fn queries_are_chains_too() {
        assert_eq!(depth("SELECT 1 UNION ALL SELECT 2 EXCEPT SELECT 3"), 2);
        assert_eq!(depth("SELECT * FROM a JOIN b ON a.k = b.k JOIN c ON a.k = c.k AND a.k > 0"), 4);
        assert_eq!(depth("SELECT * FROM a, b, c, d ORDER BY a, b, c"), 3);
        assert_eq!(
            depth("SELECT * FROM (SELECT * FROM (SELECT 1 UNION SELECT 2) UNION SELECT 3)"),
            2
        );
        assert_eq!(
            depth("WITH a AS (SELECT 1 + 1), b AS (SELECT 1), c AS (SELECT 1) SELECT a, b"),
            4
        );
    }
}
