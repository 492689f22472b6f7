//! Heatmaps: score by context length (to the right) and needle depth or task (downward), one map or a grid of small
//! multiples, methods by budgets, on one shared colour scale.

use crate::axis::{fixed, number, stride, ticks};
use crate::color::{MISSING, MUTED, PAPER, RULE, mix, sequential, text_on};
use crate::scene::{Heading, Picture, Style};
use crate::{Error, Result, font};

/// What stands one below the other in a map.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// Depths of the needle in percent of the context, ascending (0 on top).
    Depths(Vec<f64>),
    /// Tasks, by name.
    Tasks(Vec<String>),
}

impl Rows {
    fn labels(&self) -> Vec<String> {
        match self {
            Self::Depths(depths) => depths.iter().map(|depth| percent(*depth)).collect(),
            Self::Tasks(names) => names.clone(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Depths(depths) => depths.len(),
            Self::Tasks(names) => names.len(),
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Depths(_) => "Needle depth ↓",
            Self::Tasks(_) => "Task ↓",
        }
    }

    /// Names are read one by one, depths by the shape that they make.
    fn least_height(&self) -> f64 {
        match self {
            Self::Depths(_) => 3.0,
            Self::Tasks(_) => 13.0,
        }
    }
}

/// One map: a (method, budget).
#[derive(Clone, Debug, PartialEq)]
pub struct Heatmap {
    /// What it shows, e.g. `snapkv, budget 128`; the average is added to it.
    pub title: String,
    /// Model, protocol, split; may be empty.
    pub subtitle: String,
    /// Context lengths in tokens, ascending, one a column.
    pub lengths: Vec<usize>,
    /// What its rows are.
    pub rows: Rows,
    /// Scores `[row][length]`; `None` where nothing was measured.
    pub values: Vec<Vec<Option<f64>>>,
    /// Scores at the dark and the light end of the colour scale, e.g. `(0.0, 100.0)`.
    pub range: (f64, f64),
}

impl Heatmap {
    /// Mean of the measured cells.
    pub fn average(&self) -> Option<f64> {
        let (sum, count) =
            self.values.iter().flatten().flatten().fold((0.0, 0_usize), |(s, n), v| (s + v, n + 1));
        (count > 0).then(|| sum / count as f64)
    }

    fn check(&self) -> Result<()> {
        let bad = |what| Err(Error::shape("a heatmap", what));
        let (rows, columns) = (self.rows.len(), self.lengths.len());
        if rows == 0 || columns == 0 {
            return bad(format!("`{}` has {rows} rows and {columns} lengths", self.title));
        }
        if self.values.len() != rows || self.values.iter().any(|row| row.len() != columns) {
            return bad(format!("`{}` needs {rows} rows of {columns} values", self.title));
        }
        check_range(self.range, &self.title)
    }

