//! The grammar: sqlparser's generic one, with the operators in their usual order.
//!
//! sqlparser reads everything after `IS DISTINCT FROM`, `AND` and `OR` too, as the right side of it,
//! takes `||` for as strong as `*`, and `&` for stronger than `<<`. So `p IS DISTINCT FROM q AND r`,
//! `'1' || 2 * 3` and `1 << 2 & 4` had other answers than anywhere else. What PostgreSQL and DuckDB
//! take these for holds here.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// The dialect of every statement.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct SkepDialect;

/// Below `+` and `-`, above comparisons.
const CONCATENATION: u8 = 29;

/// Below `||`, above `&`.
const SHIFT: u8 = 26;

/// Answers as the generic dialect does, for what that answers otherwise than the trait by itself.
///
/// An upgrade of sqlparser must compare this list with its `GenericDialect`.
macro_rules! as_generic {
    ($($method:ident,)*) => {
        $(fn $method(&self) -> bool {
            GenericDialect.$method()
        })*
    };
}

impl Dialect for SkepDialect {
    /// The parser asks for this where it has no method to ask.
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn is_delimited_identifier_start(&self, first: char) -> bool {
        GenericDialect.is_delimited_identifier_start(first)
    }

    fn is_identifier_start(&self, first: char) -> bool {
        GenericDialect.is_identifier_start(first)
    }

    fn is_identifier_part(&self, character: char) -> bool {
        GenericDialect.is_identifier_part(character)
    }

    fn supports_order_by_all(&self) -> bool {
        true
    }

    fn supports_lambda_functions(&self) -> bool {
        true
    }

    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        match parser.peek_token_ref().token {
            Token::StringConcat => Some(Ok(CONCATENATION)),
            Token::ShiftLeft | Token::ShiftRight => Some(Ok(SHIFT)),
            _ => None,
        }
    }

    /// `(VALUES ...)` as an expression, which the parser takes for a call of `values`.
    fn parse_prefix(&self, parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        let tokens = [0, 1, 2].map(|index| &parser.peek_nth_token_ref(index).token);
        match tokens {
            [Token::LParen, Token::Word(word), Token::LParen]
                if word.keyword == Keyword::VALUES =>
            {
                Some(parse_values(parser))
            }
            _ => None,
        }
    }

    /// `IS [NOT] DISTINCT FROM`, whose right side ends where that of `IS` must.
    fn parse_infix(
        &self,
        parser: &mut Parser<'_>,
        expr: &Expr,
        precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        let make = if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
            Expr::IsDistinctFrom
        } else if parser.parse_keywords(&[
            Keyword::IS,
            Keyword::NOT,
            Keyword::DISTINCT,
            Keyword::FROM,
        ]) {
            Expr::IsNotDistinctFrom
        } else {
            return None;
        };
        let right = parser.parse_subexpr(precedence);
        Some(right.map(|right| make(Box::new(expr.clone()), Box::new(right))))
    }

    as_generic! {
        supports_unicode_string_literal,
        supports_partition_by_after_order_by,
        supports_array_join_syntax,
        supports_group_by_expr,
        supports_group_by_with_modifier,
        supports_left_associative_joins_without_parens,
        supports_connect_by,
        supports_match_recognize,
        supports_pipe_operator,
        supports_start_transaction_modifier,
        supports_window_function_null_treatment_arg,
        supports_dictionary_syntax,
        supports_window_clause_named_window_reference,
        supports_parenthesized_set_variables,
        supports_select_wildcard_except,
        support_map_literal_syntax,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_extract_comma_syntax,
        supports_create_view_comment_syntax,
        supports_parens_around_table_factor,
        supports_values_as_table_factor,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_limit_comma,
        supports_update_order_by,
        supports_from_first_select,
        supports_projection_trailing_commas,
        supports_asc_desc_in_column_definition,
        supports_try_convert,
        supports_bitwise_shift_operators,
        supports_comment_on,
        supports_load_extension,
        supports_named_fn_args_with_assignment_operator,
        supports_struct_literal,
        supports_empty_projections,
        supports_nested_comments,
        supports_multiline_comment_hints,
        supports_user_host_grantee,
        supports_string_escape_constant,
        supports_array_typedef_with_brackets,
        supports_match_against,
        supports_set_names,
        supports_comma_separated_set_assignments,
        supports_filter_during_aggregation,
        supports_select_wildcard_exclude,
        supports_data_type_signed_suffix,
        supports_interval_options,
        supports_quote_delimited_string,
        supports_select_wildcard_replace,
        supports_select_wildcard_ilike,
        supports_select_wildcard_rename,
        supports_optimize_table,
        supports_install,
        supports_detach,
        supports_prewhere,
        supports_with_fill,
        supports_limit_by,
        supports_interpolate,
        supports_settings,
        supports_select_format,
        supports_comment_optimizer_hint,
        supports_constraint_keyword_without_name,
        supports_key_column_option,
        supports_comma_separated_trim,
        supports_cte_without_as,
        supports_select_item_multi_column_alias,
        supports_xml_expressions,
    }
}

