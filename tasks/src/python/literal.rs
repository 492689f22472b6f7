//! A parser for Python literals: what `ast.literal_eval` accepts of the data in LooGLE, and nothing that runs.
//!
//! LooGLE stores question lists as Python literals and calls `eval` on a model's answer. Here a text is parsed, never
//! executed. [`parse`] takes literals; [`expression`] also takes the expressions without side effects that make a dict
//! out of literals. All else (names, other calls and operators, comprehensions, f-strings) is an error.

use std::collections::BTreeMap;

use thiserror::Error;

/// Deepest nesting that is parsed; CPython's own tokenizer stops at 200 brackets.
const MAX_DEPTH: usize = 200;

/// A parsed Python literal.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `None`.
    None,
    /// `...`.
    Ellipsis,
    /// `True` or `False`.
    Bool(bool),
    /// An integer, float or imaginary number as written, without underscores, with its sign.
    Number(String),
    /// A string. A lone surrogate escape (`'\ud800'`) becomes U+FFFD, which Rust strings can hold.
    Str(String),
    /// A bytes literal.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Literal>),
    /// A tuple.
    Tuple(Vec<Literal>),
    /// A set.
    Set(Vec<Literal>),
    /// A dict, in source order, repeated keys kept: [`Literal::get`] finds the last.
    Dict(Vec<(Literal, Literal)>),
}

impl Literal {
    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    /// The items of a list or tuple.
    pub fn items(&self) -> Option<&[Literal]> {
        if let Self::List(items) | Self::Tuple(items) = self { Some(items) } else { None }
    }