    fn average_label(&self) -> String {
        self.average().map_or_else(|| "no values".to_owned(), |a| fixed(a, decimals(self.range) + 1))
    }
}

fn check_range((low, high): (f64, f64), title: &str) -> Result<()> {
    if low.is_finite() && high.is_finite() && low < high {
        return Ok(());
    }
    Err(Error::shape("a heatmap", format!("`{title}` has the colour range {low} to {high}")))
}

fn decimals((low, high): (f64, f64)) -> usize {
    match high - low {
        span if span > 20.0 => 0,
        span if span > 2.0 => 1,
        _ => 2,
    }
}

pub(crate) fn share(value: f64, (low, high): (f64, f64)) -> f64 {
    (value - low) / (high - low)
}

const MARGIN: f64 = 28.0;
const LABEL: Style = Style::new(11.5).color(MUTED);

/// The cells of `map` in a box; prints values where they fit. Returns the cell size.
fn cells(card: &mut Picture, map: &Heatmap, (x, y): (f64, f64), (cell_w, cell_h): (f64, f64), values: bool) {
    let em = (cell_h * 0.42).clamp(9.0, 12.0);
    let style = Style::new(em).middle();
    let places = decimals(map.range);
    let widest = map.values.iter().flatten().flatten().map(|v| style.width(&fixed(*v, places)));
    let printed = values && widest.fold(0.0, f64::max) + 8.0 <= cell_w && em + 5.0 <= cell_h;
    // Hairlines between cells only where they do not eat the cell.
    // Smaller cells overlap by a hair, so that a scaled SVG shows no seams; a frame covers the last ones.
    let gap = if cell_w.min(cell_h) >= 14.0 { 1.0 } else { -0.25 };
    for (row, scores) in map.values.iter().enumerate() {
        for (column, score) in scores.iter().enumerate() {
            let (left, top) = (x + column as f64 * cell_w, y + row as f64 * cell_h);
            let Some(score) = score else {
                card.rect(left, top, cell_w - gap, cell_h - gap, MISSING);
                if cell_w.min(cell_h) >= 14.0 {
                    let (cx, cy) = (left + cell_w / 2.0, top + cell_h / 2.0);
                    card.line(vec![(cx - 3.0, cy), (cx + 3.0, cy)], 1.0, RULE);
                }
                continue;
            };
            let fill = sequential(share(*score, map.range));
            card.rect(left, top, cell_w - gap, cell_h - gap, fill);
            if printed {
                let baseline = top + (cell_h - gap) / 2.0 + em * 0.36;
                card.text(
                    left + (cell_w - gap) / 2.0,
                    baseline,
                    fixed(*score, places),
                    style.color(text_on(fill)),
                );
            }
        }
    }
}

pub(crate) fn percent(depth: f64) -> String {
    format!("{}%", number(depth, if depth.fract().abs() < 1e-9 { 1.0 } else { 0.1 }))
}

fn row_labels(card: &mut Picture, labels: &[String], x: f64, y: f64, cell_h: f64, style: Style) {
    let every = stride(&[style.em], cell_h, 3.0);
    for (row, label) in labels.iter().enumerate().filter(|(row, _)| row % every == 0) {
        card.text(x, y + (row as f64 + 0.5) * cell_h + style.em * 0.36, label, style.end());
    }
}

fn length_labels(card: &mut Picture, lengths: &[usize], x: f64, y: f64, cell_w: f64, style: Style) {
    let widths: Vec<f64> = lengths.iter().map(|l| style.width(&l.to_string())).collect();
    let every = stride(&widths, cell_w, 8.0);
    for (column, length) in lengths.iter().enumerate().filter(|(column, _)| column % every == 0) {
        card.text(x + (column as f64 + 0.5) * cell_w, y, length.to_string(), style.middle());
    }
}

/// A vertical colour bar with `label` above and ticks to the right; takes 58 pixels of width.
pub(crate) fn color_bar(card: &mut Picture, (x, y): (f64, f64), height: f64, range: (f64, f64), label: &str) {
    const WIDTH: f64 = 14.0;
    // A third of the pixels: finer is not seen, and every step takes room in an SVG.
    let steps = ((height / 3.0).round() as usize).clamp(64, 128);
    for step in 0..steps {
        // Every step reaches to the end: neighbours that only touch show seams when an SVG is scaled.
        let top = (step as f64 / steps as f64 * height).floor();
        let t = 1.0 - (step as f64 + 0.5) / steps as f64;
        card.rect(x, y + top, WIDTH, height - top, sequential(t));
    }
    card.frame(x - 0.5, y - 0.5, WIDTH + 1.0, height + 1.0, 0.75, RULE);
    card.text(x, y - 10.0, label, LABEL);
    let marks = ticks(range.0, range.1, if height < 130.0 { 2 } else { 4 });
    let step = marks.get(1).map_or(1.0, |second| second - marks[0]);
    for mark in &marks {
        let at = y + height * (1.0 - share(*mark, range));
        card.line(vec![(x + WIDTH, at), (x + WIDTH + 4.0, at)], 1.0, RULE);
        card.text(x + WIDTH + 8.0, at + 4.0, number(*mark, step), LABEL);
    }
}

/// Draws one map with axes, colour bar, and the average in the title.
///
/// # Errors
/// [`Error::Shape`] if the values do not match the axes.
pub fn draw(map: &Heatmap) -> Result<Picture> {
    map.check()?;
    let (rows, columns) = (map.rows.len() as f64, map.lengths.len() as f64);
    let labels = map.rows.labels();
    let cell_w = (680.0 / columns).floor().clamp(6.0, 58.0);
    let cell_h = (380.0 / rows).floor().clamp(6.0, 34.0);
    let (plot_w, plot_h) = (cell_w * columns, cell_h * rows);
    let left = MARGIN + labels.iter().map(|label| LABEL.width(label)).fold(0.0, f64::max) + 8.0;
    let bar = left + plot_w + 24.0;
    let title = format!("{}  ·  average {}", map.title, map.average_label());
    let width = (bar + 58.0 + MARGIN).max(Heading::least_width(&title, MARGIN));
    let heading = Heading::new(width, MARGIN, &title, &map.subtitle);
    let top = MARGIN + 58.0 + heading.small_print();
    let height = top + plot_h + 46.0 + MARGIN - 8.0;
    let mut card = Picture::card(width, height, format!("heatmap: {title}"));
    card.heading(MARGIN, &heading);
    card.text(MARGIN, top - 10.0, map.rows.title(), LABEL);
    cells(&mut card, map, (left, top), (cell_w, cell_h), true);
    row_labels(&mut card, &labels, left - 8.0, top, cell_h, LABEL);
    length_labels(&mut card, &map.lengths, left, top + plot_h + 17.0, cell_w, LABEL);
    card.text(left + plot_w / 2.0, top + plot_h + 38.0, "Context length (tokens) →", LABEL.middle());
    color_bar(&mut card, (bar, top), plot_h, map.range, "Score");
    Ok(card)
}

/// A row of small multiples: one method.
#[derive(Clone, Debug, PartialEq)]
pub struct GridRow {
    /// The method.
    pub label: String,
    /// One map a column; a single map in a grid of several columns belongs to every budget (full cache).
    pub maps: Vec<Option<Heatmap>>,
}

/// Small multiples: methods by budgets. All maps share axes and range with the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// What it shows.
    pub title: String,
    /// Model, protocol, sample count; may be empty.
    pub subtitle: String,
    /// Column heads, e.g. `budget 64`.
    pub columns: Vec<String>,
    /// Methods.
    pub rows: Vec<GridRow>,
}

