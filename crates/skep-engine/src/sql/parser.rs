//! One statement's text as a [`Statement`]: ours by hand, the rest by DataFusion's parser.
//!
//! Spark's and DataFusion's dialects overlap in their first words, so this parser reads these and
//! decides; what it does not take goes to DataFusion's parser from the beginning.

use datafusion::common::config::ConfigOptions;
use datafusion::common::format::{ExplainFormat, ExplainStatementOptions};
use datafusion::sql::parser::{DFParserBuilder, ExplainStatement, Statement as PlanStatement};
use datafusion::sql::sqlparser::ast::{ObjectName, Value};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

use crate::cache::ClusterBy;
use crate::datafusion_error::convert_parser;
use crate::error::{Error, Position, Result};
use crate::settings::{DEFAULT_MAX_CHAIN_LENGTH, SkepSettings};
use crate::sql::chain;
use crate::sql::dialect::SkepDialect;
use crate::sql::statement::{CacheTable, CreateTable, CreateView, Drop, DropKind, Show, Statement};

pub(super) static DIALECT: SkepDialect = SkepDialect;

/// Parses the text of one statement; a `;` at its end is allowed.
///
/// # Errors
/// [`Error::Syntax`] with its place; [`Error::Unsupported`] for statements of known systems that
/// skep does not have.
pub(crate) fn parse(text: &str, limits: ParserLimits) -> Result<Statement> {
    let tokens = Tokenizer::new(&DIALECT, text)
        .tokenize_with_location()
        .map_err(|error| convert_parser(&ParserError::from(error)))?;
    chain::check(&tokens, limits.chain)?;
    let recursion_limit = limits.recursion;
    let parser = Parser::new(&DIALECT)
        .with_recursion_limit(recursion_limit)
        .with_tokens_with_locations(tokens);
    StatementParser { parser, text, recursion_limit }.parse()
}

/// How deep a statement may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ParserLimits {
    recursion: usize,
    chain: usize,
}

impl ParserLimits {
    /// The limits of a session's settings.
    pub(crate) fn of(options: &ConfigOptions) -> Self {
        let settings = options.extensions.get::<SkepSettings>();
        Self {
            recursion: options.sql_parser.recursion_limit.get(),
            chain: settings.map_or(DEFAULT_MAX_CHAIN_LENGTH, |settings| settings.max_chain_length),
        }
    }
}

struct StatementParser<'a> {
    parser: Parser<'a>,
    text: &'a str,
    recursion_limit: usize,
}

