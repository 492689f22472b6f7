//! How a published number stands to ours, and whether the full cache lets compressed ones be judged.

use serde::Serialize;

use super::PaperCell;
use crate::table::Cell;

/// A score outside our interval by at most this many points of the printed one is close.
pub(crate) const CLOSE_POINTS: f64 = 1.0;

/// An interval wider than this many points contradicts too little to reproduce anything. The widest that 200 rows of a
/// metric between 0 and 1 can give is 14; 2 rows give 84 and more.
pub(crate) const WIDEST: f64 = 15.0;

/// How a published number stands to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Theirs lies inside our interval.
    Reproduced,
    /// Within one point of ours.
    Close,
    /// Neither.
    Off,
    /// It would count as reproduced or close, but the full cache does not agree in this column: nothing is claimed.
    Gated,
    /// What was measured can bear no verdict.
    Unproven,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reproduced => "reproduced",
            Self::Close => "close",
            Self::Off => "off",
            Self::Gated => "gated",
            Self::Unproven => "unproven",
        })
    }
}

/// Judges a printed score against ours.
pub(crate) fn verdict(theirs: f64, ours: &Cell) -> Verdict {
    match (ours.low, ours.high) {
        (Some(low), Some(high)) if low <= theirs && theirs <= high => Verdict::Reproduced,
        _ if (theirs - ours.score).abs() <= CLOSE_POINTS => Verdict::Close,
        _ => Verdict::Off,
    }
}

/// Whether the full cache agrees with the paper in a column, so that compressed cells there may be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// The full cache is reproduced or close.
    Open,
    /// The full cache is off.
    Closed,
    /// The paper prints a full-cache number, but ours is not measured or bears no verdict.
    Unproven,
    /// The paper prints no full-cache number here.
    NotPrinted,
}

/// The gate of one column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnGate {
    /// The column.
    pub column: String,
    /// Its gate.
    pub gate: Gate,
}

/// The gate of a column: what its full-cache cells say.
pub(super) fn gate(column: &str, cells: &[PaperCell]) -> Gate {
    let full = || {
        cells.iter().filter(|cell| cell.column == column && cell.budget.is_none() && cell.theirs.is_some())
    };
    let agrees = |cell: &PaperCell| matches!(cell.verdict, Some(Verdict::Reproduced | Verdict::Close));
    if full().next().is_none() {
        Gate::NotPrinted
    } else if full().any(|cell| cell.verdict == Some(Verdict::Off)) {
        Gate::Closed
    } else if full().all(agrees) {
        Gate::Open
    } else {
        Gate::Unproven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(low: f64, score: f64, high: f64) -> Cell {
        Cell { score, low: Some(low), high: Some(high), n: 200, contexts: 200 }
    }

    #[test]
    fn verdicts_at_their_borders() {
        assert_eq!(verdict(43.0, &ours(43.0, 45.0, 47.0)), Verdict::Reproduced);
        assert_eq!(verdict(42.9, &ours(43.0, 43.5, 44.0)), Verdict::Close);
        assert_eq!(verdict(42.0, &ours(43.0, 45.0, 47.0)), Verdict::Off);
        let alone = Cell { score: 45.0, low: None, high: None, n: 1, contexts: 1 };
        assert_eq!(verdict(46.0, &alone), Verdict::Close);
        assert_eq!(verdict(46.1, &alone), Verdict::Off);
    }
}
