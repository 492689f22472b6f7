//! A parser for Python literals: what `ast.literal_eval` accepts of the data in LooGLE, and nothing that runs.
//!
//! LooGLE stores question lists as Python literals and calls `eval` on a model's answer. Here a text is parsed, never
//! executed: names, calls, operators, comprehensions and f-strings are errors.

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
    let mut parser = Parser { chars, at: 0, depth: 0 };
    if let Some(at) = parser.chars.iter().position(|&c| c == '\0') {
        return Err(LiteralError { reason: "null character", at });
    }
    parser.blank_lines()?;
    let first = parser.value()?;
    parser.blanks();
    let value = if parser.eat(',') { parser.open_tuple(first)? } else { first };
    parser.end()?;
    Ok(value)
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
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
            items.push(self.value()?);
            self.blanks();
            if !self.eat(',') {
                return Ok(Literal::Tuple(items));
            }
        }
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
            items.push(self.value()?);
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
        let (mut pairs, mut members) = (Vec::new(), Vec::new());
        loop {
            self.blanks();
            if self.eat('}') {
                break;
            }
            let key = self.value()?;
            if !key.is_hashable() {
                return self.fail("unhashable dict key or set member");
            }
            self.blanks();
            if self.peek() == Some(':') && members.is_empty() {
                self.at += 1;
                let value = self.value()?;
                pairs.push((key, value));
            } else if pairs.is_empty() {
                members.push(key);
            } else {
                return self.fail("a dict value is missing");
            }
            self.blanks();
            if !self.eat(',') && self.peek() != Some('}') {
                return self.fail("a comma or closing bracket is missing");
            }
        }
        Ok(if members.is_empty() { Literal::Dict(pairs) } else { Literal::Set(members) })
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
        assert_eq!(parse(&"[".repeat(100_000)).unwrap_err().reason, "nested too deeply");
        assert!(parse(&format!("{}{}", "[".repeat(200), "]".repeat(200))).is_ok());
    }
}
