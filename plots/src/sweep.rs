//! From the records of a sweep to the data of pictures: needle maps, curves, retention, capacity.

use crate::curve::{Curves, Line, Panel, Point, XAxis};
use crate::head::{HeadMap, Kind};
use crate::heatmap::{Grid, GridRow, Heatmap, Rows};
use crate::history::{self, Average, HistoryPanel};
use crate::retention::Retention;
use kvsweep_results::baseline::History;
use kvsweep_results::{
    Budget, Cell, CellScope, ColumnKind, Group, MergedExample, ScoreRow, ScoreTable, VariantKey,
    VariantRecord,
};
use std::collections::{BTreeMap, BTreeSet};

/// Score, 0 to 1, from which a needle answer counts as right in a retention map.
pub const RIGHT: f64 = 0.5;

/// The method's name as lines and rows show it: with the granularity where the group has both, with the
/// parameters' id where two variants would else read the same.
pub fn method_name(group: &Group, variant: &VariantKey) -> String {
    let same = |other: &&VariantKey| other.method == variant.method && other.budget == variant.budget;
    let mut name = variant.method.to_string();
    if group.variants.iter().filter(same).any(|other| other.granularity != variant.granularity) {
        name.push_str(&format!(" {}", variant.granularity));
    }
    let differs_in_params = |other: &&VariantKey| {
        same(other) && other.granularity == variant.granularity && other.params != variant.params
    };
    if group.variants.iter().any(|other| differs_in_params(&other)) {
        name.push_str(&format!("#{}", variant.params));
    }
    name
}

/// `snapkv, budget 128`, `snapkv, share 0.5`, or `full`.
pub fn variant_title(group: &Group, variant: &VariantKey) -> String {
    let name = method_name(group, variant);
    variant.budget.map_or(name.clone(), |budget| format!("{name}, {}", budget.title()))
}

/// Method names in the order of the variants, each with its variants by budget.
fn by_method(group: &Group) -> Vec<(String, Vec<&VariantKey>)> {
    let mut methods: Vec<(String, Vec<&VariantKey>)> = Vec::new();
    for variant in &group.variants {
        let name = method_name(group, variant);
        match methods.iter_mut().find(|(known, _)| *known == name) {
            Some((_, variants)) => variants.push(variant),
            None => methods.push((name, vec![variant])),
        }
    }
    methods
}

fn records<'a>(
    group: &'a Group,
    variant: &'a VariantKey,
) -> impl Iterator<Item = (&'a MergedExample, &'a VariantRecord)> {
    group.examples.values().filter_map(move |e| Some((e, &e.answers.get(variant)?.record)))
}