    /// The value of a string key in a dict. A repeated key has its last value, as in Python.
    pub fn get(&self, key: &str) -> Option<&Literal> {
        let Self::Dict(pairs) = self else { return None };
        pairs.iter().rev().find(|(k, _)| k.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// Whether Python could use the value as a dict key or set member.
    fn is_hashable(&self) -> bool {
        match self {
            Self::List(_) | Self::Set(_) | Self::Dict(_) => false,
            Self::Tuple(items) => items.iter().all(Self::is_hashable),
            _ => true,
        }
    }
}

/// Why a text is not a Python literal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a python literal: {reason} at character {at}")]
pub struct LiteralError {
    /// What was found or missing.
    pub reason: &'static str,
    /// Position in the text, in characters from 0, line ends counted as one.
    pub at: usize,
}

/// Parses a text that Python's `eval` would read as one literal expression.
///
/// # Errors
/// Anything that is no literal: text around it, an open bracket or quote, a name such as `true` or `null`, an operator,
/// an unhashable key, nesting deeper than 200.
pub fn parse(text: &str) -> Result<Literal, LiteralError> {
    whole(text, false)
}

/// Parses a text that Python's `eval` would turn into a value by literals, `dict(…)` with pairs, keywords, `**` or a
/// dict, `|` of dicts, `**` inside a dict, and `+` of strings, bytes, lists or tuples: its value.
///
/// # Errors
/// Anything else, and what Python refuses: see [`parse`], operands of unlike types, a key given twice in a call.
pub fn expression(text: &str) -> Result<Literal, LiteralError> {
    whole(text, true)
}

fn whole(text: &str, computes: bool) -> Result<Literal, LiteralError> {
    let mut chars = Vec::with_capacity(text.len());
    // Python normalises line ends before it tokenizes; `eval` strips leading blanks.
    let mut rest = text.trim_start_matches([' ', '\t']).chars().peekable();
    while let Some(c) = rest.next() {
        if c == '\r' {
            rest.next_if_eq(&'\n');
            chars.push('\n');
        } else {
            chars.push(c);
        }
    }
    let mut parser = Parser { chars, at: 0, depth: 0, computes };
    if let Some(at) = parser.chars.iter().position(|&c| c == '\0') {
        return Err(LiteralError { reason: "null character", at });
    }
    parser.blank_lines()?;
    let first = parser.item()?;
    parser.blanks();
    let value = if parser.eat(',') { parser.open_tuple(first)? } else { first };
    parser.end()?;
    Ok(value)
}

/// Words that are no names in Python.
const KEYWORDS: [&str; 36] = [
    "False",
    "None",
    "True",
    "and",
    "as",
    "assert",
    "async",
    "await",
    "break",
    "class",
    "continue",
    "def",
    "del",
    "elif",
    "else",
    "except",
    "finally",
    "for",
    "from",
    "global",
    "if",
    "import",
    "in",
    "is",
    "lambda",
    "nonlocal",
    "not",
    "or",
    "pass",
    "raise",
    "return",
    "try",
    "while",
    "with",
    "yield",
    "__debug__",
];

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
    /// Whether expressions are taken beside literals.
    computes: bool,
}

type Parsed<T> = Result<T, LiteralError>;

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn peek_at(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn fail<T>(&self, reason: &'static str) -> Parsed<T> {
        Err(LiteralError { reason, at: self.at })
    }

    fn comment(&mut self) {
        if self.peek() == Some('#') {
            while self.peek().is_some_and(|c| c != '\n') {
                self.at += 1;
            }
        }
    }

    /// Skips what may stand between tokens: outside brackets a line end ends the expression.
    fn blanks(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\u{c}') => self.at += 1,
                Some('\\') if self.peek_at(1) == Some('\n') && self.peek_at(2).is_some() => self.at += 2,
                Some('\n') if self.depth > 0 => self.at += 1,
                Some('#') if self.depth > 0 => self.comment(),
                _ => return,
            }
        }
    }

    /// Skips empty and comment lines before the expression, which must not be indented.
    fn blank_lines(&mut self) -> Parsed<()> {
        loop {
            let start = self.at;
            let mut indent = 0;
            while let Some(c @ (' ' | '\t' | '\u{c}')) = self.peek() {
                indent = if c == '\u{c}' { 0 } else { indent + 1 };
                self.at += 1;
            }
            self.comment();
            match self.peek() {
                Some('\n') => self.at += 1,
                Some('\\') if self.peek_at(1) == Some('\n') => return Ok(()),
                _ if indent > 0 => {
                    self.at = start;
                    return self.fail("unexpected indent");
                }
                _ => return Ok(()),
            }
        }
    }

    /// Only blanks, comments and empty lines may follow the expression.
    fn end(&mut self) -> Parsed<()> {
        self.blanks();
        loop {
            self.comment();
            match self.peek() {
                None => return Ok(()),
                Some('\n') => self.at += 1,
                Some(_) => return self.fail("text after the value"),
            }
            while matches!(self.peek(), Some(' ' | '\t' | '\u{c}')) {
                self.at += 1;
            }
        }
    }

    /// The rest of an unparenthesised tuple such as `1, 2`.
    fn open_tuple(&mut self, first: Literal) -> Parsed<Literal> {
        let mut items = vec![first];
        loop {
            self.blanks();
            if matches!(self.peek(), None | Some('\n' | '#')) {
                return Ok(Literal::Tuple(items));
            }
            items.push(self.item()?);
            self.blanks();
            if !self.eat(',') {
                return Ok(Literal::Tuple(items));
            }
        }
    }

    /// A literal or, where those are taken, an expression: what may stand between brackets and commas.
    fn item(&mut self) -> Parsed<Literal> {
        let mut left = self.sum()?;
        while self.operator('|') {
            left = match (left, self.sum()?) {
                (Literal::Dict(mut pairs), Literal::Dict(more)) => {
                    pairs.extend(more);
                    Literal::Dict(pairs)
                }
                _ => return self.fail("`|` of other values than dicts"),
            };
        }
        Ok(left)
    }

    fn sum(&mut self) -> Parsed<Literal> {
        let mut left = self.value()?;
        while self.operator('+') {
            left = match (left, self.value()?) {
                (Literal::Str(left), Literal::Str(right)) => Literal::Str(left + &right),
                (Literal::Bytes(left), Literal::Bytes(right)) => Literal::Bytes([left, right].concat()),
                (Literal::List(left), Literal::List(right)) => Literal::List([left, right].concat()),
                (Literal::Tuple(left), Literal::Tuple(right)) => Literal::Tuple([left, right].concat()),
                _ => return self.fail("`+` of other values than two strings, lists or tuples"),
            };
        }
        Ok(left)
    }

    /// Takes a binary operator; `|=` and the like are none.
    fn operator(&mut self, operator: char) -> bool {
        if !self.computes {
            return false;
        }
        self.blanks();
        self.peek_at(1) != Some('=') && self.eat(operator)
    }

    fn value(&mut self) -> Parsed<Literal> {
        self.blanks();
        match self.peek() {
            Some(open @ ('[' | '(' | '{')) => {
                if self.depth == MAX_DEPTH {
                    return self.fail("nested too deeply");
                }
                self.at += 1;
                self.depth += 1;
                let value = match open {
                    '[' => Literal::List(self.items(']')?.0),
                    '(' => self.parenthesised()?,
                    _ => self.braced()?,
                };
                self.depth -= 1;
                Ok(value)
            }
            Some('+' | '-') => self.signed(),
            Some('.') if self.peek_at(1) == Some('.') && self.peek_at(2) == Some('.') => {
                self.at += 3;
                Ok(Literal::Ellipsis)
            }
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            Some('\'' | '"') => self.strings(),
            Some(c) if c == '_' || c.is_alphabetic() => self.word(),
            Some(_) => self.fail("unexpected character"),
            None => self.fail("a value is missing"),
        }
    }

    /// Comma-separated values up to `close`; also whether a comma was seen.
    fn items(&mut self, close: char) -> Parsed<(Vec<Literal>, bool)> {
        let (mut items, mut comma) = (Vec::new(), false);
        loop {
            self.blanks();
            if self.eat(close) {
                return Ok((items, comma));
            }
            if !items.is_empty() && !comma {
                return self.fail("a comma or closing bracket is missing");
            }
            items.push(self.item()?);
            self.blanks();
            let more = self.eat(',');
            comma |= more;
            if !more && self.peek() != Some(close) {
                return self.fail("a comma or closing bracket is missing");
            }
        }
    }

    fn parenthesised(&mut self) -> Parsed<Literal> {
        let (mut items, comma) = self.items(')')?;
        Ok(match items.pop() {
            Some(only) if items.is_empty() && !comma => only,
            Some(last) => {
                items.push(last);
                Literal::Tuple(items)
            }
            None => Literal::Tuple(items),
        })
    }

    fn braced(&mut self) -> Parsed<Literal> {
        let (mut pairs, mut members, mut is_dict) = (Vec::new(), Vec::new(), false);
        loop {
            self.blanks();
            if self.eat('}') {
                break;
            }
            if self.stars() {
                let Literal::Dict(more) = self.item()? else { return self.fail("`**` of no dict") };
                is_dict = true;
                pairs.extend(more);
            } else {
                let key = self.item()?;
                if !key.is_hashable() {
                    return self.fail("unhashable dict key or set member");
                }
                self.blanks();
                if self.eat(':') {
                    is_dict = true;
                    let value = self.item()?;
                    pairs.push((key, value));
                } else {
                    members.push(key);
                }
            }
            if is_dict && !members.is_empty() {
                return self.fail("a dict value is missing");
            }
            self.blanks();
            if !self.eat(',') && self.peek() != Some('}') {
                return self.fail("a comma or closing bracket is missing");
            }
        }
        Ok(if members.is_empty() { Literal::Dict(pairs) } else { Literal::Set(members) })
    }

    /// Takes the `**` of an unpacked dict.
    fn stars(&mut self) -> bool {
        let found = self.computes && self.peek() == Some('*') && self.peek_at(1) == Some('*');
        self.at += if found { 2 } else { 0 };
        found
    }

    /// The dict of `dict(…)`, the cursor behind its name.
    fn dict_call(&mut self) -> Parsed<Literal> {
        self.blanks();
        if !self.eat('(') {
            return self.fail("a name");
        }
        if self.depth == MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        self.depth += 1;
        let (mut pairs, mut keywords) = (None, BTreeMap::new());
        let mut is_keyword = false;
        loop {
            self.blanks();
            if self.eat(')') {
                break;
            }
            // A dict has each key once, whatever its source repeats.
            let mut given = BTreeMap::new();
            if self.stars() {
                is_keyword = true;
                let Literal::Dict(more) = self.item()? else { return self.fail("`**` of no dict") };
                for (key, value) in more {
                    let Literal::Str(name) = key else { return self.fail("a keyword that is no string") };
                    given.insert(name, value);
                }
            } else if let Some(name) = self.keyword() {
                is_keyword = true;
                given.insert(name, self.item()?);
            } else if is_keyword || pairs.is_some() {
                return self.fail("a second argument, or one behind a keyword");
            } else {
                let argument = self.item()?;
                pairs = Some(self.pairs_of(argument)?);
            }
            for (name, value) in given {
                if keywords.insert(name, value).is_some() {
                    return self.fail("a keyword given twice");
                }
            }
            self.blanks();
            if !self.eat(',') && self.peek() != Some(')') {
                return self.fail("a comma or closing bracket is missing");
            }
        }
        self.depth -= 1;
        let mut pairs = pairs.unwrap_or_default();
        pairs.extend(keywords.into_iter().map(|(name, value)| (Literal::Str(name), value)));
        Ok(Literal::Dict(pairs))
    }

    /// The name before a single `=`, both taken.
    fn keyword(&mut self) -> Option<String> {
        let start = self.at;
        let name: String =
            self.chars.get(start..)?.iter().take_while(|c| **c == '_' || c.is_alphanumeric()).collect();
        self.at += name.chars().count();
        self.blanks();
        let starts = name.starts_with(|c: char| c == '_' || c.is_alphabetic());
        if starts && !KEYWORDS.contains(&name.as_str()) && self.peek_at(1) != Some('=') && self.eat('=') {
            return Some(name);
        }
        self.at = start;
        None
    }

    /// What `dict` makes of its one argument.
    fn pairs_of(&self, argument: Literal) -> Parsed<Vec<(Literal, Literal)>> {
        let items = match argument {
            Literal::Dict(pairs) => return Ok(pairs),
            Literal::List(items) | Literal::Tuple(items) | Literal::Set(items) => items,
            Literal::Str(text) if text.is_empty() => Vec::new(),
            Literal::Bytes(bytes) if bytes.is_empty() => Vec::new(),
            _ => return self.fail("`dict` of other values than a dict or pairs"),
        };
        let pair = |item: Literal| {
            let mut parts = match item {
                Literal::List(parts) | Literal::Tuple(parts) => parts,
                Literal::Str(text) => text.chars().map(|c| Literal::Str(c.into())).collect(),
                _ => Vec::new(),
            };
            match (parts.pop(), parts.pop(), parts.is_empty()) {
                (Some(value), Some(key), true) if key.is_hashable() => Ok((key, value)),
                _ => self.fail("an item of `dict` that is no pair with a hashable key"),
            }
        };
        items.into_iter().map(pair).collect()
    }

    /// `-1`, `+-2.5`: signs before a number.
    fn signed(&mut self) -> Parsed<Literal> {
        let mut negative = false;
        while let Some(sign @ ('+' | '-')) = self.peek() {
            negative ^= sign == '-';
            self.at += 1;
            self.blanks();
        }
        match self.peek() {
            Some(c) if c.is_ascii_digit() || c == '.' => {}
            _ => return self.fail("a number is missing after the sign"),
        }
        Ok(match self.number()? {
            Literal::Number(text) if negative => Literal::Number(format!("-{text}")),
            other => other,
        })
    }

    fn word(&mut self) -> Parsed<Literal> {
        let start = self.at;
        while self.peek().is_some_and(|c| c == '_' || c.is_alphanumeric()) {
            self.at += 1;
        }
        let word: String = self.chars.get(start..self.at).unwrap_or_default().iter().collect();
        if matches!(self.peek(), Some('\'' | '"')) {
            self.at = start;
            return self.strings();
        }
        match word.as_str() {
            "None" => Ok(Literal::None),
            "True" => Ok(Literal::Bool(true)),
            "False" => Ok(Literal::Bool(false)),
            "dict" if self.computes => self.dict_call(),
            _ => {
                self.at = start;
                self.fail("a name")
            }
        }
    }

    /// Digits with single underscores between them; the empty string if there are none.
    fn digits(&mut self, radix: u32) -> Parsed<String> {
        let mut out = String::new();
        while let Some(c) = self.peek() {
            if c.is_digit(radix) {
                out.push(c);
            } else if c != '_' {
                break;
            } else if !self.peek_at(1).is_some_and(|next| next.is_digit(radix)) {
                return self.fail("misplaced underscore in a number");
            }
            self.at += 1;
        }
        Ok(out)
    }

    fn number(&mut self) -> Parsed<Literal> {
        let radix = match (self.peek(), self.peek_at(1)) {
            (Some('0'), Some('x' | 'X')) => 16,
            (Some('0'), Some('o' | 'O')) => 8,
            (Some('0'), Some('b' | 'B')) => 2,
            _ => 10,
        };
        let mut text;
        if radix != 10 {
            self.at += 2;
            text = self.digits(radix)?;
            if text.is_empty() {
                return self.fail("digits are missing");
            }
            let prefix =
                [(16, "0x"), (8, "0o"), (2, "0b")].iter().find(|(r, _)| *r == radix).map_or("", |p| p.1);
            text.insert_str(0, prefix);
        } else {
            if self.peek() == Some('_') {
                return self.fail("unexpected character");
            }
            text = self.digits(10)?;
            let whole = text.len();
            if self.eat('.') {
                text.push('.');
                if self.peek() == Some('_') {
                    return self.fail("misplaced underscore in a number");
                }
                text += &self.digits(10)?;
                if text == "." {
                    return self.fail("digits are missing");
                }
            }
            let signed = matches!(self.peek_at(1), Some('+' | '-'));
            let exponent = self.peek_at(1 + usize::from(signed)).is_some_and(|c| c.is_ascii_digit());
            if matches!(self.peek(), Some('e' | 'E')) && exponent {
                text.push('e');
                self.at += 1;
                if let Some(sign @ ('+' | '-')) = self.peek() {
                    text.push(sign);
                    self.at += 1;
                }
                text += &self.digits(10)?;
            }
            let imaginary = self.eat('j') || self.eat('J');
            let integer = text.len() == whole && !imaginary;
            if integer && text.starts_with('0') && text.chars().any(|c| c != '0') {
                return self.fail("leading zeros in an integer");
            }
            // CPython refuses to convert longer decimal integers.
            if integer && whole > 4300 {
                return self.fail("an integer of more than 4300 digits");
            }
            if imaginary {
                text.push('j');
            }
        }
        if self.peek().is_some_and(|c| c == '_' || c == '.' || c.is_alphanumeric()) {
            return self.fail("malformed number");
        }
        Ok(Literal::Number(text))
    }

    /// One or more adjacent string literals, joined.
    fn strings(&mut self) -> Parsed<Literal> {
        let (mut text, mut bytes) = (String::new(), Vec::new());
        let mut is_bytes = None;
        loop {
            let (mut raw, mut byte, mut unicode) = (false, false, false);
            let start = self.at;
            while let Some(c) = self.peek().filter(|c| c.is_ascii_alphabetic()) {
                match c.to_ascii_lowercase() {
                    'r' if !raw && !unicode => raw = true,
                    'b' if !byte && !unicode => byte = true,
                    'u' if !raw && !byte && !unicode => unicode = true,
                    _ => {
                        self.at = start;
                        return self.fail("a name");
                    }
                }
                self.at += 1;
            }
            if *is_bytes.get_or_insert(byte) != byte {
                return self.fail("bytes next to a string");
            }
            self.quoted(raw, byte, &mut text, &mut bytes)?;
            self.blanks();
            let mut ahead = 0;
            while ahead < 3
                && self.peek_at(ahead).is_some_and(|c| matches!(c.to_ascii_lowercase(), 'r' | 'b' | 'u'))
            {
                ahead += 1;
            }
            if !matches!(self.peek_at(ahead), Some('\'' | '"')) {
                break;
            }
        }
        Ok(if is_bytes == Some(true) { Literal::Bytes(bytes) } else { Literal::Str(text) })
    }

    /// One quoted literal, the cursor on its opening quote.
    fn quoted(&mut self, raw: bool, byte: bool, text: &mut String, bytes: &mut Vec<u8>) -> Parsed<()> {
        let Some(quote @ ('\'' | '"')) = self.peek() else { return self.fail("a quote is missing") };
        let triple = self.peek_at(1) == Some(quote) && self.peek_at(2) == Some(quote);
        self.at += if triple { 3 } else { 1 };
        loop {
            let Some(c) = self.peek() else { return self.fail("a string is not closed") };
            if c == quote && (!triple || (self.peek_at(1) == Some(quote) && self.peek_at(2) == Some(quote))) {
                self.at += if triple { 3 } else { 1 };
                return Ok(());
            }
            if c == '\n' && !triple {
                return self.fail("a string is not closed");
            }
            self.at += 1;
            let out = if c != '\\' {
                Some(c)
            } else if raw {
                // A raw string keeps its backslashes, yet an escaped quote does not close it.
                push(c, byte, text, bytes);
                match self.peek() {
                    None => return self.fail("a string is not closed"),
                    escaped => {
                        self.at += 1;
                        escaped
                    }
                }
            } else {
                self.escape(byte, text, bytes)?
            };
            if let Some(c) = out {
                if byte && !c.is_ascii() {
                    // Only reached by source characters: escapes push their bytes themselves.
                    return self.fail("a bytes literal with a non-ascii character");
                }
                push(c, byte, text, bytes);
            }
        }
    }

    /// The character of an escape, the cursor after its backslash; `None` where nothing more is to be pushed.
    fn escape(&mut self, byte: bool, text: &mut String, bytes: &mut Vec<u8>) -> Parsed<Option<char>> {
        let Some(c) = self.peek() else { return self.fail("a string is not closed") };
        self.at += 1;
        let code = match c {
            '\n' => return Ok(None),
            '\\' | '\'' | '"' => return Ok(Some(c)),
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            '0'..='7' => {
                let mut code = c.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    self.at += 1;
                }
                if byte { code & 0xff } else { code }
            }
            'x' => self.hex(2)?,
            'u' if !byte => self.hex(4)?,
            'U' if !byte => {
                let code = self.hex(8)?;
                if code > 0x10_ffff {
                    return self.fail("a code point beyond U+10FFFF");
                }
                code
            }
            'N' if !byte => return self.fail("a named character escape"),
            // An unknown escape keeps its backslash.
            _ => {
                push('\\', byte, text, bytes);
                return Ok(Some(c));
            }
        };
        if byte {
            bytes.push(code as u8);
            return Ok(None);
        }
        Ok(Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)))
    }

    fn hex(&mut self, length: usize) -> Parsed<u32> {
        let mut code = 0;
        for _ in 0..length {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else {
                return self.fail("hex digits are missing in an escape");
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

fn push(c: char, byte: bool, text: &mut String, bytes: &mut Vec<u8>) {
    if byte {
        bytes.push(c as u8);
    } else {
        text.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Literal {
        Literal::Str(s.to_owned())
    }

    #[test]
    fn reads_what_models_and_datasets_write() {
        let dict = parse(" {'a': 'b' \"c\", \"d\": 1_0, 'd': [True, None,],} # end\n\n").unwrap();
        assert_eq!(dict.get("a"), Some(&text("bc")));
        assert_eq!(dict.get("d"), Some(&Literal::List(vec![Literal::Bool(true), Literal::None])));
        assert_eq!(
            parse("\n[{'Q': 'it\\'s \\u00e9\\x41\\101\\q', 'n': -1.5e3}]").unwrap().items().unwrap().len(),
            1
        );
        assert_eq!(parse("'\\q\\u00e9\\x41\\101'"), Ok(text("\\qéAA")));
        assert_eq!(parse("r'\\n' '''x\r\ny'''"), Ok(text("\\nx\ny")));
        assert_eq!(parse("b'a\\xff\\n'"), Ok(Literal::Bytes(vec![b'a', 255, b'\n'])));
        assert_eq!(parse("(1)"), Ok(Literal::Number("1".into())));
        assert_eq!(parse("(1,)"), parse("1,"));
        assert_eq!(parse("()"), Ok(Literal::Tuple(vec![])));
        assert_eq!(parse("{}"), Ok(Literal::Dict(vec![])));
        assert_eq!(parse("'\\ud83d'"), Ok(text("\u{fffd}")));
        assert_eq!(parse("(2,...)").unwrap().items().unwrap()[1], Literal::Ellipsis);
    }

    #[test]
    fn refuses_everything_else() {
        for source in [
            "",
            " ",
            "{",
            "{'a'}x",
            "```{}```",
            "{'a': true}",
            "null",
            "[1 2]",
            "[,]",
            "{'a': 1, 'b'}",
            "{[1]: 2}",
            "'a",
            "'a\nb'",
            "__import__('os')",
            "1 + 1",
            "f'x'",
            "{**{}}",
            "\n {}",
            "{} {}",
            "012",
            "1__0",
            "0x",
            "'\\x4'",
            "b'é'",
            "'a' b'b'",
            "'\\N{DASH}'",
            "1abc",
            "{'a': 1 'b': 2}",
            "\0{}",
            "'\\",
            "-'a'",
            "(",
            "+",
        ] {
            assert!(parse(source).is_err(), "{source:?}");
        }
        assert_eq!(expression(&"dict(".repeat(100_000)).unwrap_err().reason, "nested too deeply");
        assert_eq!(parse(&"[".repeat(100_000)).unwrap_err().reason, "nested too deeply");
        assert!(parse(&format!("{}{}", "[".repeat(200), "]".repeat(200))).is_ok());
    }

    /// What Python's `eval` said of each: the dict as JSON, or that it is none.
    #[test]
    fn expressions_have_the_value_that_python_gives_them() {
        let json = |literal: Literal| match literal {
            Literal::Dict(pairs) => {
                let text = |l: &Literal| l.as_str().map_or_else(|| format!("{l:?}"), str::to_owned);
                let dict: BTreeMap<_, _> =
                    pairs.iter().map(|(key, value)| (text(key), text(value))).collect();
                Some(serde_json::to_string(&dict).unwrap())
            }
            _ => None,
        };
        let ab = Some(r#"{"a":"b"}"#);
        let both = Some(r#"{"a":"b","c":"d"}"#);
        for (source, expected) in [
            ("dict({'a': 'b'})", ab),
            ("dict(a='b')", ab),
            ("dict( a = 'b' , )", ab),
            ("dict(\n[('a',\n'b')])", ab),
            ("dict([['a', 'b']], c='d')", both),
            ("dict((('a', 'x'),), a='b')", ab),
            ("dict({('a', 'b')})", ab),
            ("dict(['ab'])", ab),
            ("dict(**{'a': 'b'})", ab),
            ("dict(c='d', **{'a': 'b'},)", both),
            ("dict(**{'a': 'x', 'a': 'b'})", ab),
            ("dict('')", Some("{}")),
            ("dict ()", Some("{}")),
            ("{'a': 'b'} | {'c': 'd'}", both),
            ("{'a': 'x'} | dict(a='b')", ab),
            ("{**{'a': 'x'}, 'a': 'b'}", ab),
            ("{**dict(a='b'), **{}}", ab),
            ("{**{}, **{'a': 'x'} | {'a': 'b'}}", ab),
            ("(({'a': 'b'}))", ab),
            ("({'a': 'b'}\n| {'c':\n'd'})", both),
            ("{'<mask' + '-0>': 'x' + 'y' 'z'}", Some(r#"{"<mask-0>":"xyz"}"#)),
            ("dict([('a', 'b')] + [('c', 'd')])", both),
            ("dict([('a',) + ('b',)])", ab),
            // No dict, or an exception.
            ("dict", None),
            ("dict(a='b', a='c')", None),
            ("dict(a='b', **{'a': 'c'})", None),
            ("dict(**{1: 'b'})", None),
            ("dict(a='b', {})", None),
            ("dict(**{}, {})", None),
            ("dict({}, {})", None),
            ("dict(None='b')", None),
            ("dict(a=='b')", None),
            ("dict(for='b')", None),
            ("dict(,)", None),
            ("dict(['abc'])", None),
            ("dict([('a',)])", None),
            ("dict([(['a'], 'b')])", None),
            ("dict('ab')", None),
            ("{'a': 'b'} | [('c', 'd')]", None),
            ("{'a': 'b'} |= {}", None),
            ("{'a': 'b'}\n| {'c': 'd'}", None),
            ("{'a': 'x' + 1}", None),
            ("{'a', **{}}", None),
            ("{**{}, 'a'}", None),
            ("{**[]}", None),
            ("{'a': 'b' + }", None),
            ("+ {'a': 'b'}", None),
            // Left out, though Python makes a dict of them.
            ("{'a': 'b'} or {}", None),
            ("{k: 'b' for k in 'a'}", None),
            ("{'a': 'b'}.copy()", None),
            ("{'a': 'B'.lower()}", None),
            ("{'a': 'b' * 1}", None),
            ("dict(*[{'a': 'b'}])", None),
            ("dict(zip('a', 'b'))", None),
        ] {
            assert_eq!(expression(source).ok().and_then(json).as_deref(), expected, "{source}");
        }
        for source in ["dict(a='b')", "{} | {}", "{**{}}", "'a' + 'b'"] {
            assert!(parse(source).is_err(), "{source}");
        }
    }
}
