//! What templates take from Python: texts of values, JSON, methods of texts and lists, and what is iterable.

use std::fmt::Write;

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};

use super::refuse;

/// Lists within lists of a value that is written.
const DEEPEST: usize = 128;

/// Python's `str`: minijinja's, but for texts within lists and objects.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.kind() {
        ValueKind::Seq | ValueKind::Map => repr(value, &mut out, 0)?,
        _ => write!(out, "{value}").map_err(|error| refuse(error.to_string()))?,
    }
    Ok(out)
}

/// Python's `repr`.
fn repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth == DEEPEST {
        return Err(refuse(format!("lists are nested more than {DEEPEST} deep")));
    }
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            out.push(quote);
            for c in text.chars() {
                match c {
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    '\\' => out.push_str("\\\\"),
                    c if c == quote => out.extend(['\\', c]),
                    c if c.is_ascii_control() => {
                        let _ = write!(out, "\\x{:02x}", u32::from(c));
                    }
                    c => out.push(c),
                }
            }
            out.push(quote);
        }
        ValueKind::Seq => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&item, out, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// How Python's `json.dumps` lays a value out.
struct Layout {
    ensure_ascii: bool,
    /// What one level is indented by; `None`: all on one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// The filter `tojson` of transformers (`_compile_jinja_template`): `json.dumps` with `ensure_ascii=False`.
pub(super) fn tojson(value: &Value, ensure_ascii: Option<Value>, args: Kwargs) -> Result<Value, Error> {
    let named: Option<Value> = args.get("ensure_ascii")?;
    let indent: Option<Value> = args.get("indent")?;
    let separators: Option<Value> = args.get("separators")?;
    let sort_keys: Option<bool> = args.get("sort_keys")?;
    args.assert_all_used()?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i64::try_from(indent)?).unwrap_or(0)),
        }),
    };
    let [item_separator, key_separator] = match separators.filter(|separators| !separators.is_none()) {
        Some(separators) => {
            [0, 1].map(|index| separators.get_item_by_index(index).map(|text| text.to_string()))
        }
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(|text| Ok(text.to_owned())),
    };
    let layout = Layout {
        ensure_ascii: ensure_ascii.or(named).is_some_and(|asked| asked.is_true()),
        indent,
        item_separator: item_separator?,
        key_separator: key_separator?,
        sort_keys: sort_keys.unwrap_or(false),
    };
    let mut out = String::new();
    layout.write(value, &mut out, 0)?;
    Ok(Value::from(out))
}