/// A depth as a map key, in thousandths of a percent.
fn depth_key(depth: f64) -> i64 {
    (depth * 1000.0).round() as i64
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The needle heatmap of one variant: mean score, 0 to 100, of the examples of each length and depth. None
/// where the group holds no needle example.
pub fn needle_map(group: &Group, variant: &VariantKey) -> Option<Heatmap> {
    let needles = || group.examples.values().filter_map(|e| e.info.needle);
    let lengths: BTreeSet<u32> = needles().map(|n| n.length).collect();
    let depths: BTreeSet<i64> = needles().map(|n| depth_key(n.depth)).collect();
    let mut scores: BTreeMap<(i64, u32), Vec<f64>> = BTreeMap::new();
    for (example, record) in records(group, variant) {
        if let Some(needle) = example.info.needle {
            scores.entry((depth_key(needle.depth), needle.length)).or_default().push(record.score * 100.0);
        }
    }
    if scores.is_empty() {
        return None;
    }
    let row = |depth: &i64| lengths.iter().map(|l| mean(scores.get(&(*depth, *l))?)).collect();
    Some(Heatmap {
        title: variant_title(group, variant),
        subtitle: group.caption(),
        values: depths.iter().map(row).collect(),
        lengths: lengths.iter().map(|l| *l as usize).collect(),
        rows: Rows::Depths(depths.iter().map(|d| *d as f64 / 1000.0).collect()),
        range: (0.0, 100.0),
    })
}

/// The context length of an example whose task is asked at several: its bucket is that length, and it is no needle test.
fn task_length(example: &MergedExample) -> Option<u32> {
    example.info.bucket.as_ref().filter(|_| example.info.needle.is_none())?.parse().ok()
}

/// RULER's heatmap of one variant: mean score, 0 to 100, of the examples of each task and length. None where the group
/// holds no example of a context length.
pub fn task_map(group: &Group, variant: &VariantKey) -> Option<Heatmap> {
    let mut tasks: Vec<&str> = Vec::new();
    let mut lengths = BTreeSet::new();
    let mut scores: BTreeMap<(&str, u32), Vec<f64>> = BTreeMap::new();
    for (key, example) in &group.examples {
        let Some(length) = task_length(example) else { continue };
        if !tasks.contains(&key.dataset.as_str()) {
            tasks.push(&key.dataset);
        }
        lengths.insert(length);
        if let Some(answer) = example.answers.get(variant) {
            scores.entry((&key.dataset, length)).or_default().push(answer.record.score * 100.0);
        }
    }
    if scores.is_empty() {
        return None;
    }
    let order = |name: &&str| group.manifest.datasets.iter().position(|dataset| dataset.name == **name);
    tasks.sort_by_key(order);
    let row = |task: &&str| lengths.iter().map(|l| mean(scores.get(&(*task, *l))?)).collect();
    Some(Heatmap {
        title: variant_title(group, variant),
        subtitle: group.caption(),
        values: tasks.iter().map(row).collect(),
        lengths: lengths.iter().map(|l| *l as usize).collect(),
        rows: Rows::Tasks(
            tasks.iter().map(|name| name.strip_prefix("mini_").unwrap_or(name).to_owned()).collect(),
        ),
        range: (0.0, 100.0),
    })
}

/// Small multiples of all needle maps, methods by budgets; none without needle examples.
pub fn needle_grid(group: &Group) -> Option<Grid> {
    let count = group.examples.values().filter(|e| e.info.needle.is_some()).count();
    let subtitle = format!("{count} needles · {}", group.caption());
    grid(group, "Needle in a haystack", subtitle, needle_map)
}

/// Small multiples of all RULER maps, methods by budgets; none without its examples.
pub fn task_grid(group: &Group) -> Option<Grid> {
    let count = group.examples.values().filter(|e| task_length(e).is_some()).count();
    grid(group, "RULER", format!("{count} questions · {}", group.caption()), task_map)
}

type MapOf = fn(&Group, &VariantKey) -> Option<Heatmap>;

fn grid(group: &Group, title: &str, subtitle: String, map_of: MapOf) -> Option<Grid> {
    // A group may hold another suite's runs, at budgets of their own.
    let asked = |variant: &&VariantKey| map_of(group, variant).is_some();
    let budgets: BTreeSet<Budget> = group.variants.iter().filter(asked).filter_map(|v| v.budget).collect();
    let mut rows = Vec::new();
    for (label, variants) in by_method(group) {
        let map = |budget: &Budget| map_of(group, variants.iter().find(|v| v.budget == Some(*budget))?);
        let maps: Vec<Option<Heatmap>> = match variants.iter().find(|v| v.budget.is_none()) {
            Some(whole) => vec![map_of(group, whole)],
            None => budgets.iter().map(map).collect(),
        };
        if maps.iter().any(Option::is_some) {
            rows.push(GridRow { label, maps });
        }
    }
    let mut columns: Vec<String> = budgets.iter().map(|budget| budget.title()).collect();
    if columns.is_empty() {
        columns.push("every budget".to_owned());
    }
    (!rows.is_empty()).then(|| Grid { title: title.to_owned(), subtitle, columns, rows })
}

/// What one variant kept of the needle, averaged over lengths; an answer is right from [`RIGHT`] on. None
/// where nothing was recorded.
pub fn retention(group: &Group, variant: &VariantKey) -> Option<Retention> {
    type Shares = Vec<Vec<f32>>;
    let mut by_depth: BTreeMap<i64, (Vec<&Shares>, Vec<f64>)> = BTreeMap::new();
    let mut lengths = BTreeSet::new();
    for (example, record) in records(group, variant) {
        if let (Some(needle), Some(kept)) = (example.info.needle, &record.retention) {
            let (maps, right) = by_depth.entry(depth_key(needle.depth)).or_default();
            maps.push(kept);
            right.push(if record.score >= RIGHT { 1.0 } else { 0.0 });
            lengths.insert(needle.length);
        }
    }
    let every = || by_depth.values().flat_map(|(maps, _)| maps);
    let layers = every().map(|m| m.len()).max()?;
    let heads = every().flat_map(|m| m.iter().map(Vec::len)).max()?;
    let share = |maps: &[&Shares], layer: usize, head: usize| {
        let values: Vec<f64> =
            maps.iter().filter_map(|m| Some(f64::from(*m.get(layer)?.get(head)?))).collect();
        mean(&values)
    };
    let kept = by_depth
        .values()
        .map(|(maps, _)| (0..layers).map(|l| (0..heads).map(|h| share(maps, l, h)).collect()).collect());
    let lengths = match (lengths.first(), lengths.last()) {
        (Some(first), Some(last)) if first != last => format!("contexts of {first} to {last} tokens"),
        (Some(only), _) => format!("contexts of {only} tokens"),
        _ => String::new(),
    };
    (layers > 0 && heads > 0).then(|| Retention {
        title: format!("{}: what is kept of the needle", variant_title(group, variant)),
        subtitle: format!("{lengths} · {}", group.caption()),
        depths: by_depth.keys().map(|d| *d as f64 / 1000.0).collect(),
        kept: kept.collect(),
        right: by_depth.values().map(|(_, right)| mean(right)).collect(),
    })
}

/// Mean entries in each head of one variant, `[layer][head]`. None where no selection was recorded, where
/// nothing was evicted at all, or where prompts disagree on the shape.
fn capacities(group: &Group, variant: &VariantKey) -> Option<Vec<Vec<f64>>> {
    let mut sum: Vec<Vec<f64>> = Vec::new();
    let mut count = 0.0;
    for (example, record) in records(group, variant) {
        let Some(selection) = &record.selection else { continue };
        let counts = selection.counts();
        let heads = counts.iter().map(Vec::len).max().unwrap_or(0);
        if heads == 0 {
            continue;
        }
        // A layer without eviction holds the whole prompt in every head.
        let whole = vec![example.info.prompt_tokens; heads];
        let layers: Vec<&Vec<u32>> =
            counts.iter().map(|layer| if layer.is_empty() { &whole } else { layer }).collect();
        if sum.is_empty() {
            sum = layers.iter().map(|layer| vec![0.0; layer.len()]).collect();
        }
        if sum.len() != layers.len() || sum.iter().zip(&layers).any(|(a, b)| a.len() != b.len()) {
            return None;
        }
        for (total, layer) in sum.iter_mut().flatten().zip(layers.into_iter().flatten()) {
            *total += f64::from(*layer);
        }
        count += 1.0;
    }
    sum.iter_mut().flatten().for_each(|total| *total /= count);
    let even = sum.first().is_some_and(|first| sum.iter().all(|layer| layer.len() == first.len()));
    even.then_some(sum)
}

/// The capacity each head of one variant was given, averaged over prompts; none without a budget or where
/// every head was given the same.
pub fn capacity_map(group: &Group, variant: &VariantKey) -> Option<HeadMap> {
    let budget = match variant.budget? {
        Budget::Entries(entries) => f64::from(entries),
        Budget::Share(_) => {
            let allowed = records(group, variant).map(|(_, record)| record.kept.entries_nominal);
            mean(&allowed.collect::<Vec<f64>>())?
        }
    };
    let values = capacities(group, variant)?;
    let first = *values.first()?.first()?;
    if values.iter().flatten().all(|v| (v - first).abs() < 0.5) {
        return None;
    }
    Some(HeadMap {
        title: format!("{}: capacity of each head", variant_title(group, variant)),
        subtitle: format!("mean over {} prompts · {}", records(group, variant).count(), group.caption()),
        kind: Kind::Capacity { budget },
        values,
        heads: if variant.granularity == "query-head" { "Query head" } else { "KV head" }.to_owned(),
        group: 1,
    })
}

/// Mean capacity by layer, a panel a budget, a line a method; none where no selection was recorded.
pub fn layer_capacities(group: &Group) -> Option<Curves> {
    let budgets: BTreeSet<Budget> = group.variants.iter().filter_map(|v| v.budget).collect();
    let mut panels = Vec::new();
    for budget in budgets {
        let mut lines = Vec::new();
        for variant in group.variants.iter().filter(|v| v.budget == Some(budget)) {
            let Some(values) = capacities(group, variant) else { continue };
            let points = values.iter().enumerate().filter_map(|(layer, heads)| {
                Some(Point { x: layer as f64, y: mean(heads)?, interval: None, flagged: false })
            });
            let label = method_name(group, variant);
            lines.push(Line { label, points: points.collect(), reference: false });
        }
        if !lines.is_empty() {
            panels.push(Panel { title: capital(&budget.title()), lines });
        }
    }
    (!panels.is_empty()).then(|| Curves {
        title: "Capacity by layer".to_owned(),
        subtitle: group.caption(),
        x: XAxis::Layer,
        y_label: "Entries per head".to_owned(),
        same_scale: false,
        names: Vec::new(),
        panels,
    })
}

/// Which columns of a table a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// The overall average, or the only column there is.
    Average,
    /// Categories.
    Categories,
    /// Data sets.
    Datasets,
}

