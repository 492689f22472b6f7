//! The header: metadata, and where each tensor is.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use candle_core::quantized::GgmlDType;

use super::kind;
use crate::{
    error::{EngineError, Result},
    source::GGUF_MAGIC,
};

/// Tensors, or entries of metadata, of a file at most: models have some hundreds of each.
const MOST_ENTRIES: u64 = 1 << 16;
/// Lists within lists.
const DEEPEST: usize = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
/// What every type's blocks are aligned to in memory, as the file is mapped at a page.
const LEAST_ALIGNMENT: u64 = 8;

/// The header of a file that was checked to be whole.
#[derive(Debug)]
pub(in crate::model) struct Header<'a> {
    path: PathBuf,
    metadata: BTreeMap<&'a str, Value<'a>>,
    tensors: BTreeMap<&'a str, TensorInfo>,
    /// The bytes before the tensors' data.
    pub(super) bytes: &'a [u8],
}

/// Where a tensor is, and what it holds.
#[derive(Debug)]
pub(super) struct TensorInfo {
    pub(super) kind: GgmlDType,
    /// Outermost first, as the hub's shapes; the file has it the other way round.
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(super) place: Range<usize>,
}

/// A value of the metadata.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    List(List<'a>),
}

/// A list, which is read where it lies: making values of a hostile one would take many times the file's size.
#[derive(Clone, Copy, Debug, PartialEq)]
struct List<'a> {
    element: u32,
    len: usize,
    bytes: &'a [u8],
}

impl Value<'_> {
    fn describe(&self) -> String {
        match self {
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) => format!("`{text:.100}`"),
            Self::List(list) => format!("a list of {}", list.len),
        }
    }
}

/// Bytes that an element of a list takes at least, by the type's number.
fn least_size(element: u32) -> Option<u64> {
    Some(match element {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => 12,
        _ => return None,
    })
}

/// Reads from the front of bytes.
struct Cursor<'a> {
    whole: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        (self.whole.len() - self.at) as u64
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        if len > self.left() {
            return Err(format!("{len} bytes are announced at byte {}, {} are left", self.at, self.left()));
        }
        let start = self.at;
        self.at += len as usize;
        Ok(&self.whole[start..self.at])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let (at, len) = (self.at, self.u64()?);
        std::str::from_utf8(self.take(len)?).map_err(|_| format!("the text at byte {at} is not UTF-8"))
    }

    /// A count of things that take `least` bytes each.
    fn count(&mut self, of: &str, least: u64) -> Result<u64, String> {
        let count = self.u64()?;
        if count.saturating_mul(least) > self.left() {
            return Err(format!("{count} {of} are announced, {} bytes are left", self.left()));
        }
        Ok(count)
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value<'a>, String> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>()?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => Value::List(self.list(depth)?),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("there is no type {other} of metadata (byte {})", self.at)),
        })
    }

    fn list(&mut self, depth: usize) -> Result<List<'a>, String> {
        if depth == DEEPEST {
            return Err(format!("lists are nested more than {DEEPEST} deep"));
        }
        let element = self.u32()?;
        let least = least_size(element)
            .ok_or_else(|| format!("there is no type {element} of metadata (byte {})", self.at))?;
        let len = self.count("elements of a list", least)?;
        let start = self.at;
        match element {
            8 | 9 => {
                for _ in 0..len {
                    self.value(element, depth + 1)?;
                }
            }
            _ => drop(self.take(len * least)?),
        }
        Ok(List { element, len: len as usize, bytes: &self.whole[start..self.at] })
    }
}