impl StatementParser<'_> {
    fn parse(mut self) -> Result<Statement> {
        let first = match &self.parser.peek_token().token {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_uppercase(),
            Token::EOF => {
                return Err(Error::Syntax {
                    message: "there is no statement".to_owned(),
                    position: None,
                    hint: None,
                });
            }
            _ => String::new(),
        };
        let statement = match first.as_str() {
            "CREATE" => self.parse_create()?,
            "DROP" => Some(self.parse_drop()?),
            "SHOW" => Some(self.parse_show()?),
            "DESCRIBE" | "DESC" => Some(self.parse_describe()?),
            "SET" => Some(self.parse_set()?),
            "RESET" => Some(self.parse_reset()?),
            "USE" => Some(self.parse_use()?),
            "EXPLAIN" => self.parse_explain()?,
            "CACHE" => Some(self.parse_cache()?),
            "UNCACHE" => Some(self.parse_uncache()?),
            "CLEAR" => Some(self.parse_clear()?),
            "REFRESH" => Some(self.parse_refresh()?),
            "ALTER" | "TRUNCATE" | "DELETE" | "UPDATE" | "MERGE" | "GRANT" | "REVOKE"
            | "ANALYZE" | "VACUUM" | "MSCK" | "LOAD" | "BEGIN" | "START" | "COMMIT"
            | "ROLLBACK" | "CALL" | "LOCK" | "ATTACH" | "DETACH" | "INSTALL" | "PRAGMA"
            | "KILL" | "COMMENT" | "DECLARE" | "FETCH" | "CLOSE" | "SAVEPOINT" | "RELEASE"
            | "UNLOAD" | "OPTIMIZE" | "LISTEN" | "NOTIFY" => {
                return Err(Error::unsupported(format!("the statement {first}"), ""));
            }
            _ => None,
        };
        match statement {
            Some(statement) => {
                self.expect_end()?;
                Ok(statement)
            }
            None => self.parse_plan(),
        }
    }

    /// Hands the whole text to DataFusion's parser.
    fn parse_plan(self) -> Result<Statement> {
        Ok(match plan_statement(self.text, self.recursion_limit)? {
            PlanStatement::CopyTo(copy) => Statement::Copy(Box::new(copy)),
            PlanStatement::CreateExternalTable(create) => {
                Statement::CreateExternalTable(Box::new(create))
            }
            other => Statement::Plan(Box::new(other)),
        })
    }

    fn parse_create(&mut self) -> Result<Option<Statement>> {
        self.keyword(Keyword::CREATE);
        let or_replace = self.keywords(&[Keyword::OR, Keyword::REPLACE]);
        if matches!(&self.parser.peek_token().token, Token::Word(word)
            if matches!(word.keyword, Keyword::EXTERNAL) || word.value.eq_ignore_ascii_case("UNBOUNDED"))
        {
            return Ok(None);
        }
        if self.word("GLOBAL") {
            return Err(Error::unsupported(
                "a GLOBAL TEMPORARY view",
                "CREATE VIEW makes one that all sessions see",
            ));
        }
        let temporary = self.parser.parse_one_of_keywords(&[Keyword::TEMP, Keyword::TEMPORARY]);
        let temporary = temporary.is_some();
        if self.keyword(Keyword::TABLE) {
            let create = CreateTable { or_replace, temporary, ..CreateTable::default() };
            return self.parse_create_table(create).map(Some);
        }
        if self.keyword(Keyword::VIEW) {
            return self.parse_create_view(or_replace, temporary).map(Some);
        }
        if self.keyword(Keyword::SCHEMA) || self.keyword(Keyword::DATABASE) {
            let if_not_exists = self.if_not_exists();
            let name = self.object_name()?;
            return Ok(Some(Statement::CreateSchema { name, if_not_exists }));
        }
        let found = self.parser.peek_token();
        match &found.token {
            Token::Word(word) => {
                let what = format!("the statement CREATE {}", word.value.to_uppercase());
                Err(Error::unsupported(what, "skep has CREATE TABLE, EXTERNAL TABLE, VIEW, SCHEMA"))
            }
            _ => Err(self.expected("TABLE, EXTERNAL TABLE, VIEW or SCHEMA")),
        }
    }

    fn parse_create_table(&mut self, mut create: CreateTable) -> Result<Statement> {
        create.if_not_exists = self.if_not_exists();
        create.name = Some(self.object_name()?);
        if self.parser.peek_token().token == Token::LParen {
            let (columns, constraints) = self.run(|parser| parser.parse_columns())?;
            if let Some(constraint) = constraints.first() {
                return Err(Error::unsupported(format!("the table constraint {constraint}"), ""));
            }
            create.columns = columns;
        }
        if self.keyword(Keyword::LIKE) {
            return Err(Error::unsupported(
                "CREATE TABLE LIKE",
                "CREATE TABLE AS SELECT ... LIMIT 0",
            ));
        }
        self.parse_table_clauses(&mut create)?;
        let has_as = self.keyword(Keyword::AS);
        if has_as || self.starts_query() {
            create.query = Some(self.run(|parser| parser.parse_query())?);
        }
        Ok(Statement::CreateTable(Box::new(create)))
    }

    fn parse_table_clauses(&mut self, create: &mut CreateTable) -> Result<()> {
        loop {
            if self.keyword(Keyword::USING) {
                create.format = Some(self.run(|parser| parser.parse_identifier())?.value);
            } else if self.keyword(Keyword::OPTIONS) {
                create.options.extend(self.parse_options()?);
            } else if self.keyword(Keyword::LOCATION) {
                create.location = Some(self.string()?);
            } else if self.keyword(Keyword::COMMENT) {
                create.comment = Some(self.string()?);
            } else if self.keywords(&[Keyword::PARTITIONED, Keyword::BY]) {
                create.partition_by = self.parse_partition_columns()?;
            } else if self.word("TBLPROPERTIES") {
                self.parse_options()?;
            } else if self.word("CLUSTERED") || self.keyword(Keyword::CLUSTER) {
                return Err(Error::unsupported(
                    "CLUSTERED BY on a table of files",
                    "PARTITIONED BY makes one directory per value",
                ));
            } else {
                return Ok(());
            }
        }
    }

    fn parse_partition_columns(&mut self) -> Result<Vec<String>> {
        self.run(parse_column_names)
    }

    fn parse_create_view(&mut self, or_replace: bool, temporary: bool) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.object_name()?;
        let mut columns = Vec::new();
        let mut comment = None;
        if self.parser.peek_token().token == Token::LParen {
            // `(a, b) AS` names columns; `(a INT) USING csv` declares them.
            let names = self.run(|parser| parser.maybe_parse(parse_column_names))?;
            columns = names.unwrap_or_default();
        }
        if self.keyword(Keyword::COMMENT) {
            comment = Some(self.string()?);
        }
        if self.word("TBLPROPERTIES") {
            self.parse_options()?;
        }
        if self.keyword(Keyword::AS) {
            let from = self.parser.peek_token().span.start;
            let query = self.run(|parser| parser.parse_query())?;
            let text = text_from(self.text, from).trim_end_matches([';', ' ', '\n', '\t', '\r']);
            return Ok(Statement::CreateView(Box::new(CreateView {
                name,
                or_replace,
                if_not_exists,
                temporary,
                columns,
                comment,
                query,
                text: text.to_owned(),
            })));
        }
        if !columns.is_empty() {
            return Err(self.expected("AS and a query, or columns with their types"));
        }
        let mut create = CreateTable {
            name: Some(name),
            or_replace,
            if_not_exists,
            temporary,
            as_view: true,
            comment,
            ..CreateTable::default()
        };
        if self.parser.peek_token().token == Token::LParen {
            create.columns = self.run(|parser| parser.parse_columns())?.0;
        }
        self.parse_table_clauses(&mut create)?;
        if create.format.is_none() {
            return Err(self.expected("AS and a query, or USING and a format"));
        }
        if !temporary {
            return Err(Error::unsupported(
                "CREATE VIEW ... USING",
                "write CREATE TEMPORARY VIEW ... USING, or CREATE TABLE ... USING to keep it",
            ));
        }
        Ok(Statement::CreateTable(Box::new(create)))
    }

    /// `(key 'value', a.b = 'value', ...)`; keys may be words, dotted words or strings.
    fn parse_options(&mut self) -> Result<Vec<(String, String)>> {
        self.run(|parser| {
            parser.expect_token(&Token::LParen)?;
            let mut options = Vec::new();
            if parser.consume_token(&Token::RParen) {
                return Ok(options);
            }
            loop {
                let key = parse_option_key(parser)?;
                let _ = parser.consume_token(&Token::Eq);
                options.push((key, parse_option_value(parser)?));
                if !parser.consume_token(&Token::Comma) {
                    parser.expect_token(&Token::RParen)?;
                    return Ok(options);
                }
            }
        })
    }

    fn parse_drop(&mut self) -> Result<Statement> {
        self.keyword(Keyword::DROP);
        let _ = self.parser.parse_one_of_keywords(&[Keyword::TEMP, Keyword::TEMPORARY]);
        let kind = if self.keyword(Keyword::TABLE) {
            DropKind::Table
        } else if self.keyword(Keyword::VIEW) {
            DropKind::View
        } else if self.keyword(Keyword::SCHEMA) || self.keyword(Keyword::DATABASE) {
            DropKind::Schema
        } else {
            return Err(self.expected("TABLE, VIEW or SCHEMA"));
        };
        let if_exists = self.keywords(&[Keyword::IF, Keyword::EXISTS]);
        let names = self
            .run(|parser| parser.parse_comma_separated(|parser| parser.parse_object_name(false)))?;
        let cascade = self.keyword(Keyword::CASCADE);
        if !cascade {
            let _ = self.keyword(Keyword::RESTRICT);
        }
        let _ = self.word("PURGE");
        Ok(Statement::Drop(Drop { kind, names, if_exists, cascade }))
    }

    fn parse_show(&mut self) -> Result<Statement> {
        self.word("SHOW");
        let show = if self.word("TABLES") {
            Show::Tables { schema: self.in_schema()?, pattern: self.pattern()? }
        } else if self.word("VIEWS") {
            Show::Views { schema: self.in_schema()?, pattern: self.pattern()? }
        } else if self.word("COLUMNS") || self.word("FIELDS") {
            if !(self.keyword(Keyword::FROM) || self.keyword(Keyword::IN)) {
                return Err(self.expected("FROM and a table"));
            }
            Show::Columns { table: self.object_name()? }
        } else if self.keyword(Keyword::CREATE) {
            if !(self.keyword(Keyword::TABLE) || self.keyword(Keyword::VIEW)) {
                return Err(self.expected("TABLE or VIEW"));
            }
            Show::CreateTable { table: self.object_name()? }
        } else if self.word("FUNCTIONS") {
            Show::Functions { pattern: self.pattern()? }
        } else if self.word("SETTINGS") || self.word("ALL") {
            Show::Settings { pattern: self.pattern()? }
        } else if self.word("SCHEMAS") || self.word("DATABASES") {
            Show::Schemas { pattern: self.pattern()? }
        } else if self.word("CATALOGS") {
            Show::Catalogs { pattern: self.pattern()? }
        } else if self.parser.peek_token().token == Token::EOF {
            return Err(
                self.expected("TABLES, COLUMNS, CREATE TABLE, FUNCTIONS, SETTINGS, SCHEMAS")
            );
        } else {
            Show::Setting { name: self.setting_name()? }
        };
        Ok(Statement::Show(show))
    }

    fn in_schema(&mut self) -> Result<Option<ObjectName>> {
        if self.keyword(Keyword::IN) || self.keyword(Keyword::FROM) {
            return self.object_name().map(Some);
        }
        Ok(None)
    }

    fn pattern(&mut self) -> Result<Option<String>> {
        let said_like = self.keyword(Keyword::LIKE);
        match self.parser.peek_token().token {
            Token::SingleQuotedString(_) => self.string().map(Some),
            _ if said_like => Err(self.expected("a pattern in quotes")),
            _ => Ok(None),
        }
    }

    fn parse_describe(&mut self) -> Result<Statement> {
        self.parser.next_token();
        if self.starts_query() || self.word("QUERY") {
            return Ok(Statement::DescribeQuery(self.run(|parser| parser.parse_query())?));
        }
        let _ = self.keyword(Keyword::TABLE);
        let extended = self.word("EXTENDED") || self.word("FORMATTED");
        let name = self.object_name()?;
        Ok(Statement::DescribeTable { name, extended })
    }

    fn parse_set(&mut self) -> Result<Statement> {
        self.keyword(Keyword::SET);
        if self.at_end() {
            return Ok(Statement::Show(Show::Settings { pattern: None }));
        }
        let _ = self.parser.parse_one_of_keywords(&[Keyword::SESSION, Keyword::LOCAL]);
        if self.keywords(&[Keyword::TIME, Keyword::ZONE]) {
            let _ = self.parser.consume_token(&Token::Eq);
            let value = self.setting_value()?;
            return Ok(Statement::Set { name: TIME_ZONE.to_owned(), value });
        }
        let name = self.setting_name()?;
        if self.at_end() {
            return Ok(Statement::Show(Show::Setting { name }));
        }
        if !(self.parser.consume_token(&Token::Eq) || self.keyword(Keyword::TO)) {
            return Err(self.expected("= and a value"));
        }
        Ok(Statement::Set { name, value: self.setting_value()? })
    }

    fn parse_reset(&mut self) -> Result<Statement> {
        self.keyword(Keyword::RESET);
        if self.at_end() || self.keyword(Keyword::ALL) {
            return Ok(Statement::Reset(None));
        }
        Ok(Statement::Reset(Some(self.setting_name()?)))
    }

    fn parse_use(&mut self) -> Result<Statement> {
        self.keyword(Keyword::USE);
        let _ = self.keyword(Keyword::SCHEMA) || self.keyword(Keyword::DATABASE);
        Ok(Statement::Use(self.object_name()?))
    }

    fn parse_cache(&mut self) -> Result<Statement> {
        self.word("CACHE");
        let is_lazy = self.word("LAZY");
        if !self.keyword(Keyword::TABLE) {
            return Err(self.expected(if is_lazy { "TABLE" } else { "TABLE or LAZY TABLE" }));
        }
        let name = self.object_name()?;
        let mut options = Vec::new();
        if self.keyword(Keyword::OPTIONS) {
            options = self.parse_options()?;
        }
        let cluster_by = self.parse_cluster_by()?;
        let has_as = self.keyword(Keyword::AS);
        let mut query = None;
        let mut text = String::new();
        if has_as || self.starts_query() {
            let from = self.parser.peek_token().span.start;
            query = Some(self.run(|parser| parser.parse_query())?);
            let rest = text_from(self.text, from);
            text = rest.trim_end_matches([';', ' ', '\n', '\t', '\r']).to_owned();
        }
        let cache = CacheTable { name, is_lazy, options, cluster_by, query, text };
        Ok(Statement::Cache(Box::new(cache)))
    }

    /// `CLUSTER BY (a, b) [INTO n PARTITIONS]`.
    fn parse_cluster_by(&mut self) -> Result<Option<ClusterBy>> {
        if !self.keywords(&[Keyword::CLUSTER, Keyword::BY]) {
            return Ok(None);
        }
        let columns = self.run(parse_column_names)?;
        let mut partitions = None;
        if self.keyword(Keyword::INTO) {
            let count = self.run(|parser| parser.parse_literal_uint())?;
            partitions = Some(usize::try_from(count).unwrap_or(usize::MAX));
            if !self.word("PARTITIONS") {
                return Err(self.expected("PARTITIONS"));
            }
        }
        Ok(Some(ClusterBy { columns, partitions }))
    }

    fn parse_uncache(&mut self) -> Result<Statement> {
        self.word("UNCACHE");
        if !self.keyword(Keyword::TABLE) {
            return Err(self.expected("TABLE"));
        }
        let if_exists = self.keywords(&[Keyword::IF, Keyword::EXISTS]);
        Ok(Statement::Uncache { name: self.object_name()?, if_exists })
    }

    fn parse_clear(&mut self) -> Result<Statement> {
        self.word("CLEAR");
        match self.word("CACHE") {
            true => Ok(Statement::ClearCache),
            false => Err(self.expected("CACHE")),
        }
    }

    fn parse_refresh(&mut self) -> Result<Statement> {
        self.word("REFRESH");
        for word in ["FUNCTION", "MATERIALIZED"] {
            if self.word(word) {
                return Err(Error::unsupported(
                    format!("the statement REFRESH {word}"),
                    "skep has REFRESH TABLE",
                ));
            }
        }
        let _ = self.keyword(Keyword::TABLE);
        if let Token::SingleQuotedString(_) = self.parser.peek_token().token {
            return Err(Error::unsupported(
                "REFRESH of a path",
                "files are listed anew by each query; REFRESH TABLE t caches them anew",
            ));
        }
        Ok(Statement::Refresh(self.object_name()?))
    }

    /// Spark's words for `EXPLAIN` and ours; DataFusion's own go to its parser.
    fn parse_explain(&mut self) -> Result<Option<Statement>> {
        self.keyword(Keyword::EXPLAIN);
        for word in ["CODEGEN", "COST"] {
            if self.word(word) {
                return Err(Error::unsupported(
                    format!("EXPLAIN {word}"),
                    "EXPLAIN [ANALYZE | VERBOSE | DISTRIBUTED | FORMAT TREE] query",
                ));
            }
        }
        let mut options = ExplainStatementOptions::default();
        if self.word("EXTENDED") {
            options.verbose = true;
        } else if self.word("FORMATTED") {
            options.format = Some(ExplainFormat::Tree);
        } else if self.is_distributed() {
            return Ok(Some(Statement::ExplainDistributed(self.rest_of_explain()?)));
        } else {
            return Ok(None);
        }
        let statement = self.rest_of_explain()?;
        let explain = PlanStatement::Explain(ExplainStatement { options, statement });
        Ok(Some(Statement::Plan(Box::new(explain))))
    }

    /// Takes `DISTRIBUTED`, `FORMAT DISTRIBUTED` or `(FORMAT DISTRIBUTED)`, if one of them is there.
    fn is_distributed(&mut self) -> bool {
        let in_parentheses = self.parser.consume_token(&Token::LParen);
        let is_option = self.word("FORMAT");
        let found = (is_option || !in_parentheses) && self.word("DISTRIBUTED");
        found && (!in_parentheses || self.parser.consume_token(&Token::RParen))
    }

    /// Takes all the rest as the statement that is explained.
    fn rest_of_explain(&mut self) -> Result<Box<PlanStatement>> {
        if self.at_end() {
            return Err(self.expected("a statement"));
        }
        let rest = text_from(self.text, self.parser.peek_token().span.start);
        // Spaces in place of the words before it keep the places of errors.
        let blank = self.text[..self.text.len() - rest.len()]
            .chars()
            .map(|character| if character == '\n' { '\n' } else { ' ' })
            .chain(rest.chars())
            .collect::<String>();
        let statement = Box::new(plan_statement(&blank, self.recursion_limit)?);
        while self.parser.next_token().token != Token::EOF {}
        Ok(statement)
    }

    fn setting_name(&mut self) -> Result<String> {
        if self.keywords(&[Keyword::TIME, Keyword::ZONE]) {
            return Ok(TIME_ZONE.to_owned());
        }
        let mut name = String::new();
        loop {
            match self.parser.next_token().token {
                Token::Word(word) => name.push_str(&word.value.to_lowercase()),
                Token::EOF if name.is_empty() => return Err(self.expected("a setting")),
                other => {
                    return Err(Error::Syntax {
                        message: format!("expected a setting, found: {other}"),
                        position: None,
                        hint: Some("SHOW SETTINGS lists them".to_owned()),
                    });
                }
            }
            if !self.parser.consume_token(&Token::Period) {
                return Ok(if matches!(name.as_str(), "timezone" | "time_zone") {
                    TIME_ZONE.to_owned()
                } else {
                    name
                });
            }
            name.push('.');
        }
    }

    fn setting_value(&mut self) -> Result<String> {
        self.run(parse_option_value)
    }

    fn starts_query(&self) -> bool {
        let token = self.parser.peek_token().token;
        matches!(&token, Token::Word(word) if matches!(word.keyword,
            Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::FROM))
            || token == Token::LParen
    }

    fn keyword(&mut self, keyword: Keyword) -> bool {
        self.parser.parse_keyword(keyword)
    }

    fn keywords(&mut self, keywords: &[Keyword]) -> bool {
        self.parser.parse_keywords(keywords)
    }

    /// Takes a word that need not be a keyword of the parser.
    fn word(&mut self, text: &str) -> bool {
        let found = matches!(&self.parser.peek_token().token, Token::Word(word)
            if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text));
        if found {
            self.parser.next_token();
        }
        found
    }

    fn if_not_exists(&mut self) -> bool {
        self.keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS])
    }

    fn object_name(&mut self) -> Result<ObjectName> {
        self.run(|parser| parser.parse_object_name(false))
    }

    fn string(&mut self) -> Result<String> {
        self.run(|parser| parser.parse_literal_string())
    }

    fn run<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser<'_>) -> Result<T, ParserError>,
    ) -> Result<T> {
        parse(&mut self.parser).map_err(|error| convert_parser(&error))
    }

    fn at_end(&self) -> bool {
        matches!(self.parser.peek_token().token, Token::EOF | Token::SemiColon)
    }

    fn expect_end(&mut self) -> Result<()> {
        while self.parser.consume_token(&Token::SemiColon) {}
        if self.parser.peek_token().token == Token::EOF {
            return Ok(());
        }
        Err(self.expected("the end of the statement"))
    }

    fn expected(&self, what: &str) -> Error {
        let found = self.parser.peek_token();
        let place = found.span.start;
        let position =
            (place.line > 0).then_some(Position { line: place.line, column: place.column });
        Error::Syntax {
            message: format!("expected {what}, found: {}", found.token),
            position,
            hint: None,
        }
    }
}

