//! The characters of a text: position, words, names, numbers, errors. Knows no grammar.

use super::{is_bare, is_name_char};
use crate::{Float, Name, Sym};
use std::{collections::HashMap, fmt, str::FromStr};

/// Where and why text is no graph, program or type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {why}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What was found and what was expected there.
    pub why: String,
}

pub(super) type Result<T> = std::result::Result<T, ParseError>;

pub(super) struct Parser<'a> {
    text: &'a str,
    /// Byte offset of what is next; no white space or comment stands there.
    pub(super) at: usize,
    pub(super) symbols: HashMap<Name, Sym>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str, symbols: &[Sym]) -> Parser<'a> {
        let symbols = symbols.iter().map(|s| (s.name.clone(), s.clone()));
        let mut p = Parser {
            text,
            at: 0,
            symbols: symbols.collect(),
        };
        p.skip();
        p
    }

    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Goes over `bytes`, and white space and comments after them.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.skip();
    }

    pub(super) fn skip(&mut self) {
        loop {
            let rest = self.rest().trim_start();
            let rest = match rest.strip_prefix(';') {
                Some(comment) => comment.find('\n').map_or("", |end| &comment[end..]),
                None => rest,
            };
            let at = self.text.len() - rest.len();
            if at == self.at {
                return;
            }
            self.at = at;
        }
    }

    /// An error at byte `at`.
    pub(super) fn error<T>(&self, at: usize, why: impl fmt::Display) -> Result<T> {
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Err(ParseError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            why: why.to_string(),
        })
    }

    pub(super) fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let rest = self.rest();
        let word: String = rest.chars().take_while(|c| is_name_char(*c)).collect();
        let found = match rest.chars().next() {
            None => "the end of the text".to_string(),
            Some(c) if word.is_empty() => format!("`{}`", c.escape_debug()),
            Some(_) => format!("`{}`", word.chars().take(40).collect::<String>()),
        };
        self.error(self.at, format!("found {found}, expected {expected}"))
    }

    pub(super) fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.advance(token.len());
        }
        found
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<()> {
        match self.eat(token) {
            true => Ok(()),
            false => self.unexpected(&format!("`{token}`")),
        }
    }

    pub(super) fn end(&self, expected: &str) -> Result<()> {
        match self.rest().is_empty() {
            true => Ok(()),
            false => self.unexpected(expected),
        }
    }

    /// The characters from here on that `accept` wants.
    pub(super) fn run(&self, accept: fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        &rest[..rest.find(|c| !accept(c)).unwrap_or(rest.len())]
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self.run(is_name_char) == word;
        if found {
            self.advance(word.len());
        }
        found
    }

    pub(super) fn word(&mut self, word: &str) -> Result<()> {
        match self.eat_word(word) {
            true => Ok(()),
            false => self.unexpected(&format!("`{word}`")),
        }
    }

    /// Items separated by commas up to `close`, which is consumed.
    pub(super) fn list<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = vec![];
        while !self.eat(close) {
            if !items.is_empty() {
                match self.eat(",") {
                    true => {}
                    false => return self.unexpected(&format!("`,` or `{close}`")),
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// A name, bare or quoted.
    pub(super) fn name(&mut self, expected: &str) -> Result<Name> {
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let name = self.run(is_name_char);
        if !is_bare(name) {
            return self.unexpected(expected);
        }
        self.advance(name.len());
        Ok(name.into())
    }

    /// A name in quotes, with the escapes of Rust's string literals.
    pub(super) fn quoted(&mut self) -> Result<Name> {
        let mut name = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.advance(i + 1);
                    return Ok(name.into());
                }
                '\\' => {
                    let escaped = match chars.next().map(|(_, c)| c) {
                        Some('n') => Some('\n'),
                        Some('t') => Some('\t'),
                        Some('r') => Some('\r'),
                        Some('0') => Some('\0'),
                        Some(c @ ('"' | '\\' | '\'')) => Some(c),
                        Some('u') => {
                            let code = chars.by_ref().map(|(_, c)| c).skip_while(|c| *c == '{');
                            let code: String = code.take(7).take_while(|c| *c != '}').collect();
                            let code = u32::from_str_radix(&code, 16).ok();
                            code.and_then(char::from_u32)
                        }
                        _ => None,
                    };
                    match escaped {
                        Some(c) => name.push(c),
                        None => return self.error(self.at + i, "found an unknown escape"),
                    }
                }
                c => name.push(c),
            }
        }
        self.error(self.at, "found a name without its closing quote")
    }

    /// The text of a number: an optional sign, digits, fraction, exponent, or `inf` or `NaN`.
    pub(super) fn digits(&self) -> &'a str {
        let rest = self.rest();
        let unsigned = rest.strip_prefix('-').unwrap_or(rest);
        let sign = rest.len() - unsigned.len();
        for special in ["inf", "NaN"] {
            let word = unsigned.split(|c| !is_name_char(c)).next();
            if word == Some(special) {
                return &rest[..sign + special.len()];
            }
        }
        let bytes = unsigned.as_bytes();
        let digits = |mut i: usize| {
            while bytes.get(i).is_some_and(u8::is_ascii_digit) {
                i += 1;
            }
            i
        };
        let mut end = digits(0);
        if end == 0 {
            return "";
        }
        if bytes.get(end) == Some(&b'.') && digits(end + 1) > end + 1 {
            end = digits(end + 1);
        }
        if bytes.get(end) == Some(&b'e') {
            let signed = matches!(bytes.get(end + 1), Some(b'+' | b'-'));
            let start = end + 1 + usize::from(signed);
            if digits(start) > start {
                end = digits(start);
            }
        }
        &rest[..sign + end]
    }

    /// An integer that fits `T`.
    pub(super) fn integer<T: FromStr>(&mut self, expected: &str) -> Result<T> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with('-'));
        let digits = rest[sign..].find(|c: char| !c.is_ascii_digit());
        let end = digits.map_or(rest.len(), |d| d + sign);
        match rest[..end].parse() {
            Ok(n) => {
                self.advance(end);
                Ok(n)
            }
            Err(_) => self.unexpected(expected),
        }
    }

    pub(super) fn float(&mut self) -> Result<Float> {
        let digits = self.digits();
        match digits.parse::<f64>() {
            Ok(x) => {
                self.advance(digits.len());
                Ok(x.into())
            }
            Err(_) => self.unexpected("a number"),
        }
    }
}