fn parse_values(parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    parser.expect_token(&Token::LParen)?;
    let query = parser.parse_query()?;
    parser.expect_token(&Token::RParen)?;
    Ok(Expr::Subquery(query))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use datafusion::sql::sqlparser::ast::{VisitMut, VisitorMut};

    use super::*;

    fn parse(text: &str) -> Expr {
        let mut parser = Parser::new(&SkepDialect).try_with_sql(text).expect(text);
        let expr = parser.parse_expr().expect(text);
        assert_eq!(parser.peek_token().token, Token::EOF, "{text}");
        expr
    }

    /// Drops parentheses, so that what was meant and what was written out are one.
    fn plain(mut expr: Expr) -> Expr {
        struct Plain;
        impl VisitorMut for Plain {
            type Break = ();
            fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
                while let Expr::Nested(inner) = expr {
                    *expr = inner.as_ref().clone();
                }
                ControlFlow::Continue(())
            }
        }
        assert!(expr.visit(&mut Plain).is_continue());
        expr
    }

    #[test]
    fn operators_bind_as_in_postgresql() {
        for (written, meant) in [
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
            ("a IS NOT DISTINCT FROM b OR c", "(a IS NOT DISTINCT FROM b) OR c"),
            ("x AND a IS DISTINCT FROM b OR c", "(x AND (a IS DISTINCT FROM b)) OR c"),
            ("NOT a IS DISTINCT FROM b AND c", "(NOT (a IS DISTINCT FROM b)) AND c"),
            ("a IS DISTINCT FROM b + 1 = c", "a IS DISTINCT FROM ((b + 1) = c)"),
            ("a IS DISTINCT FROM (b AND c)", "a IS DISTINCT FROM (b AND c)"),
            ("a || b * 2", "a || (b * 2)"),
            ("1 + 2 || b", "(1 + 2) || b"),
            ("a || b || c", "(a || b) || c"),
            ("a || b = c || d", "(a || b) = (c || d)"),
            ("a LIKE b || '%'", "a LIKE (b || '%')"),
            ("1 << 2 & 4", "(1 << 2) & 4"),
            ("4 & 1 << 2", "4 & (1 << 2)"),
            ("1 << 2 + 1", "1 << (2 + 1)"),
            ("NOT a BETWEEN b AND c AND d", "(NOT (a BETWEEN b AND c)) AND d"),
            ("NOT a IS NULL", "NOT (a IS NULL)"),
            ("a = b IS NULL", "(a = b) IS NULL"),
            ("-a::INT", "-(a::INT)"),
            ("-a * b", "(-a) * b"),
            ("t + i AT TIME ZONE 'x'", "t + (i AT TIME ZONE 'x')"),
            ("a OR b AND c", "a OR (b AND c)"),
        ] {
            assert_eq!(plain(parse(written)), plain(parse(meant)), "{written}");
        }
    }
}