/// The setting that `SET TIME ZONE` means.
pub(crate) const TIME_ZONE: &str = "datafusion.execution.time_zone";

/// Parses the text of one statement as DataFusion does.
fn plan_statement(text: &str, recursion_limit: usize) -> Result<PlanStatement> {
    let mut parsed = DFParserBuilder::new(text)
        .with_dialect(&DIALECT)
        .with_recursion_limit(recursion_limit)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(Error::from)?;
    if parsed.len() > 1 {
        return Err(Error::Syntax {
            message: "more than one statement".to_owned(),
            position: None,
            hint: Some("run them one by one".to_owned()),
        });
    }
    parsed.pop_front().ok_or_else(|| Error::Syntax {
        message: "there is no statement".to_owned(),
        position: None,
        hint: None,
    })
}

/// `(a, b, ...)`.
fn parse_column_names(parser: &mut Parser<'_>) -> Result<Vec<String>, ParserError> {
    parser.expect_token(&Token::LParen)?;
    let names = parser.parse_comma_separated(Parser::parse_identifier)?;
    parser.expect_token(&Token::RParen)?;
    Ok(names.into_iter().map(|name| normalize(name.quote_style, name.value)).collect())
}

fn parse_option_key(parser: &mut Parser<'_>) -> Result<String, ParserError> {
    let first = parser.next_token();
    let mut key = match first.token {
        Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => return Ok(text),
        Token::Word(word) => word.value,
        other => {
            return Err(ParserError::ParserError(format!(
                "Expected: an option, found: {other}{}",
                first.span.start
            )));
        }
    };
    while parser.consume_token(&Token::Period) {
        key.push('.');
        key.push_str(&parser.parse_identifier()?.value);
    }
    Ok(key)
}

