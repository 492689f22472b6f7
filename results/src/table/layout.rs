//! Which columns and means a table has: the caller's to say.

/// One data set's column.
#[derive(Clone, Debug)]
pub struct Column {
    /// What stands above it.
    pub title: String,
    /// The data set.
    pub dataset: String,
    /// Only the examples of this length bucket; none for all.
    pub bucket: Option<String>,
    /// The printed number, percent, from the rows' scores (0 to 1, in the order of the rows).
    pub percent: fn(&[f64]) -> f64,
}

impl Column {
    /// Names the column in means, and what is resampled together: the data set and its bucket, whatever the title.
    pub fn key(&self) -> String {
        self.bucket
            .as_ref()
            .map_or_else(|| self.dataset.clone(), |bucket| format!("{} {bucket}", self.dataset))
    }
}

/// A mean of columns.
#[derive(Clone, Debug)]
pub struct Mean {
    /// What stands above it.
    pub title: String,
    /// Columns by [`Column::key`], with weights that sum to 1.
    pub parts: Vec<(String, f64)>,
    /// The printed number from (weight, percent before rounding), in the order of `parts`.
    pub percent: fn(&[(f64, f64)]) -> f64,
}

/// What the caller knows about the suite.
#[derive(Clone, Debug)]
pub struct TableLayout {
    /// What the table shows; model, protocol and split are added.
    pub title: String,
    /// The columns, in order. Columns without any record are left out.
    pub columns: Vec<Column>,
    /// The means of categories; where columns are missing, they are over those that are there and say so.
    pub categories: Vec<Mean>,
    /// The overall average. It exists only where all its columns do; else a plain mean of the columns that are there
    /// takes its place under another name.
    pub average: Mean,
    /// The protocol's repository names a share by what is removed, not by what is kept: both are shown.
    pub counts_removed: bool,
}

impl TableLayout {
    /// The weight of every column of `present` in the overall average; equal weights where one of its columns is missing,
    /// and then the second value is false.
    pub(crate) fn weights(&self, present: &[&Column]) -> (Vec<f64>, bool) {
        let keys: Vec<String> = present.iter().map(|column| column.key()).collect();
        if self.average.parts.iter().all(|(key, _)| keys.contains(key)) {
            let weight =
                |key: &String| self.average.parts.iter().find(|(part, _)| part == key).map_or(0.0, |p| p.1);
            (keys.iter().map(weight).collect(), true)
        } else {
            (vec![1.0 / present.len() as f64; present.len()], false)
        }
    }
}
