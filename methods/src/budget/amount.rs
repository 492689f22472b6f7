//! How much a variant may keep: a number of entries, or a share of the entries that it compresses.

use std::fmt;
use std::str::FromStr;

/// KV entries per KV head (per query head where the granularity stores those), averaged over heads and layers, the
/// observation window included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Budget {
    /// So many, whatever is compressed.
    Entries(usize),
    /// A share of what is compressed.
    Share(Share),
}

impl Budget {
    /// The entries that it allows where `len` are compressed; a number of entries may be more than there are.
    #[must_use]
    pub fn of(self, len: usize) -> usize {
        match self {
            Self::Entries(entries) => entries,
            Self::Share(share) => share.of(len),
        }
    }
}

impl fmt::Display for Budget {
    /// `128`, or `0.5`: a share has a decimal point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(entries) => entries.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

/// A share that is kept, above 0 and at most 1, of up to six decimals.
///
/// ```
/// use kvsweep_methods::budget::Share;
///
/// let half: Share = "0.5".parse()?;
/// assert_eq!((half.of(401), half.to_string().as_str()), (200, "0.5"));
/// assert!("1.5".parse::<Share>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    millionths: u32,
}

const WHOLE: u32 = 1_000_000;

impl Share {
    /// The share in millionths, 1 to 1,000,000.
    #[must_use]
    pub fn millionths(self) -> u32 {
        self.millionths
    }

    /// The entries kept of `len`: `int(len * (1 - r))`, where `r` is the share removed, in double precision as kvpress
    /// computes it, so that both keep the same number: 0.1 of 1,000 are 99. At least one.
    #[must_use]
    pub fn of(self, len: usize) -> usize {
        let removed = f64::from(WHOLE - self.millionths) / f64::from(WHOLE);
        ((len as f64 * (1.0 - removed)) as usize).max(1).min(len)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
        if !(share > 0.0 && share <= 1.0) {
            return Err(format!("`{text}` is not above 0 and at most 1"));
        }
        let millionths = (share * f64::from(WHOLE)).round();
        if (share * f64::from(WHOLE) - millionths).abs() > 1e-6 || millionths < 1.0 {
            return Err(format!("`{text}` has more than six decimals"));
        }
        Ok(Self { millionths: millionths as u32 })
    }
}

impl fmt::Display for Share {
    /// As few decimals as say it, at least one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = f64::from(self.millionths) / f64::from(WHOLE);
        if self.millionths == WHOLE { f.write_str("1.0") } else { write!(f, "{share}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(text: &str) -> Share {
        text.parse().unwrap()
    }

    /// `int(k_len * (1 - compression_ratio))` of Python 3, with the ratio as one types it.
    #[test]
    fn as_many_are_kept_as_kvpress_keeps() {
        for (kept, len, entries) in [
            ("0.1", 1000, 99),
            ("0.1", 999, 99),
            ("0.1", 1011, 101),
            ("0.2", 1000, 199),
            ("0.3", 1000, 300),
            ("0.05", 1000, 50),
            ("0.5", 401, 200),
            ("0.25", 4096, 1024),
            ("0.125", 4096, 512),
            ("0.75", 10, 7),
            ("1", 1000, 1000),
            ("0.05", 7, 1),
            ("0.000001", 1, 1),
        ] {
            assert_eq!(share(kept).of(len), entries, "{kept} of {len}");
        }
        assert_eq!((Budget::Entries(64).of(50), Budget::Share(share("0.5")).of(50)), (64, 25));
    }

    #[test]
    fn shares_are_decimals_above_0_and_at_most_1() {
        for (text, shown) in
            [("0.5", "0.5"), (".50", "0.5"), ("1", "1.0"), ("1e-6", "0.000001"), ("0.333333", "0.333333")]
        {
            assert_eq!(share(text).to_string(), shown, "{text}");
        }
        assert_eq!(share("0.1"), share("0.100"));
        let fail = |text: &str| text.parse::<Share>().unwrap_err();
        for text in ["0", "-0.5", "1.01", "NaN", "inf"] {
            assert_eq!(fail(text), format!("`{text}` is not above 0 and at most 1"));
        }
        assert_eq!(fail("half"), "`half` is not a number");
        assert_eq!(fail("0.3333333"), "`0.3333333` has more than six decimals");
    }
}