impl<'a> Header<'a> {
    /// Reads the header of a file, and checks that every tensor lies within the file.
    ///
    /// # Errors
    /// A file that is no GGUF, or not a whole one; a tensor of a type that is not read.
    pub(in crate::model) fn read(bytes: &'a [u8], path: &Path) -> Result<Self> {
        let corrupt = |reason: String| EngineError::CorruptGguf {
            path: path.to_path_buf(),
            reason,
            bytes: bytes.len(),
        };
        let mut cursor = Cursor { whole: bytes, at: 0 };
        let counts = |cursor: &mut Cursor<'_>| -> Result<(u64, u64), String> {
            if cursor.take(GGUF_MAGIC.len() as u64)? != GGUF_MAGIC {
                return Err("it does not begin with `GGUF`".to_owned());
            }
            match cursor.u32()? {
                2 | 3 => {}
                other => return Err(format!("it has version {other}, read are 2 and 3, little-endian")),
            }
            // Name, dimensions, type and offset; name, type and value.
            let tensors = cursor.count("tensors", 8 + 4 + 4 + 8)?;
            let entries = cursor.count("entries of metadata", 8 + 4 + 1)?;
            match tensors.max(entries) {
                most if most > MOST_ENTRIES => {
                    Err(format!("{most} tensors or entries of metadata are too many"))
                }
                _ => Ok((tensors, entries)),
            }
        };
        let (tensors, entries) = counts(&mut cursor).map_err(corrupt)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let entry = |cursor: &mut Cursor<'a>| {
                let key = cursor.text()?;
                let kind = cursor.u32()?;
                let value =
                    cursor.value(kind, 0).map_err(|reason| format!("metadata `{key:.100}`: {reason}"))?;
                Ok((key, value))
            };
            let (key, value) = entry(&mut cursor).map_err(corrupt)?;
            if metadata.insert(key, value).is_some() {
                return Err(corrupt(format!("metadata `{key:.100}` is there twice")));
            }
        }
        let mut header = Self { path: path.to_path_buf(), metadata, tensors: BTreeMap::new(), bytes: &[] };
        let raw = (0..tensors).map(|_| RawTensor::read(&mut cursor)).collect::<Result<Vec<_>, _>>();
        let raw = raw.map_err(corrupt)?;
        let alignment = header.unsigned("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || !(LEAST_ALIGNMENT..=1 << 20).contains(&alignment) {
            return Err(header.wrong("general.alignment", "a power of two from 8 to 1048576"));
        }
        let start = (cursor.at as u64).next_multiple_of(alignment);
        header.bytes = &bytes[..cursor.at];
        for tensor in raw {
            let name = tensor.name;
            let kind = kind::of(tensor.kind).map_err(|found| EngineError::UnreadTensorType {
                path: path.to_path_buf(),
                tensor: name.to_owned(),
                found,
                supported: kind::READ,
            })?;
            let info = tensor
                .place(kind, start, alignment, bytes.len() as u64)
                .map_err(|reason| corrupt(format!("tensor `{name:.100}` {reason}")))?;
            if header.tensors.insert(name, info).is_some() {
                return Err(corrupt(format!("tensor `{name:.100}` is there twice")));
            }
        }
        Ok(header)
    }

    pub(in crate::model) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    pub(super) fn tensor_names(&self) -> impl Iterator<Item = &'a str> {
        self.tensors.keys().copied()
    }

    /// Refuses an entry, or its absence.
    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>) -> EngineError {
        EngineError::Metadata {
            path: self.path.clone(),
            key: key.to_owned(),
            found: self.metadata.get(key).map_or_else(|| "missing".to_owned(), Value::describe),
            expected: expected.into(),
        }
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        of: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        of(*value).map(Some).ok_or_else(|| self.wrong(key, expected))
    }

    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a whole number", |value| match value {
            Value::Unsigned(value) => Some(value),
            Value::Signed(value) => u64::try_from(value).ok(),
            _ => None,
        })
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| match value {
            Value::Float(value) => Some(value),
            Value::Unsigned(value) => Some(value as f64),
            Value::Signed(value) => Some(value as f64),
            _ => None,
        })
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }

    /// A list of texts, of which there may be `most`.
    pub(super) fn texts(&self, key: &str, most: usize) -> Result<Option<Vec<&'a str>>> {
        self.typed(key, &format!("a list of at most {most} texts"), |value| match value {
            Value::List(list) if list.element == 8 && list.len <= most => {
                let mut cursor = Cursor { whole: list.bytes, at: 0 };
                (0..list.len).map(|_| cursor.text().ok()).collect()
            }
            _ => None,
        })
    }

    /// A list of numbers, of which there may be `most`.
    pub(super) fn numbers(&self, key: &str, most: usize) -> Result<Option<Vec<f64>>> {
        self.typed(key, &format!("a list of at most {most} numbers"), |value| match value {
            Value::List(list) if list.len <= most => {
                let mut cursor = Cursor { whole: list.bytes, at: 0 };
                let number = |_| match cursor.value(list.element, DEEPEST).ok()? {
                    Value::Unsigned(value) => Some(value as f64),
                    Value::Signed(value) => Some(value as f64),
                    Value::Float(value) => Some(value),
                    _ => None,
                };
                (0..list.len).map(number).collect()
            }
            _ => None,
        })
    }

    /// Whether an entry is there and says more than nothing: 0, false, an empty text.
    pub(super) fn says(&self, key: &str) -> bool {
        self.metadata.get(key).is_some_and(|value| match value {
            Value::Unsigned(value) => *value != 0,
            Value::Signed(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Bool(value) => *value,
            Value::Text(text) => !text.is_empty(),
            Value::List(list) => list.len > 0,
        })
    }

    /// Whether an entry is a list.
    pub(super) fn is_list(&self, key: &str) -> bool {
        matches!(self.metadata.get(key), Some(Value::List(_)))
    }
}

/// A tensor as the file describes it.
struct RawTensor<'a> {
    name: &'a str,
    /// Innermost first.
    dimensions: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl<'a> RawTensor<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, String> {
        let name = cursor.text()?;
        let dimensions = match cursor.u32()? {
            count @ 1..=4 => (0..count).map(|_| cursor.u64()).collect::<Result<_, _>>()?,
            count => return Err(format!("tensor `{name:.100}` has {count} dimensions")),
        };
        Ok(Self { name, dimensions, kind: cursor.u32()?, offset: cursor.u64()? })
    }

    fn place(self, kind: GgmlDType, start: u64, alignment: u64, file: u64) -> Result<TensorInfo, String> {
        let Self { dimensions, offset, .. } = self;
        let block = kind.block_size() as u64;
        if dimensions.contains(&0) || !dimensions[0].is_multiple_of(block) {
            return Err(format!("has dimensions {dimensions:?}, whose rows are no whole blocks of {block}"));
        }
        let elements = dimensions.iter().try_fold(1_u64, |product, &one| product.checked_mul(one));
        let bytes = elements.and_then(|elements| (elements / block).checked_mul(kind.type_size() as u64));
        let first = start.checked_add(offset);
        let end = first.zip(bytes).and_then(|(first, bytes)| first.checked_add(bytes));
        match (first, end) {
            (Some(first), Some(end)) if end <= file && offset.is_multiple_of(alignment) => Ok(TensorInfo {
                kind,
                shape: dimensions.iter().rev().map(|&one| one as usize).collect(),
                place: first as usize..end as usize,
            }),
            (Some(_), Some(end)) if end <= file => {
                Err(format!("is at offset {offset}, which is no multiple of {alignment}"))
            }
            _ => Err(format!(
                "of dimensions {dimensions:?} and type {kind:?} at offset {offset} ends outside the file"
            )),
        }
    }
}
