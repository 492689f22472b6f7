//! Curves: score against budget, share kept, bytes held or commit, capacity against layer; small multiples, one a
//! data set or category, every line labelled at its end.

use crate::axis::{bytes, number, spread, stride, ticks};
use crate::color::{GRID, INK, LINES, MUTED, PAPER, RULE, Rgb, mix};
use crate::scene::{Heading, Picture, Style};
use crate::{Error, Result, font};

/// One measured value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Budget in entries per KV head, share kept, bytes held, or layer: what [`XAxis`] says.
    pub x: f64,
    /// The score or capacity.
    pub y: f64,
    /// 95 % interval around `y`, if known.
    pub interval: Option<(f64, f64)>,
    /// Ringed, e.g. a significant loss.
    pub flagged: bool,
}

/// One method.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Shown at the line's end; the same label has the same colour and marker in every panel.
    pub label: String,
    /// In ascending `x`.
    pub points: Vec<Point>,
    /// Independent of `x` (full cache): a dashed line across the panel at its first point's `y`.
    pub reference: bool,
}

/// One data set, category or average.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// Its name; may be empty for a single panel.
    pub title: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// What x means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XAxis {
    /// Entries per KV head, log 2.
    Budget,
    /// Share of the entries kept, log 2.
    Share,
    /// Bytes held, log 2; a reference line also gets its own point.
    Bytes,
    /// Layer, linear.
    Layer,
    /// Place in [`Curves::names`], linear.
    Commit,
}

/// Panels with a common x axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Curves {
    /// What it shows.
    pub title: String,
    /// Model, protocol, sample count; may be empty.
    pub subtitle: String,
    /// What x means.
    pub x: XAxis,
    /// What y means, e.g. `Score`.
    pub y_label: String,
    /// Whether all panels have one scale of y; else each has its own.
    pub same_scale: bool,
    /// Tick labels of [`XAxis::Commit`]; empty for the others.
    pub names: Vec<String>,
    /// At least one.
    pub panels: Vec<Panel>,
}

const MARGIN: f64 = 28.0;
const TICK: Style = Style::new(11.0).color(MUTED);
const NAME: Style = Style::new(11.5);

impl XAxis {
    fn logarithmic(self) -> bool {
        matches!(self, Self::Budget | Self::Share | Self::Bytes)
    }

    fn place(self, x: f64) -> f64 {
        if self.logarithmic() { x.log2() } else { x }
    }

    fn label(self, x: f64, names: &[String]) -> String {
        match self {
            Self::Bytes => bytes(x),
            Self::Commit => names.get(x as usize).cloned().unwrap_or_default(),
            Self::Budget | Self::Layer => number(x, 1.0),
            Self::Share => x.to_string(),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Budget => "Budget (entries per KV head) →",
            Self::Share => "Share of the entries kept →",
            Self::Bytes => "KV bytes held →",
            Self::Layer => "Layer →",
            Self::Commit => "Commit →",
        }
    }

    /// Tick positions: what was measured, but round powers of two of bytes and round layers; none where nothing was.
    fn ticks(self, xs: &[f64]) -> Vec<f64> {
        if xs.is_empty() {
            return Vec::new();
        }
        let (low, high) = bounds(xs.iter().copied());
        match self {
            Self::Budget | Self::Share | Self::Commit => xs.to_vec(),
            Self::Bytes => {
                let range = low.log2().ceil() as i32..=high.log2().floor() as i32;
                range.map(|e| 2f64.powi(e)).collect()
            }
            Self::Layer => ticks(low, high, 6).into_iter().filter(|t| t.fract() == 0.0).collect(),
        }
    }
}