/// Draws a grid of maps on one shared scale, each with its average above it.
///
/// # Errors
/// [`Error::Shape`] if a row has too many maps, or axes or ranges differ between maps.
pub fn grid(grid: &Grid) -> Result<Picture> {
    let bad = |what: String| Err(Error::shape("a grid of heatmaps", what));
    let mut maps = grid.rows.iter().flat_map(|row| row.maps.iter().flatten());
    let Some(first) = maps.next() else { return bad(format!("`{}` has no map", grid.title)) };
    first.check()?;
    for map in maps {
        map.check()?;
        if (&map.lengths, &map.rows, map.range) != (&first.lengths, &first.rows, first.range) {
            return bad(format!("`{}` and `{}` differ in lengths, rows or range", first.title, map.title));
        }
    }
    if let Some(row) = grid.rows.iter().find(|row| row.maps.len() > grid.columns.len()) {
        return bad(format!(
            "`{}` has {} maps for {} columns",
            row.label,
            row.maps.len(),
            grid.columns.len()
        ));
    }

    let sheet = Sheet::of(grid, first);
    let small = LABEL.color(MUTED);
    let (map_w, map_h) = sheet.map();
    let rows = first.rows.title().to_lowercase();
    let note = format!("Context length (tokens) →  ·  {rows}  ·  average above each map");
    let bar = sheet.left(sheet.blocks) - sheet.labels - BLOCK_GAP + 26.0;
    let width = (bar + 56.0 + MARGIN)
        .max(Heading::least_width(&grid.title, MARGIN))
        .max(MARGIN + sheet.labels + small.width(&note) + MARGIN);
    let heading = Heading::new(width, MARGIN, &grid.title, &grid.subtitle);
    let top = MARGIN + 72.0 + heading.small_print();
    let plot_h = sheet.rows as f64 * (map_h + GAP.1) - GAP.1;
    let height = top + plot_h + 46.0 + MARGIN - 8.0;
    let mut card = Picture::card(width, height, format!("heatmaps: {}", grid.title));
    card.heading(MARGIN, &heading);

    for block in 0..sheet.blocks {
        for (column, label) in grid.columns.iter().enumerate() {
            let text = font::fit(label, 12.5, true, map_w + GAP.0 - 6.0);
            card.text(sheet.x(block, column), top - 26.0, text, Style::new(12.5).bold());
        }
    }
    for (index, row) in grid.rows.iter().enumerate() {
        let (block, line) = (index / sheet.rows, index % sheet.rows);
        let (left, y) = (sheet.left(block), top + line as f64 * (map_h + GAP.1));
        let name = font::fit(&row.label, NAME.em, NAME.bold, sheet.names);
        card.text(left - sheet.labels, y + map_h / 2.0 + 4.5, name, NAME);
        row_labels_sparse(&mut card, &first.rows, left - 8.0, y, sheet.cell.1, small);
        let everywhere = row.maps.len() == 1 && grid.columns.len() > 1;
        for (column, map) in row.maps.iter().enumerate() {
            let Some(map) = map else { continue };
            let x = sheet.x(block, column);
            let average = map.average_label();
            let style = Style::new(12.0).bold();
            card.text(x, y - 7.0, &average, style);
            if everywhere {
                let at = x + style.width(&average) + 8.0;
                card.text(at, y - 7.0, "whatever the budget", small);
            }
            cells(&mut card, map, (x, y), sheet.cell, sheet.cell.0 >= 30.0);
            card.frame(x - 0.5, y - 0.5, map_w + 0.5, map_h + 0.5, 0.5, mix(RULE, PAPER, 0.3));
        }
        let last = line + 1 == sheet.rows || index + 1 == grid.rows.len();
        for column in (0..grid.columns.len()).filter(|_| last) {
            let (x, below) = (sheet.x(block, column), y + map_h + 16.0);
            ends_labels(&mut card, &first.lengths, x, below, map_w, sheet.cell.0, small);
        }
    }
    card.text(sheet.left(0), top + plot_h + 38.0, note, small);
    color_bar(&mut card, (bar, top), plot_h.min(220.0), first.range, "Score");
    Ok(card)
}