fn parse_option_value(parser: &mut Parser<'_>) -> Result<String, ParserError> {
    let token = parser.next_token();
    Ok(match token.token {
        Token::SingleQuotedString(text)
        | Token::DoubleQuotedString(text)
        | Token::EscapedStringLiteral(text) => text,
        Token::Number(digits, _) => digits,
        Token::Word(word) => word.value,
        Token::Minus => format!("-{}", parser.parse_number_value()?.value),
        Token::Plus => match parser.parse_number_value()?.value {
            Value::Number(digits, _) => digits,
            other => other.to_string(),
        },
        other => {
            return Err(ParserError::ParserError(format!(
                "Expected: a value, found: {other}{}",
                token.span.start
            )));
        }
    })
}

/// Unquoted names are lower case, as DataFusion's planner has them.
pub(crate) fn normalize(quote: Option<char>, name: String) -> String {
    if quote.is_some() { name } else { name.to_lowercase() }
}

/// Returns the text from a token's place to the end.
fn text_from(text: &str, place: Location) -> &str {
    let mut line = 1;
    let mut column = 1;
    for (offset, character) in text.char_indices() {
        if line == place.line && column == place.column {
            return &text[offset..];
        }
        if character == '\n' {
            line += 1;
            column = 1;
        } else {
            column += 1;
        }
    }
    ""
}