/// Least and greatest of some numbers; 0 and 1 of none.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// Draws the marker of line `index` at a point: as many shapes as colours, so that colour is never alone.
pub(crate) fn marker(card: &mut Picture, index: usize, (x, y): (f64, f64), r: f64, color: Rgb) {
    let diamond = |r: f64| vec![(x, y - r), (x + r, y), (x, y + r), (x - r, y)];
    let triangle = |r: f64| vec![(x, y - r), (x + r * 0.95, y + r * 0.75), (x - r * 0.95, y + r * 0.75)];
    let flipped = |r: f64| vec![(x, y + r), (x + r * 0.95, y - r * 0.75), (x - r * 0.95, y - r * 0.75)];
    let square = |r: f64| vec![(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)];
    let hole = r - 1.6;
    // Past the last colour the first comes again, with the next shape.
    match (index + index / LINES.len()) % LINES.len() {
        0 => card.circle(x, y, r, color),
        1 => card.polygon(square(r * 0.88), color),
        2 => card.polygon(triangle(r * 1.2), color),
        3 => card.polygon(diamond(r * 1.25), color),
        4 => card.polygon(flipped(r * 1.2), color),
        5 => {
            card.circle(x, y, r, color);
            card.circle(x, y, hole, PAPER);
        }
        6 => {
            card.polygon(square(r * 0.92), color);
            card.polygon(square(hole * 0.92), PAPER);
        }
        7 => {
            card.polygon(diamond(r * 1.3), color);
            card.polygon(diamond(hole * 1.25), PAPER);
        }
        8 => {
            card.line(vec![(x - r, y - r), (x + r, y + r)], 1.6, color);
            card.line(vec![(x - r, y + r), (x + r, y - r)], 1.6, color);
        }
        9 => {
            card.line(vec![(x - r * 1.2, y), (x + r * 1.2, y)], 1.6, color);
            card.line(vec![(x, y - r * 1.2), (x, y + r * 1.2)], 1.6, color);
        }
        10 => {
            card.polygon(triangle(r * 1.3), color);
            card.polygon(triangle(hole * 1.05), PAPER);
        }
        _ => {
            card.polygon(flipped(r * 1.3), color);
            card.polygon(flipped(hole * 1.05), PAPER);
        }
    }
}

fn check(curves: &Curves) -> Result<()> {
    let bad = |what: String| Err(Error::shape("curves", what));
    if curves.panels.is_empty() {
        return bad(format!("`{}` has no panel", curves.title));
    }
    for panel in &curves.panels {
        for line in &panel.lines {
            let name = format!("`{}` of `{}`", line.label, panel.title);
            for point in &line.points {
                let (low, high) = point.interval.unwrap_or((point.y, point.y));
                if ![point.x, point.y, low, high].iter().all(|v| v.is_finite()) {
                    return bad(format!("{name} has a value that is not finite at x = {}", point.x));
                }
                let ignored = line.reference && curves.x != XAxis::Bytes;
                if curves.x.logarithmic() && !ignored && point.x <= 0.0 {
                    return bad(format!("{name} has x = {}, and the axis is logarithmic", point.x));
                }
            }
            if line.points.windows(2).any(|w| w[0].x > w[1].x) {
                return bad(format!("{name} is not in ascending x"));
            }
        }
    }
    Ok(())
}