const NAME: Style = Style::new(13.0).bold();
/// Between maps, across and down.
const GAP: (f64, f64) = (18.0, 32.0);
/// Between two blocks of methods.
const BLOCK_GAP: f64 = 44.0;

/// Where the maps of a grid lie. Many methods with few budgets are set in several blocks side by side, so that the
/// sheet is no ribbon.
struct Sheet {
    blocks: usize,
    rows: usize,
    columns: usize,
    cell: (f64, f64),
    grid: (f64, f64),
    names: f64,
    labels: f64,
}

impl Sheet {
    fn of(grid: &Grid, first: &Heatmap) -> Self {
        let names = grid.rows.iter().map(|row| NAME.width(&row.label)).fold(0.0, f64::max).clamp(40.0, 150.0);
        let beside = first.rows.labels().iter().map(|label| LABEL.width(label)).fold(0.0, f64::max);
        let size = (first.lengths.len() as f64, first.rows.len() as f64);
        let columns = grid.columns.len();
        let sheet = |blocks: usize| {
            let cell_w = ((980.0 / (columns * blocks) as f64 - 16.0) / size.0).floor().clamp(3.0, 40.0);
            let cell_h = (120.0 / size.1).floor().clamp(first.rows.least_height(), 22.0);
            let rows = grid.rows.len().div_ceil(blocks);
            let labels = names + 20.0 + beside + 8.0;
            Self { blocks, rows, columns, cell: (cell_w, cell_h), grid: size, names, labels }
        };
        // The page's shape that pleases: a little wider than high.
        let shape = |sheet: &Self| {
            let wide = sheet.blocks as f64 * (sheet.labels + columns as f64 * (sheet.map().0 + GAP.0));
            (wide / (sheet.rows as f64 * (sheet.map().1 + GAP.1)) / 1.25).ln().abs()
        };
        let better = |best: Self, other: Self| if shape(&other) < shape(&best) { other } else { best };
        (2..=4).filter(|blocks| grid.rows.len() > 4 * (blocks - 1)).map(sheet).fold(sheet(1), better)
    }