impl Layout {
    fn write(&self, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        if depth == DEEPEST {
            return Err(refuse(format!("lists are nested more than {DEEPEST} deep")));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&value.to_string()),
            ValueKind::String => self.quote(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(out, ['[', ']'], depth, items.len(), |index, out| {
                    self.write(&items[index], out, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list(out, ['{', '}'], depth, keys.len(), |index, out| {
                    let key = &keys[index];
                    match key.kind() {
                        ValueKind::Bool => self.quote(if key.is_true() { "true" } else { "false" }, out),
                        ValueKind::None => self.quote("null", out),
                        _ => self.quote(&key.to_string(), out),
                    }
                    out.push_str(&self.key_separator);
                    self.write(&value.get_item(key)?, out, depth + 1)
                })?;
            }
            other => return Err(refuse(format!("a value of type {other} is not JSON"))),
        }
        Ok(())
    }

    fn list(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        depth: usize,
        len: usize,
        mut item: impl FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push(open);
        for index in 0..len {
            out.push_str(if index > 0 { &self.item_separator } else { "" });
            new_line(out, depth + 1);
            item(index, out)?;
        }
        if len > 0 {
            new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn quote(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// The test `iterable`: Python iterates texts and Jinja's undefined, not `none` or numbers.
pub(super) fn is_iterable(value: &Value) -> bool {
    !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain)
}

/// The test `sequence`: in Python texts and objects have items, too.
pub(super) fn is_sequence(value: &Value) -> bool {
    is_iterable(value) && value.kind() != ValueKind::Iterable
}

/// The filters `length` and `count`: Jinja's undefined is empty.
pub(super) fn length(value: &Value) -> Result<usize, Error> {
    match value.len() {
        Some(len) => Ok(len),
        None if value.is_undefined() => Ok(0),
        None => Err(refuse(format!("a value of type {} has no length", value.kind()))),
    }
}

/// A method of Python's `str` or `list` that minijinja's own Python methods lack.
///
/// # Errors
/// [`ErrorKind::UnknownMethod`] for any other.
pub(super) fn method(value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    if value.kind() == ValueKind::Seq && name == "index" {
        let wanted = arguments.first().ok_or_else(unknown)?;
        let place = value.try_iter()?.position(|item| item == *wanted);
        return place.map(Value::from).ok_or_else(|| refuse(format!("`{wanted}` is not in the list")));
    }
    let text = value.as_str().ok_or_else(unknown)?;
    let argument = |index: usize| arguments.get(index).filter(|argument| !argument.is_none());
    let texts = |index: usize| argument(index).and_then(Value::as_str);
    let needed = |index: usize| texts(index).ok_or_else(|| refuse(format!("`{name}` wants a text")));
    let triple = |parts: [&str; 3]| parts.map(Value::from).into_iter().collect::<Value>();
    Ok(match name {
        "rsplit" => {
            let most = argument(1).map(|most| i64::try_from(most.clone())).transpose()?;
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            rsplit(text, texts(0), most)?.into_iter().map(Value::from).collect()
        }
        "partition" => match text.split_once(needed(0)?) {
            Some((before, after)) => triple([before, needed(0)?, after]),
            None => triple([text, "", ""]),
        },
        "rpartition" => match text.rsplit_once(needed(0)?) {
            Some((before, after)) => triple([before, needed(0)?, after]),
            None => triple(["", "", text]),
        },
        "removeprefix" => Value::from(text.strip_prefix(needed(0)?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(needed(0)?).unwrap_or(text)),
        "index" | "rindex" => {
            let wanted = needed(0)?;
            let place = if name == "index" { text.find(wanted) } else { text.rfind(wanted) };
            let place = place.ok_or_else(|| refuse(format!("`{wanted}` is not in the text")))?;
            Value::from(text[..place].chars().count())
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let width = argument(0).map(|width| i64::try_from(width.clone())).transpose()?.unwrap_or(0);
            let fill = texts(1).and_then(|fill| fill.chars().next()).unwrap_or(' ');
            Value::from(padded(text, name, usize::try_from(width).unwrap_or(0), fill))
        }
        "swapcase" => {
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "casefold" => Value::from(text.to_lowercase()),
        // minijinja says yes of the empty text.
        "isdigit" | "isnumeric" | "isdecimal" => {
            Value::from(!text.is_empty() && text.chars().all(char::is_numeric))
        }
        "isalpha" => Value::from(!text.is_empty() && text.chars().all(char::is_alphabetic)),
        "isalnum" => Value::from(!text.is_empty() && text.chars().all(char::is_alphanumeric)),
        "isspace" => Value::from(!text.is_empty() && text.chars().all(char::is_whitespace)),
        _ => return Err(unknown()),
    })
}

fn rsplit<'t>(text: &'t str, separator: Option<&str>, most: usize) -> Result<Vec<&'t str>, Error> {
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(refuse("a text is not split at nothing".to_owned())),
        Some(separator) => text.rsplitn(most.saturating_add(1), separator).collect(),
        None => {
            let (mut rest, mut parts) = (text.trim_end(), Vec::new());
            while !rest.is_empty() && parts.len() < most {
                let start = rest
                    .rfind(char::is_whitespace)
                    .map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
                parts.push(&rest[start..]);
                rest = rest[..start].trim_end();
            }
            parts.extend((!rest.is_empty()).then_some(rest));
            parts
        }
    };
    parts.reverse();
    Ok(parts)
}

/// A text with `fill` around it, `width` characters in all.
fn padded(text: &str, name: &str, width: usize, fill: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let fills = |count: usize, fill: char| fill.to_string().repeat(count);
    match name {
        "ljust" => format!("{text}{}", fills(missing, fill)),
        "rjust" => format!("{}{text}", fills(missing, fill)),
        "zfill" => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", fills(missing, '0'))
        }
        // CPython puts the odd one to the left where the width is odd.
        _ => {
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", fills(left, fill), fills(missing - left, fill))
        }
    }
}