/// Draws the panels.
///
/// # Errors
/// [`Error::Shape`] without panels, or for values that the axes cannot show.
pub fn draw(curves: &Curves) -> Result<Picture> {
    check(curves)?;
    let mut labels: Vec<&str> = Vec::new();
    for line in curves.panels.iter().flat_map(|p| &p.lines).filter(|line| !line.reference) {
        if !labels.contains(&line.label.as_str()) {
            labels.push(&line.label);
        }
    }
    // Only x that is measured sets the axis: a budget axis ignores references.
    let counts = |line: &&Line| !line.reference || curves.x == XAxis::Bytes;
    let all = curves.panels.iter().flat_map(|p| &p.lines);
    let mut xs: Vec<f64> = all.clone().filter(counts).flat_map(|l| &l.points).map(|p| p.x).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();

    let count = curves.panels.len();
    let columns = match count {
        1 => 1,
        2..=4 => 2,
        _ => 3,
    };
    let lines = labels.len() as f64 + 1.0;
    let (plot_w, plot_h) = match columns {
        1 => (540.0, 330.0),
        2 => (330.0, 220.0),
        _ => (228.0, 168.0),
    };
    let plot_h = f64::max(plot_h, lines * 13.5);
    let name_w = all.map(|l| NAME.width(&l.label)).fold(0.0, f64::max).min(130.0);
    let (axis_w, gutter, above, below) = (40.0, name_w + 34.0, 34.0, 26.0);
    let (pitch_x, pitch_y) = (axis_w + plot_w + gutter, above + plot_h + below);
    let rows = count.div_ceil(columns) as f64;
    let width =
        (2.0 * MARGIN + columns as f64 * pitch_x - 14.0).max(Heading::least_width(&curves.title, MARGIN));
    let heading = Heading::new(width, MARGIN, &curves.title, &curves.subtitle);
    let top = MARGIN + 32.0 + heading.small_print();
    let height = top + rows * pitch_y + 22.0 + MARGIN - 6.0;
    let mut card = Picture::card(width, height, format!("curves: {}", curves.title));
    card.heading(MARGIN, &heading);

    let common: Vec<&Line> =
        curves.panels.iter().filter(|_| curves.same_scale).flat_map(|p| &p.lines).collect();
    for (index, panel) in curves.panels.iter().enumerate() {
        let scaled = if curves.same_scale { common.clone() } else { panel.lines.iter().collect() };
        let span = spans(&scaled);
        let x = MARGIN + axis_w + (index % columns) as f64 * pitch_x;
        let y = top + above + (index / columns) as f64 * pitch_y;
        let names = &curves.names;
        let frame = Frame { x, y, w: plot_w, h: plot_h, name_w, axis: curves.x, xs: &xs, names, span };
        draw_panel(&mut card, panel, &frame, &labels, &curves.y_label);
    }
    card.text(MARGIN + axis_w, top + rows * pitch_y + 14.0, curves.x.title(), Style::new(11.5).color(MUTED));
    Ok(card)
}

struct Frame<'a> {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
    name_w: f64,
    axis: XAxis,
    xs: &'a [f64],
    names: &'a [String],
    /// Least and greatest value that the axis of y must hold.
    span: (f64, f64),
}

/// Least and greatest value of some lines, intervals included.
fn spans(lines: &[&Line]) -> (f64, f64) {
    let points = lines.iter().flat_map(|line| &line.points);
    bounds(points.flat_map(|p| [p.y, p.interval.map_or(p.y, |i| i.0), p.interval.map_or(p.y, |i| i.1)]))
}

