//! A configuration's averages over commits.

use std::path::Path;

use serde::Serialize;

use super::BaselineStore;
use crate::Result;
use crate::budget::Budget;
use crate::git::git;
use crate::json::versioned;
use crate::merge::Merged;
use crate::stats::Bootstrap;
use crate::table::{ScoreTable, TableLayout};
use crate::text::excerpt;
use crate::text_table::TextTable;

impl BaselineStore {
    /// The averages of one configuration over the commits that have it, oldest first.
    ///
    /// # Errors
    /// No run of the configuration, a damaged file, git that cannot be started.
    pub fn history(
        &self,
        repository: &Path,
        configuration: &str,
        layout: &TableLayout,
        bootstrap: &Bootstrap,
    ) -> Result<History> {
        let mut points = Vec::new();
        for key in self.list()?.into_iter().filter(|key| key.configuration == configuration) {
            let merged = Merged::of(&[self.read(&key)?], false)?;
            let table = ScoreTable::new(&merged, layout, bootstrap)?;
            // Seconds since 1970, the date, the subject; a commit of another clone has none and comes last.
            let shown =
                git(repository, &["log", "-1", "--format=%ct%x09%cs%x09%s", "--end-of-options", &key.commit]);
            let shown = shown.unwrap_or_default();
            let mut words = shown.trim_end().splitn(3, '\t');
            let time: Option<i64> = words.next().and_then(|time| time.parse().ok());
            let date = words.next().unwrap_or("unknown").to_owned();
            let subject = words.next().unwrap_or_default().to_owned();
            points
                .push((time.unwrap_or(i64::MAX), HistoryPoint { commit: key.commit, date, subject, table }));
        }
        if points.is_empty() {
            return Err(self.none_of(configuration.to_owned())?);
        }
        points.sort_by(|a, b| (a.0, &a.1.commit).cmp(&(b.0, &b.1.commit)));
        Ok(History {
            configuration: configuration.to_owned(),
            points: points.into_iter().map(|(_, point)| point).collect(),
        })
    }
}

/// One commit of a history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryPoint {
    /// Full hash.
    pub commit: String,
    /// Day of the commit, or `unknown`.
    pub date: String,
    /// First line of its message. Untrusted.
    pub subject: String,
    /// Its table.
    pub table: ScoreTable,
}

/// A configuration's averages over commits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct History {
    /// The configuration's hash.
    pub configuration: String,
    /// Oldest first.
    pub points: Vec<HistoryPoint>,
}

impl History {
    /// Method and budget of every variant in any point, in table order.
    pub fn variants(&self) -> Vec<(String, Option<Budget>)> {
        let mut all: Vec<(String, Option<Budget>)> = Vec::new();
        for row in self.points.iter().flat_map(|point| &point.table.rows) {
            let name = (row.method.clone(), row.budget);
            if !all.contains(&name) {
                all.push(name);
            }
        }
        all
    }

    /// The last column (the average) of a variant in a point.
    pub fn average(point: &HistoryPoint, (method, budget): &(String, Option<Budget>)) -> Option<crate::Cell> {
        let row = point.table.rows.iter().find(|row| row.method == *method && row.budget == *budget)?;
        row.cells.last().copied().flatten()
    }

    /// Writes everything as versioned JSON.
    ///
    /// # Errors
    /// Never for a history made by [`BaselineStore::history`].
    pub fn to_json(&self) -> Result<String> {
        versioned("kvsweep-history", 1, "history", self)
    }

    /// Writes one line a commit, one column a variant.
    pub fn text(&self) -> String {
        let variants = self.variants();
        let names: Vec<String> = variants
            .iter()
            .map(|(method, budget)| method.clone() + &budget.map(Budget::suffix).unwrap_or_default())
            .collect();
        let head: Vec<&str> = ["commit", "date"]
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .chain(["subject"])
            .collect();
        let rows = self.points.iter().map(|point| {
            let mut row = vec![point.commit.chars().take(12).collect(), point.date.clone()];
            row.extend(variants.iter().map(|variant| {
                let cell = Self::average(point, variant);
                cell.map_or_else(|| "-".to_owned(), |cell| format!("{:.2}", cell.score))
            }));
            row.push(excerpt(&point.subject, 60));
            row
        });
        TextTable::of_rows(&head, &[0], &rows.collect::<Vec<_>>()).text()
    }
}
