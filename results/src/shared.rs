//! A text that many records have: held once, however many.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An immutable text whose copies share its memory. On disk it is a plain string.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedText(Arc<str>);

impl SharedText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for SharedText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for SharedText {
    fn borrow(&self) -> &str {
        self
    }
}

impl From<&str> for SharedText {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for SharedText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl PartialEq<str> for SharedText {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for SharedText {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl PartialEq<String> for SharedText {
    fn eq(&self, other: &String) -> bool {
        **self == **other
    }
}

impl fmt::Debug for SharedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for SharedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl Serialize for SharedText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for SharedText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// The texts met so far, for sharing those that are met again.
#[derive(Default)]
pub(crate) struct Pool(HashSet<SharedText>);

impl Pool {
    /// Makes `text` share the memory of an equal one met before, if there is one.
    pub(crate) fn share(&mut self, text: &mut SharedText) {
        match self.0.get(&**text) {
            Some(known) => *text = known.clone(),
            None => drop(self.0.insert(text.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_of_a_pool_are_one_in_memory_and_strings_on_disk() {
        let mut pool = Pool::default();
        let mut texts: Vec<SharedText> = serde_json::from_str(r#"["a", "b", "a"]"#).unwrap();
        assert!(!Arc::ptr_eq(&texts[0].0, &texts[2].0));
        texts.iter_mut().for_each(|text| pool.share(text));
        assert!(Arc::ptr_eq(&texts[0].0, &texts[2].0) && !Arc::ptr_eq(&texts[0].0, &texts[1].0));
        assert_eq!(serde_json::to_string(&texts).unwrap(), r#"["a","b","a"]"#);
        assert!(texts[0] < texts[1] && texts[0] == "a");
    }
}
