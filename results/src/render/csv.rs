//! One line a row, comma-separated, unrounded.

use crate::table::ScoreTable;
use crate::text::visible;

impl ScoreTable {
    pub(super) fn csv(&self) -> std::result::Result<String, ::csv::Error> {
        let mut titles: Vec<String> = [
            "group",
            "method",
            "params",
            "budget",
            "granularity",
            "n",
            "entries_mean",
            "entries_max",
            "entries_nominal",
            "bytes",
            "share_held",
        ]
        .map(str::to_owned)
        .to_vec();
        for scope in &self.columns {
            let title = visible(&scope.title);
            titles.extend(["", "_low", "_high", "_n"].map(|suffix| format!("{title}{suffix}")));
        }
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        let optional = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        writer.write_record(&titles)?;
        for row in &self.rows {
            let mut cells = vec![
                visible(&row.group),
                visible(&row.method),
                row.params.clone(),
                row.budget.map(|budget| budget.to_string()).unwrap_or_default(),
                row.granularity.clone(),
                row.n.to_string(),
                row.entries_mean.to_string(),
                row.entries_max.to_string(),
                row.entries_nominal.to_string(),
                row.bytes.to_string(),
                row.share_held.to_string(),
            ];
            for cell in &row.cells {
                cells.push(optional(cell.map(|cell| cell.score)));
                cells.push(optional(cell.and_then(|cell| cell.low)));
                cells.push(optional(cell.and_then(|cell| cell.high)));
                cells.push(cell.map(|cell| cell.n.to_string()).unwrap_or_default());
            }
            writer.write_record(&cells)?;
        }
        let bytes = writer.into_inner().map_err(|error| error.into_error())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