/// Score curves of a table against budget, share kept or bytes held; none where the table has no such column with a score,
/// or, for budgets and shares, fewer than two of them. Rows without bytes have no place among bytes, shares none among
/// budgets.
pub fn score_curves(table: &ScoreTable, columns: Columns, x: XAxis) -> Option<Curves> {
    let budgets: BTreeSet<Budget> =
        table.rows.iter().filter_map(|r| r.budget).filter(|b| is_on(x, *b)).collect();
    if x != XAxis::Bytes && budgets.len() < 2 {
        return None;
    }
    let wanted = |index: usize, kind: ColumnKind| match columns {
        Columns::Average => kind == ColumnKind::Average || table.columns.len() == 1 && index == 0,
        Columns::Categories => kind == ColumnKind::Category,
        Columns::Datasets => kind == ColumnKind::Dataset,
    };
    let groups = groups(table);
    // The average has room for a panel a model, protocol or view of the question, on one scale.
    let apart = columns == Columns::Average && groups.len() > 1;
    let chosen = table.columns.iter().enumerate().filter(|(index, c)| wanted(*index, c.kind));
    let panel = |(index, column): (usize, &CellScope)| -> Vec<Panel> {
        if !apart {
            return vec![Panel { title: column.title.clone(), lines: lines(&table.rows, index, x) }];
        }
        let of_group = |(group, title): &(&str, String)| {
            let rows: Vec<ScoreRow> = table.rows.iter().filter(|row| row.group == *group).cloned().collect();
            Panel { title: title.clone(), lines: lines(&rows, index, x) }
        };
        groups.iter().map(of_group).collect()
    };
    let panels: Vec<Panel> = chosen.flat_map(panel).filter(|panel| !panel.lines.is_empty()).collect();
    let title = match x {
        XAxis::Bytes => "Score against bytes held",
        XAxis::Share => "Score against share kept",
        _ => "Score against budget",
    };
    let percent = table.bootstrap.level * 100.0;
    (!panels.is_empty()).then(|| Curves {
        title: title.to_owned(),
        subtitle: format!("{percent:.0} % intervals · {}", table.title),
        x,
        y_label: "Score".to_owned(),
        same_scale: apart,
        names: Vec::new(),
        panels,
    })
}

