//! The history curve: averages over commits with their intervals, significant losses ringed.

use crate::curve::{Curves, Line, Panel, Point, XAxis};
use crate::scene::Picture;
use crate::{Error, Result, curve};

/// One measured average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Average {
    /// The average.
    pub y: f64,
    /// Its 95 % interval, if known.
    pub interval: Option<(f64, f64)>,
    /// A significant loss against the commit before.
    pub loss: bool,
}

/// Averages over commits.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryCurves {
    /// What it shows.
    pub title: String,
    /// Configuration, branch; may be empty.
    pub subtitle: String,
    /// What y means, e.g. `Average score`.
    pub y_label: String,
    /// Commits, oldest first; shown by their first seven characters.
    pub commits: Vec<String>,
    /// At least one, e.g. one a budget.
    pub panels: Vec<HistoryPanel>,
}

/// Methods that stand in one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryPanel {
    /// e.g. `Budget 128`; may be empty for a single panel.
    pub title: String,
    /// A method's name and its averages, one a commit; `None` where it was not measured.
    pub lines: Vec<(String, Vec<Option<Average>>)>,
}

/// Draws the history.
///
/// # Errors
/// [`Error::Shape`] if a line has not one entry a commit.
pub fn draw(history: &HistoryCurves) -> Result<Picture> {
    let mut panels = Vec::new();
    for panel in &history.panels {
        let mut lines = Vec::new();
        for (label, marks) in &panel.lines {
            if marks.len() != history.commits.len() {
                let (found, wanted) = (marks.len(), history.commits.len());
                let what = format!("`{label}` has {found} entries for {wanted} commits");
                return Err(Error::shape("a history", what));
            }
            let points = marks.iter().enumerate().filter_map(|(index, mark)| {
                mark.map(|m| Point { x: index as f64, y: m.y, interval: m.interval, flagged: m.loss })
            });
            lines.push(Line { label: label.clone(), points: points.collect(), reference: false });
        }
        panels.push(Panel { title: panel.title.clone(), lines });
    }
    curve::draw(&Curves {
        title: history.title.clone(),
        subtitle: history.subtitle.clone(),
        x: XAxis::Commit,
        y_label: history.y_label.clone(),
        same_scale: false,
        names: history.commits.iter().map(|id| id.chars().take(7).collect()).collect(),
        panels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_shortened_and_losses_ringed_with_their_value() {
        let mark = |y, loss| Some(Average { y, interval: Some((y - 1.0, y + 1.0)), loss });
        let mut history = HistoryCurves {
            title: "History".into(),
            subtitle: String::new(),
            y_label: "Average".into(),
            commits: ["0123456789abcdef", "fedcba9876543210", "a"].map(String::from).to_vec(),
            panels: vec![HistoryPanel {
                title: String::new(),
                lines: vec![("snapkv".into(), vec![mark(40.0, false), None, mark(31.5, true)])],
            }],
        };
        let svg = draw(&history).unwrap().svg().unwrap();
        assert!(svg.contains("\n0123456\n") && !svg.contains("01234567"));
        assert!(svg.contains("\n31.5\n") && !svg.contains("\n40.0\n"));
        history.commits.pop();
        assert!(draw(&history).unwrap_err().to_string().contains("3 entries for 2 commits"));
    }
}