fn draw_panel(card: &mut Picture, panel: &Panel, frame: &Frame<'_>, labels: &[&str], y_label: &str) {
    let &Frame { x, y, w, h, span: (low, high), .. } = frame;
    let pad = ((high - low) * 0.06).max(if high > low { 0.0 } else { high.abs().max(1.0) * 0.05 });
    let (low, high) = (if low >= 0.0 { (low - pad).max(0.0) } else { low - pad }, high + pad);
    let at_y = |v: f64| y + h * (1.0 - (v - low) / (high - low).max(1e-12));
    let (first, last) = bounds(frame.xs.iter().map(|&v| frame.axis.place(v)));
    let inset = 12.0;
    let at_x = |v: f64| {
        let share = if last > first { (frame.axis.place(v) - first) / (last - first) } else { 0.5 };
        x + inset + (w - 2.0 * inset) * share
    };

    let heading = Style::new(12.5).bold();
    card.text(x - 40.0, y - 13.0, font::fit(&panel.title, 12.5, true, w + 30.0), heading);
    let caption =
        if panel.title.is_empty() { x - 40.0 } else { x - 40.0 + heading.width(&panel.title) + 9.0 };
    card.text(caption, y - 13.0, y_label, TICK);

    let marks = ticks(low, high, if h > 260.0 { 6 } else { 4 });
    let step = marks.get(1).map_or(1.0, |m| m - marks[0]);
    for mark in &marks {
        card.line(vec![(x, at_y(*mark)), (x + w, at_y(*mark))], 0.75, GRID);
        card.text(x - 8.0, at_y(*mark) + 4.0, number(*mark, step), TICK.end());
    }
    card.line(vec![(x, y + h), (x + w, y + h)], 1.0, RULE);
    let shown = frame.axis.ticks(frame.xs);
    let widths: Vec<f64> = shown.iter().map(|&v| TICK.width(&frame.axis.label(v, frame.names))).collect();
    let pitch = shown.windows(2).map(|p| at_x(p[1]) - at_x(p[0])).fold(w, f64::min);
    let every = stride(&widths, pitch, 7.0);
    for (index, mark) in shown.iter().enumerate() {
        card.line(vec![(at_x(*mark), y + h), (at_x(*mark), y + h + 4.0)], 1.0, RULE);
        if index % every == 0 {
            card.text(at_x(*mark), y + h + 17.0, frame.axis.label(*mark, frame.names), TICK.middle());
        }
    }

    // References lie below the lines.
    let mut ends: Vec<(&str, f64, Rgb, Option<usize>)> = Vec::new();
    for line in panel.lines.iter().filter(|line| line.reference) {
        let Some(point) = line.points.first() else { continue };
        if let Some((below, above)) = point.interval {
            card.rect(x, at_y(above), w, at_y(below) - at_y(above), mix(PAPER, INK, 0.055));
        }
        card.dashed((x, at_y(point.y)), (x + w, at_y(point.y)), 5.0, 1.25, INK);
        if frame.axis == XAxis::Bytes {
            card.circle(at_x(point.x), at_y(point.y), 4.0, INK);
        }
        ends.push((&line.label, at_y(point.y), INK, None));
    }
    let slot = |line: &Line| labels.iter().position(|l| *l == line.label).unwrap_or(0);
    // Lines that meet at a budget stand a little apart, so that their intervals can be told apart.
    let dodge = |line: &Line| {
        if line.points.len() > 16 {
            0.0
        } else {
            (slot(line) as f64 - (labels.len() as f64 - 1.0) / 2.0) * 1.8
        }
    };
    // Many intervals side by side would hide the lines.
    let pale = if labels.len() > 6 { 0.68 } else { 0.45 };
    for line in panel.lines.iter().filter(|line| !line.reference) {
        let color = LINES[slot(line) % LINES.len()];
        for point in &line.points {
            if let Some((below, above)) = point.interval {
                let at = at_x(point.x) + dodge(line);
                card.line(vec![(at, at_y(above)), (at, at_y(below))], 1.25, mix(color, PAPER, pale));
            }
        }
    }
    for line in panel.lines.iter().filter(|line| !line.reference) {
        let index = slot(line);
        let color = LINES[index % LINES.len()];
        let path: Vec<_> = line.points.iter().map(|p| (at_x(p.x) + dodge(line), at_y(p.y))).collect();
        if path.len() > 1 {
            card.line(path.clone(), 1.75, color);
        }
        if path.len() <= 16 {
            for &at in &path {
                marker(card, index, at, 3.6, color);
            }
        }
        for (point, &(x, y)) in line.points.iter().zip(&path).filter(|(point, _)| point.flagged) {
            card.circle(x, y, 7.5, INK);
            card.circle(x, y, 6.0, PAPER);
            marker(card, index, (x, y), 3.6, color);
            let (text, style) = (number(point.y, step / 10.0), TICK.bold().color(INK).middle());
            // On paper of its own: its interval runs behind it.
            let room = style.width(&text) + 4.0;
            card.rect(x - room / 2.0, y + 10.0, room, 12.5, PAPER);
            card.text(x, y + 20.0, text, style);
        }
        if let Some(&(_, end)) = path.last() {
            ends.push((&line.label, end, color, Some(index)));
        }
    }

    let wanted: Vec<f64> = ends.iter().map(|end| end.1).collect();
    let placed = spread(&wanted, 13.5, y + 2.0, y + h - 1.0);
    for ((label, end, color, index), at) in ends.into_iter().zip(placed) {
        let rule = mix(color, PAPER, 0.5);
        card.line(vec![(x + w + 1.0, end), (x + w + 8.0, at), (x + w + 11.0, at)], 0.75, rule);
        match index {
            Some(index) => marker(card, index, (x + w + 16.0, at), 3.2, color),
            None => card.dashed((x + w + 12.0, at), (x + w + 21.0, at), 3.0, 1.5, color),
        }
        card.text(
            x + w + 24.0,
            at + 4.0,
            font::fit(label, NAME.em, false, frame.name_w),
            NAME.color(mix(color, INK, 0.25)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str, ys: &[f64]) -> Line {
        let points = ys.iter().enumerate();
        let points = points.map(|(i, &y)| Point {
            x: 64.0 * 2f64.powi(i as i32),
            y,
            interval: Some((y - 2.0, y + 2.0)),
            flagged: false,
        });
        Line { label: label.into(), points: points.collect(), reference: false }
    }

    fn curves(lines: Vec<Line>) -> Curves {
        Curves {
            title: "t".into(),
            subtitle: String::new(),
            x: XAxis::Budget,
            y_label: "Score".into(),
            same_scale: false,
            names: Vec::new(),
            panels: vec![Panel { title: "qasper".into(), lines }],
        }
    }

    #[test]
    fn log_axis_puts_budgets_at_equal_steps() {
        let svg = draw(&curves(vec![line("a", &[1.0, 2.0, 3.0])])).unwrap().svg().unwrap();
        let x = |label: &str| -> i32 {
            let text = svg.lines().zip(svg.lines().skip(1)).find(|(_, next)| *next == label).unwrap().0;
            text.split("x=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        assert_eq!(x("128") - x("64"), x("256") - x("128"));
    }

    #[test]
    fn every_line_is_labelled_and_a_reference_is_not_on_the_axis() {
        let mut full = line("full", &[40.0]);
        full.reference = true;
        full.points[0].x = 0.0;
        let svg = draw(&curves(vec![full, line("snapkv", &[1.0, 2.0]), line("h2o", &[1.0, 2.0])])).unwrap();
        let svg = svg.svg().unwrap();
        for label in ["full", "snapkv", "h2o", "64", "128"] {
            assert_eq!(svg.matches(&format!("\n{label}\n")).count(), 1, "{label}");
        }
    }

    #[test]
    fn panels_of_one_scale_put_equal_values_at_equal_heights() {
        let mut two = curves(vec![line("a", &[10.0, 90.0])]);
        two.panels.push(Panel { title: "unseen".into(), lines: vec![line("b", &[40.0, 50.0])] });
        let marks = |curves: &Curves| {
            let svg = draw(curves).unwrap().svg().unwrap();
            svg.lines().filter(|line| *line == "80").count()
        };
        assert_eq!(marks(&two), 1, "the second panel ends near 52");
        two.same_scale = true;
        assert_eq!(marks(&two), 2);
    }

    #[test]
    fn values_an_axis_cannot_show_are_refused() {
        let mut zero = line("a", &[1.0, 2.0]);
        zero.points[0].x = 0.0;
        assert!(draw(&curves(vec![zero])).unwrap_err().to_string().contains("logarithmic"));
        assert!(
            draw(&curves(vec![line("a", &[f64::NAN])])).unwrap_err().to_string().contains("`a` of `qasper`")
        );
        let mut empty = curves(vec![]);
        for axis in [XAxis::Budget, XAxis::Share, XAxis::Bytes, XAxis::Layer, XAxis::Commit] {
            empty.x = axis;
            assert!(draw(&empty).unwrap().svg().unwrap().len() < 10_000, "{axis:?}");
        }
        empty.panels.clear();
        assert!(draw(&empty).is_err());
    }
}