/// Whether a budget has a place on the axis.
fn is_on(x: XAxis, budget: Budget) -> bool {
    x == XAxis::Bytes || (x == XAxis::Share) == budget.share().is_some()
}

/// The groups of a table's rows, each with what tells it from the others.
fn groups(table: &ScoreTable) -> Vec<(&str, String)> {
    let mut groups: Vec<&str> = Vec::new();
    for row in &table.rows {
        if !groups.contains(&row.group.as_str()) {
            groups.push(&row.group);
        }
    }
    let is_common = |part: &&str| groups.iter().all(|group| group.split(" · ").any(|other| other == *part));
    let title = |group: &str| {
        let own: Vec<&str> = group.split(" · ").filter(|part| !is_common(part)).collect();
        own.join(" · ")
    };
    groups.iter().map(|group| (*group, title(group))).collect()
}

fn lines(rows: &[ScoreRow], column: usize, x: XAxis) -> Vec<Line> {
    let mixed = |row: &ScoreRow| {
        rows.iter().any(|other| other.method == row.method && other.granularity != row.granularity)
    };
    let several = rows.iter().any(|row| row.group != rows[0].group);
    let mut lines: Vec<Line> = Vec::new();
    for row in rows.iter().filter(|row| row.budget.is_none_or(|budget| is_on(x, budget))) {
        let Some(cell) = row.cells.get(column).copied().flatten() else { continue };
        let mut label = row.method.clone();
        if mixed(row) {
            label.push_str(&format!(" {}", row.granularity));
        }
        if several {
            label.push_str(&format!(" · {}", row.group));
        }
        let at = if x == XAxis::Bytes { row.bytes } else { row.budget.map_or(0.0, Budget::value) };
        if x == XAxis::Bytes && at <= 0.0 {
            continue;
        }
        let point = Point { x: at, y: cell.score, interval: interval(&cell), flagged: false };
        match lines.iter_mut().find(|line| line.label == label) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { label, points: vec![point], reference: row.budget.is_none() }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    lines
}

/// The averages of a configuration over its commits, a panel a budget, methods without a budget in each. A
/// loss is ringed where its whole interval lies below that of the commit measured before; `kvsweep compare`
/// tests pairs, and finds smaller ones.
pub fn history(history: &History) -> history::HistoryCurves {
    let variants = history.variants();
    let mut budgets: Vec<Option<Budget>> = variants.iter().map(|v| v.1).filter(Option::is_some).collect();
    budgets.sort_unstable();
    budgets.dedup();
    if budgets.is_empty() {
        budgets.push(None);
    }
    let line = |variant: &(String, Option<Budget>)| {
        let mut before: Option<(f64, f64)> = None;
        let marks = history.points.iter().map(|point| {
            let cell = History::average(point, variant)?;
            let now = interval(&cell);
            let loss = before.zip(now).is_some_and(|(before, now)| now.1 < before.0);
            before = now.or(before);
            Some(Average { y: cell.score, interval: now, loss })
        });
        (variant.0.clone(), marks.collect())
    };
    let panel = |budget: &Option<Budget>| HistoryPanel {
        title: budget.map_or(String::new(), |budget| capital(&budget.title())),
        lines: variants.iter().filter(|v| v.1.is_none() || v.1 == *budget).map(line).collect(),
    };
    history::HistoryCurves {
        title: "Average score over commits".to_owned(),
        subtitle: history.points.last().map_or(String::new(), |point| point.table.title.clone()),
        y_label: "Average score".to_owned(),
        commits: history.points.iter().map(|point| point.commit.clone()).collect(),
        panels: budgets.iter().map(panel).collect(),
    }
}

/// A word as a title begins.
pub(crate) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// Both ends of a cell's interval, where it has one.
pub(crate) fn interval(cell: &Cell) -> Option<(f64, f64)> {
    cell.low.zip(cell.high)
}