    /// Width and height of a map.
    fn map(&self) -> (f64, f64) {
        (self.cell.0 * self.grid.0, self.cell.1 * self.grid.1)
    }

    /// The left edge of a block's first map.
    fn left(&self, block: usize) -> f64 {
        let maps = self.columns as f64 * (self.map().0 + GAP.0) - GAP.0;
        MARGIN + self.labels + block as f64 * (self.labels + maps + BLOCK_GAP)
    }

    fn x(&self, block: usize, column: usize) -> f64 {
        self.left(block) + column as f64 * (self.map().0 + GAP.0)
    }
}

/// Every task, but of depths the first, middle and last only: a small multiple is read by its shape.
fn row_labels_sparse(card: &mut Picture, shown: &Rows, x: f64, y: f64, cell_h: f64, style: Style) {
    let labels = shown.labels();
    if matches!(shown, Rows::Tasks(_)) {
        return row_labels(card, &labels, x, y, cell_h, style);
    }
    let last = labels.len() - 1;
    let mut rows = vec![0];
    if last.is_multiple_of(2) && (last as f64) * cell_h > 50.0 {
        rows.push(last / 2);
    }
    if last > 0 && last as f64 * cell_h > 14.0 {
        rows.push(last);
    }
    for row in rows {
        let baseline = y + (row as f64 + 0.5) * cell_h + style.em * 0.36;
        card.text(x, baseline, &labels[row], style.end());
    }
}

