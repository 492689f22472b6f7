//! The budget of a variant as runs store it: a number of entries, or a share of what is compressed.
//!
//! In JSON and in text a share is told by its decimal point: `128` are entries, `0.5` and `1.0` are shares.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// KV entries per KV head, averaged over heads and layers, the observation window included. Numbers of entries come before
/// shares, each ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Budget {
    /// So many of every prompt.
    Entries(u32),
    /// A share of what is compressed of every prompt.
    Share(Share),
}

impl Budget {
    /// What follows a method's name: `/128`, `@0.5`.
    pub fn suffix(self) -> String {
        match self {
            Self::Entries(entries) => format!("/{entries}"),
            Self::Share(share) => format!("@{share}"),
        }
    }

    /// What a picture or a sentence calls it: `budget 128`, `share 0.5`.
    pub fn title(self) -> String {
        match self {
            Self::Entries(entries) => format!("budget {entries}"),
            Self::Share(share) => format!("share {share}"),
        }
    }

    /// The share kept, where it is one.
    pub fn share(self) -> Option<Share> {
        match self {
            Self::Entries(_) => None,
            Self::Share(share) => Some(share),
        }
    }

    /// Its place on an axis: entries, or the share.
    pub fn value(self) -> f64 {
        match self {
            Self::Entries(entries) => f64::from(entries),
            Self::Share(share) => share.value(),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(entries) => entries.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("budget `{text}`");
        if text.contains('.') {
            text.parse().ok().and_then(Share::of).map(Self::Share).ok_or_else(bad)
        } else {
            text.parse().map(Self::Entries).map_err(|_| bad())
        }
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Entries(entries) => entries.serialize(serializer),
            Self::Share(share) => share.value().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Budget;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of entries, or with a decimal point a share of up to six decimals")
            }

            fn visit_u64<E: Error>(self, entries: u64) -> Result<Budget, E> {
                let fits = u32::try_from(entries).map(Budget::Entries);
                fits.map_err(|_| E::invalid_value(Unexpected::Unsigned(entries), &self))
            }

            fn visit_f64<E: Error>(self, share: f64) -> Result<Budget, E> {
                let fits = Share::of(share).map(Budget::Share);
                fits.ok_or_else(|| E::invalid_value(Unexpected::Float(share), &self))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// A share that is kept, above 0 and at most 1, held in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    millionths: u32,
}

const WHOLE: u32 = 1_000_000;

impl Share {
    /// The share of so many millionths; none above 1, and none of nothing.
    pub fn of_millionths(millionths: u32) -> Option<Self> {
        (1..=WHOLE).contains(&millionths).then_some(Self { millionths })
    }

    /// A share of up to six decimals.
    fn of(share: f64) -> Option<Self> {
        let millionths = share * f64::from(WHOLE);
        let exact = (millionths - millionths.round()).abs() <= 1e-6;
        (exact && (1.0..=f64::from(WHOLE)).contains(&millionths.round()))
            .then_some(Self { millionths: millionths.round() as u32 })
    }

    /// As a number, above 0 and at most 1.
    pub fn value(self) -> f64 {
        f64::from(self.millionths) / f64::from(WHOLE)
    }

    /// What is removed, as text: `0.75` where a quarter is kept.
    pub fn removed(self) -> String {
        (f64::from(WHOLE - self.millionths) / f64::from(WHOLE)).to_string()
    }
}

impl fmt::Display for Share {
    /// As few decimals as say it, at least one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millionths == WHOLE { f.write_str("1.0") } else { self.value().fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_the_number_they_were_and_shares_have_a_point() {
        for (text, shown) in
            [("128", "/128"), ("0.5", "@0.5"), ("0.125", "@0.125"), ("1.0", "@1.0"), ("1", "/1")]
        {
            let budget: Budget = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&budget).unwrap(), text);
            assert_eq!((budget.suffix().as_str(), budget.to_string().parse()), (shown, Ok(budget)));
        }
        for bad in ["0.0", "1.5", "-1", "-0.5", "0.1234567", "4294967296", "\"64\"", "null"] {
            assert!(serde_json::from_str::<Budget>(bad).is_err(), "{bad}");
        }
        let share = |text: &str| text.parse::<Budget>().unwrap().share().unwrap();
        assert_eq!(
            [share("0.9").removed(), share("0.125").removed(), share("1.0").removed()],
            ["0.1", "0.875", "0"]
        );
    }

    #[test]
    fn shares_come_after_entries_and_ascend() {
        let mut budgets: Vec<Budget> =
            ["1.0", "0.5", "2048", "0.05", "64"].map(|text| text.parse().unwrap()).to_vec();
        budgets.sort_unstable();
        assert_eq!(
            budgets.iter().map(Budget::to_string).collect::<Vec<_>>(),
            ["64", "2048", "0.05", "0.5", "1.0"]
        );
    }
}
