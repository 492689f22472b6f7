//! Python text and number primitives that the official scoring scripts rely on.
//!
//! Each function gives what CPython 3.11 (Unicode 14) gives, because a published score depends on it: the white space
//! of `str.split`, the word characters of `re`, the two rounding rules, numpy's summation order, `difflib`, `str.format`, and a
//! parser for Python literals (which never evaluates anything).

pub(crate) mod difflib;
pub(crate) mod format;
pub mod literal;
pub mod number;
pub(crate) mod text;