/// First and last length under a small multiple, all of them where they fit.
fn ends_labels(
    card: &mut Picture,
    lengths: &[usize],
    x: f64,
    baseline: f64,
    map_w: f64,
    cell_w: f64,
    style: Style,
) {
    let widths: Vec<f64> = lengths.iter().map(|l| style.width(&l.to_string())).collect();
    if stride(&widths, cell_w, 8.0) == 1 {
        return length_labels(card, lengths, x, baseline, cell_w, style);
    }
    if let (Some(first), Some(last)) = (lengths.first(), lengths.last()) {
        card.text(x, baseline, first.to_string(), style);
        card.text(x + map_w, baseline, last.to_string(), style.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn map(title: &str, seed: usize, lengths: usize, depths: usize) -> Heatmap {
        let score = |row: usize, column: usize| {
            let x = (row * 31 + column * 17 + seed * 7) % 97;
            Some((100.0 - (x * x) as f64 / 97.0 * (column as f64 / lengths as f64)).max(0.0))
        };
        Heatmap {
            title: title.to_owned(),
            subtitle: String::new(),
            lengths: (1..=lengths).map(|i| i * 1000).collect(),
            rows: Rows::Depths((0..depths).map(|i| i as f64 * 100.0 / (depths - 1) as f64).collect()),
            values: (0..depths).map(|r| (0..lengths).map(|c| score(r, c)).collect()).collect(),
            range: (0.0, 100.0),
        }
    }

    #[test]
    fn the_average_is_over_measured_cells_only() {
        let mut map = map("m", 1, 2, 2);
        map.values = vec![vec![Some(10.0), None], vec![Some(20.0), None]];
        assert_eq!(map.average(), Some(15.0));
        let svg = draw(&map).unwrap().svg().unwrap();
        assert!(svg.contains("m  ·  average 15.0"));
        map.values = vec![vec![None; 2]; 2];
        assert_eq!(map.average(), None);
        assert!(draw(&map).unwrap().svg().unwrap().contains("no values"));
    }

    #[test]
    fn values_are_printed_only_where_cells_are_large() {
        let mut large = map("m", 1, 5, 5);
        large.values[2][3] = Some(37.0);
        assert!(draw(&large).unwrap().svg().unwrap().contains("\n37\n"));
        let mut small = map("m", 1, 60, 21);
        small.values[2][3] = Some(37.0);
        assert!(!draw(&small).unwrap().svg().unwrap().contains("\n37\n"));
    }

    #[test]
    fn a_light_cell_is_a_high_score_and_depth_runs_down() {
        let mut two = map("m", 1, 1, 2);
        two.values = vec![vec![Some(100.0)], vec![Some(0.0)]];
        let svg = draw(&two).unwrap().svg().unwrap();
        let (light, dark) = (svg.find("#F8ECB5"), svg.find("#261A46"));
        assert!(light.is_some() && light < dark, "the first row is drawn first, and light");
    }

    #[test]
    fn ill_fitting_data_is_refused_with_its_numbers() {
        let mut bad = map("m", 1, 3, 2);
        bad.values[1].pop();
        assert!(draw(&bad).unwrap_err().to_string().contains("2 rows of 3"));
        let mut flat = map("m", 1, 3, 2);
        flat.range = (1.0, 1.0);
        assert!(draw(&flat).is_err());
        let rows =
            vec![GridRow { label: "a".into(), maps: vec![Some(map("m", 1, 3, 2)), Some(map("n", 1, 4, 2))] }];
        let mixed =
            Grid { title: "t".into(), subtitle: String::new(), columns: vec!["1".into(), "2".into()], rows };
        assert!(grid(&mixed).unwrap_err().to_string().contains("`m` and `n` differ"));
    }

    #[test]
    fn many_methods_with_few_budgets_are_no_ribbon() {
        let rows = (0..13).map(|i| GridRow {
            label: format!("method {i}"),
            maps: (0..2).map(|j| Some(map("m", i + j, 4, 10))).collect(),
        });
        let sheet = Grid {
            title: "t".into(),
            subtitle: "s".into(),
            columns: vec!["budget 64".into(), "budget 128".into()],
            rows: rows.collect(),
        };
        let picture = grid(&sheet).unwrap();
        assert!(picture.height < 2 * picture.width, "{} x {}", picture.width, picture.height);
        let svg = picture.svg().unwrap();
        assert!((0..13).all(|i| svg.contains(&format!("\nmethod {i}\n"))));
        assert!(svg.matches("\nbudget 64\n").count() > 1, "every block has its heads");
    }

    #[test]
    fn a_grid_shows_every_method_budget_and_average() {
        let row = |label: &str, n: usize| GridRow {
            label: label.into(),
            maps: (0..n).map(|i| Some(map(label, i, 10, 11))).collect(),
        };
        let sample = Grid {
            title: "Needle in a haystack".into(),
            subtitle: "tiny".into(),
            columns: ["budget 64", "budget 128"].map(String::from).to_vec(),
            rows: vec![row("full", 1), row("snapkv", 2)],
        };
        let picture = grid(&sample).unwrap();
        let svg = picture.svg().unwrap();
        for text in ["full", "snapkv", "budget 64", "budget 128", "whatever the budget"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(picture.png().unwrap(), grid(&sample).unwrap().png().unwrap());
    }

    #[test]
    fn every_task_of_a_grid_is_named() {
        let names: Vec<String> = (0..13).map(|task| format!("task_{task}")).collect();
        let maps = (0..2).map(|i| Some(Heatmap { rows: Rows::Tasks(names.clone()), ..map("m", i, 3, 13) }));
        let sheet = Grid {
            title: "RULER".into(),
            subtitle: String::new(),
            columns: vec!["budget 64".into(), "budget 128".into()],
            rows: vec![GridRow { label: "snapkv".into(), maps: maps.collect() }],
        };
        let svg = grid(&sheet).unwrap().svg().unwrap();
        assert!(names.iter().all(|name| svg.contains(&format!("\n{name}\n"))), "a name is missing");
        assert!(svg.contains("task ↓") && !svg.contains("depth"));
    }
}
