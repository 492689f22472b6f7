//! From runs to the report's data.

use super::{
    Answer, Emphasis, Example, Fact, Figure, FigureGroup, Provenance, ReportData, Table, TableCell,
    TableHead, Tokens,
};
use crate::axis::{bytes, fixed};
use crate::curve::{self, XAxis};
use crate::sweep::{self, Columns};
use crate::{Result, head, heatmap, retention};
use kvsweep_results::paper::{PaperCell, PaperComparison, Verdict};
use kvsweep_results::{
    Budget, ColumnKind, ExampleKey, Group, Merged, MergedExample, ScoreTable, VariantKept,
};
use std::collections::{BTreeMap, BTreeSet};

/// Tokens shown of a prompt's beginning and end; a shorter prompt is shown whole.
const ENDS: (usize, usize) = (256, 768);
/// Examples of each data set whose kept positions are read: a large run has thousands of such files.
const TRACED: usize = 16;
/// Parts of a prompt in a strip.
const STRIP: usize = 64;

/// Gives the text of every token of an example's prompt.
pub type TokenTexts<'a> = dyn Fn(&ExampleKey, &MergedExample) -> Option<Vec<String>> + 'a;

/// What the runs themselves do not tell.
pub struct Options<'a> {
    /// The page's title.
    pub title: String,
    /// What made the page: program, version, commit.
    pub generator: String,
    /// Tables over the same records.
    pub tables: &'a [ScoreTable],
    /// Published tables beside the same records.
    pub papers: &'a [PaperComparison],
    /// What is odd about a protocol, by its name.
    pub oddities: &'a dyn Fn(&str) -> Vec<String>,
    /// Texts of an example's prompt tokens, where a tokenizer is at hand.
    pub tokens: &'a TokenTexts<'a>,
}

/// Gathers a report's data from merged runs and tables over them.
///
/// A damaged file of kept positions becomes a notice; its example is shown without highlighting.
///
/// # Errors
/// A picture whose data do not fit together.
pub fn from_runs(merged: &Merged, options: Options<'_>) -> Result<ReportData> {
    let mut notices: Vec<String> = Vec::new();
    if merged.groups.iter().any(|g| g.manifest.model.embedded) {
        notices.push(
            "The embedded tiny model checks the pipeline; its scores say nothing about real models.".into(),
        );
    }
    for table in options.tables {
        let named =
            if options.tables.len() > 1 { format!("{}: ", short(&table.title)) } else { String::new() };
        notices.extend(table.part.iter().map(|why| format!("{named}part: {why}")));
        notices.extend(table.notes.iter().map(|note| format!("{named}{note}")));
    }
    notices.extend(merged.problems.iter().map(|p| format!("record not used: {p}")));
    notices.dedup();

    let mut data = ReportData {
        title: options.title,
        subtitle: merged.groups.iter().map(Group::caption).collect::<Vec<_>>().join(" and "),
        generator: options.generator,
        tables: options.tables.iter().map(table).collect(),
        papers: options.papers.iter().map(paper).collect(),
        provenance: provenance(merged, options.oddities),
        ..ReportData::default()
    };
    data.summary = summary(merged, options.tables);
    data.figures = figures(merged, options.tables)?;
    let several = merged.groups.len() > 1;
    for group in &merged.groups {
        let first = data.variants.len();
        for variant in &group.variants {
            let name = sweep::method_name(group, variant);
            let name = variant.budget.map_or(name.clone(), |budget| format!("{name} · {budget}"));
            data.variants.push(if several { format!("{name} · {}", group.label()) } else { name });
        }
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut keys: Vec<(&ExampleKey, &MergedExample)> = group.examples.iter().collect();
        let place = |key: &ExampleKey| group.datasets.iter().position(|d| d.name == key.dataset);
        keys.sort_by_key(|(key, example)| (place(key), example.info.row));
        for (key, example) in keys {
            let rank = seen.entry(&key.dataset).or_default();
            *rank += 1;
            let traced = *rank <= TRACED;
            let kept = if traced { kept_of(group, key, &mut notices) } else { BTreeMap::new() };
            let texts = if kept.is_empty() { None } else { (options.tokens)(key, example) };
            data.examples.push(show(group, key, example, first, texts, &kept));
        }
    }
    data.notices = notices;
    Ok(data)
}

/// What each variant kept of one example, by the variant's text.
fn kept_of(group: &Group, key: &ExampleKey, notices: &mut Vec<String>) -> BTreeMap<String, VariantKept> {
    match group.kept(key) {
        Ok(kept) => kept.variants.into_iter().map(|v| (v.variant.clone(), v)).collect(),
        Err(error) => {
            notices.push(format!("kept positions not shown: {error}"));
            BTreeMap::new()
        }
    }
}

/// 0 for none, 9 for all; whatever was kept at all is at least 1.
fn digit(share: f64) -> char {
    let level = (share * 9.0).round().clamp(if share > 0.0 { 1.0 } else { 0.0 }, 9.0);
    char::from(b'0' + level as u8)
}

/// Means over [`STRIP`] equal parts (fewer for a shorter prompt).
fn strip(shares: &[f64]) -> String {
    let parts = STRIP.min(shares.len());
    let part = |i: usize| {
        let values = &shares[i * shares.len() / parts..(i + 1) * shares.len() / parts];
        digit(values.iter().sum::<f64>() / values.len().max(1) as f64)
    };
    (0..parts).map(part).collect()
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn show(
    group: &Group,
    key: &ExampleKey,
    example: &MergedExample,
    first: usize,
    texts: Option<Vec<String>>,
    kept: &BTreeMap<String, VariantKept>,
) -> Example {
    let info = &example.info;
    let length = info.prompt_tokens as usize;
    // Texts of another length are not this prompt's.
    let texts = texts.filter(|texts| texts.len() == length);
    let head = ENDS.0.min(length);
    let tail = length.saturating_sub(ENDS.1).max(head);
    let mut results = Vec::new();
    for (index, variant) in group.variants.iter().enumerate() {
        let Some(found) = example.answers.get(variant) else { continue };
        let record = &found.record;
        let shares = kept.get(&variant.to_string()).map(|kept| kept.shares(length));
        let ends = |shares: &Vec<f64>| -> String {
            shares[..head].iter().chain(&shares[tail..]).map(|s| digit(*s)).collect()
        };
        results.push(Answer {
            variant: first + index,
            prediction: record.prediction.clone(),
            cut: None,
            score: record.score * 100.0,
            entries: record.kept.entries_mean,
            kept: shares.as_ref().filter(|_| texts.is_some()).map(ends),
            strip: shares.as_ref().map(|shares| strip(shares)),
        });
    }
    let mut about = vec![format!("{} tokens", grouped(u64::from(info.prompt_tokens)))];
    if info.truncated_tokens > 0 {
        about.push(format!("{} cut from the middle", grouped(u64::from(info.truncated_tokens))));
    }
    if let Some(metric) = example.answers.iter().next().map(|answer| &answer.record.metric) {
        about.push(format!("metric {metric}"));
    }
    let tokens = texts.map(|texts| {
        let pieces = texts[..head].iter().chain(&texts[tail..]).cloned().collect();
        Tokens { pieces, head, gap: tail - head }
    });
    let mut name = format!("row {}", info.row);
    if let Some(needle) = info.needle {
        name.push_str(&format!(
            ", {} at {}",
            grouped(u64::from(needle.length)),
            heatmap::percent(needle.depth)
        ));
    }
    Example {
        dataset: key.dataset.clone(),
        name,
        key: key.example.clone(),
        about: about.join(" · "),
        tail: if tokens.is_some() { String::new() } else { info.prompt_tail.clone() },
        tokens,
        answers: info.answers.clone(),
        results,
    }
}

/// A score table with intervals as small print, best and second marked as in the papers.
fn table(scores: &ScoreTable) -> Table {
    let several = scores.rows.iter().any(|row| !row.group.is_empty());
    let mut columns = vec![TableHead { title: "Method".into(), ..TableHead::default() }];
    let number = |title: &str| TableHead { title: title.into(), numeric: true, summary: false };
    if several {
        columns.push(TableHead { title: "Model and protocol".into(), ..TableHead::default() });
    }
    // What is the same in every row is said once, below the table.
    let first = scores.rows.first();
    let granularity =
        first.map(|row| &row.granularity).filter(|g| scores.rows.iter().all(|r| r.granularity == **g));
    let count = first.map(|row| row.n).filter(|n| scores.rows.iter().all(|row| row.n == *n));
    let budgets = scores.budget_columns();
    columns.extend(budgets.iter().map(|(title, _)| number(&sweep::capital(title))));
    if granularity.is_none() {
        columns.push(TableHead { title: "Stored per".into(), ..TableHead::default() });
    }
    columns.extend(["Entries", "KV held"].map(number));
    if count.is_none() {
        columns.push(number("n"));
    }
    columns.extend(scores.columns.iter().map(|c| TableHead {
        title: c.heading(),
        numeric: true,
        summary: c.kind != ColumnKind::Dataset,
    }));
    let ranks = scores.ranks();
    let rows = scores.rows.iter().zip(ranks).map(|(row, ranks)| {
        let mut cells = vec![TableCell::text(&row.method)];
        if several {
            cells.push(TableCell::text(&row.group));
        }
        cells.extend(budgets.iter().map(|(_, text)| match (text(row.budget), row.budget) {
            (Some(text), Some(budget)) => TableCell::number(budget.value(), text),
            (None, Some(_)) => TableCell::text("–"),
            (_, None) => TableCell::text("all"),
        }));
        if granularity.is_none() {
            cells.push(TableCell::text(&row.granularity));
        }
        let most = format!("most {}", row.entries_max);
        cells.push(TableCell {
            note: most,
            ..TableCell::number(row.entries_mean, fixed(row.entries_mean, 1))
        });
        cells.push(TableCell::number(row.bytes, bytes(row.bytes)));
        if count.is_none() {
            cells.push(TableCell::number(row.n as f64, grouped(row.n as u64)));
        }
        for (cell, rank) in row.cells.iter().zip(ranks) {
            let Some(cell) = cell else {
                cells.push(TableCell::text("–"));
                continue;
            };
            let mark = match rank {
                Some(1) => Emphasis::Best,
                Some(2) => Emphasis::Second,
                _ => Emphasis::None,
            };
            let note = sweep::interval(cell)
                .map_or(String::new(), |(low, high)| format!("{} to {}", fixed(low, 1), fixed(high, 1)));
            cells.push(TableCell { note, mark, ..TableCell::number(cell.score, fixed(cell.score, 2)) });
        }
        cells
    });
    let b = &scores.bootstrap;
    let how = format!(
        "Percent. Small print: {:.0} % bootstrap intervals over contexts ({} resamples, seed {}). Bold is the best \
         compressed score of a budget, underlined the second. Entries are those kept per head, the mean over layers \
         and heads; KV held is what the cache really took.",
        b.level * 100.0,
        grouped(b.resamples as u64),
        b.seed
    );
    let mut notes = vec![how];
    let mut same = Vec::new();
    if let Some(n) = count {
        same.push(format!("over {} answers", grouped(n as u64)));
    }
    if let Some(granularity) = granularity {
        same.push(format!(
            "stored once per {}",
            granularity.replace("kv-", "KV ").replace("query-", "query ")
        ));
    }
    if !same.is_empty() {
        notes.push(format!("Every row: {}.", same.join(", ")));
    }
    notes.extend(scores.floor_note());
    notes.extend(scores.notes.iter().cloned());
    let mut title = short(&scores.title).to_owned();
    if !scores.part.is_empty() {
        title.push_str(&format!(" · partial: {}", scores.part.join("; ")));
    }
    Table { title, notes, columns, rows: rows.collect() }
}

/// A published table with ours in its cells: the rows and columns where both have a number.
pub fn paper(comparison: &PaperComparison) -> Table {
    let common = || comparison.cells.iter().filter(|cell| cell.theirs.is_some() && cell.ours.is_some());
    let mut names: Vec<&String> = Vec::new();
    let mut lines: Vec<(&String, Option<Budget>)> = Vec::new();
    for cell in common() {
        if !names.contains(&&cell.column) {
            names.push(&cell.column);
        }
        if !lines.contains(&(&cell.printed_method, cell.budget)) {
            lines.push((&cell.printed_method, cell.budget));
        }
    }
    let place = |name: &String| comparison.cells.iter().position(|cell| cell.column == *name);
    names.sort_by_key(|name| place(name));
    let shares = lines.iter().any(|(_, budget)| budget.is_some_and(|budget| budget.share().is_some()));
    let mut rows = Vec::new();
    for (method, budget) in lines {
        let of_row = || common().filter(|cell| cell.printed_method == *method && cell.budget == budget);
        let spec = of_row().find_map(|cell| cell.method.clone()).unwrap_or_default();
        let mut row = vec![
            TableCell { note: spec, ..TableCell::text(method) },
            budget.map_or(TableCell::text("all"), |b| TableCell::number(b.value(), b.to_string())),
        ];
        row.extend(
            names
                .iter()
                .map(|name| of_row().find(|cell| cell.column == **name).map_or(TableCell::text("–"), both)),
        );
        rows.push(row);
    }
    let mut columns = vec![
        TableHead { title: "Method".into(), ..TableHead::default() },
        TableHead { title: if shares { "Kept" } else { "Budget" }.into(), numeric: true, summary: false },
    ];
    columns.extend(names.into_iter().map(|name| TableHead {
        title: name.clone(),
        numeric: true,
        summary: name.starts_with("avg") || name.starts_with("cat_"),
    }));
    let (verdicts, unmeasured) = comparison.counts();
    let counts: Vec<String> = verdicts.iter().map(|(verdict, n)| format!("{n} {verdict}")).collect();
    let mut notes = vec![
        "Ours; small print: the paper's number and our difference, our 95 % interval and sample count."
            .to_owned(),
        format!("{}; {unmeasured} printed cells are not measured here.", counts.join(", ")),
    ];
    if comparison.rehearsal.is_empty() {
        notes[0].push_str(" ● reproduced, ◐ close, ○ off.");
    }
    notes.extend(comparison.notes.iter().cloned());
    notes.extend(comparison.sources.iter().map(|source| format!("Source: {source}")));
    Table { title: comparison.title.clone(), notes, columns, rows }
}

/// Our number, with theirs as small print. Only a verdict that stands is coloured.
fn both(cell: &PaperCell) -> TableCell {
    let Some(ours) = &cell.ours else { return TableCell::text("–") };
    let mut note = format!("paper {}", cell.theirs.as_deref().unwrap_or("–"));
    if let Some(d) = cell.difference {
        note.push_str(&format!(", {}{}", if d > 0.0 { "+" } else { "" }, fixed(d, 2)));
    }
    note.push('\n');
    if let Some((low, high)) = sweep::interval(ours) {
        note.push_str(&format!("{} to {}, ", fixed(low, 1), fixed(high, 1)));
    }
    note.push_str(&format!("n {}", grouped(ours.n as u64)));
    let mut mark = Emphasis::None;
    if let Some(verdict) = cell.verdict {
        note.push_str(&format!("\n{}", cell.outcome()));
        mark = match verdict {
            Verdict::Reproduced => Emphasis::Reproduced,
            Verdict::Close => Emphasis::Close,
            Verdict::Off => Emphasis::Off,
            Verdict::Gated | Verdict::Unproven => Emphasis::None,
        };
    }
    TableCell { note, mark, ..TableCell::number(ours.score, fixed(ours.score, 2)) }
}

/// A table's own title, without the model and protocol that stand in the page's head.
fn short(title: &str) -> &str {
    title.split(" · ").next().unwrap_or(title)
}

fn summary(merged: &Merged, tables: &[ScoreTable]) -> Vec<Fact> {
    let fact = |label: String, value: String, note: String| Fact { label, value, note };
    let examples: usize = merged.groups.iter().map(|g| g.examples.len()).sum();
    let answers: Vec<usize> = merged
        .groups
        .iter()
        .flat_map(|g| g.examples.values())
        .map(|example| example.answers.iter().len())
        .collect();
    let datasets: BTreeSet<&str> =
        merged.groups.iter().flat_map(|g| &g.datasets).map(|dataset| dataset.name.as_str()).collect();
    let datasets = match datasets.len() {
        1 => "1 data set".to_owned(),
        n => format!("{n} data sets"),
    };
    // Suites and models may have had other variants.
    let variants = match (answers.iter().min(), answers.iter().max()) {
        (Some(1), Some(1)) => "1 variant of every prefill".to_owned(),
        (Some(least), Some(most)) if least == most => format!("{most} variants of every prefill"),
        (Some(least), Some(most)) => format!("{least} to {most} variants of a prefill"),
        _ => String::new(),
    };
    let mut facts = vec![
        fact("Examples".into(), grouped(examples as u64), datasets),
        fact("Answers".into(), grouped(answers.iter().sum::<usize>() as u64), variants),
    ];
    for table in tables {
        facts.extend(headlines(table, tables.len() > 1));
    }
    facts
}

/// The full cache's average, and the best compressed one of every budget; `named` by the table where there are several.
fn headlines(table: &ScoreTable, named: bool) -> Vec<Fact> {
    let mut facts = Vec::new();
    let Some(last) = table.columns.len().checked_sub(1) else { return facts };
    let of = if named { format!("{}: ", short(&table.title)) } else { String::new() };
    let name = &table.columns[last].title;
    let score = |row: &kvsweep_results::ScoreRow| row.cells.get(last).copied().flatten();
    let full = table.rows.iter().filter(|row| row.budget.is_none()).find_map(|row| Some((row, score(row)?)));
    if let Some((row, cell)) = full {
        let note = sweep::interval(&cell).map(|(l, h)| format!("{} to {}, {name}", fixed(l, 1), fixed(h, 1)));
        facts.push(Fact {
            label: format!("{of}{}, everything kept", row.method),
            value: fixed(cell.score, 2),
            note: note.unwrap_or_else(|| name.clone()),
        });
    }
    let mut budgets: Vec<Budget> = table.rows.iter().filter_map(|row| row.budget).collect();
    budgets.sort_unstable();
    budgets.dedup();
    for budget in budgets {
        let rows = || table.rows.iter().filter(|row| row.budget == Some(budget));
        let scored = || rows().filter_map(|row| Some((row, score(row)?)));
        let best = scored().reduce(|best, other| if other.1.score > best.1.score { other } else { best });
        let Some((row, cell)) = best else { continue };
        let mut note = fixed(cell.score, 2);
        match scored().filter(|(_, other)| other.score == cell.score).count() {
            1 => {}
            ties => note = format!("{note}, as {} others", ties - 1),
        }
        if let Some((_, full)) = &full {
            let loss = cell.score - full.score;
            note.push_str(&format!(", {}{} to full", if loss > 0.0 { "+" } else { "" }, fixed(loss, 2)));
        }
        facts.push(Fact {
            label: format!("{of}best at {}", budget.title()),
            value: row.method.clone(),
            note,
        });
    }
    facts
}

fn figures(merged: &Merged, tables: &[ScoreTable]) -> Result<Vec<FigureGroup>> {
    let mut groups = Vec::new();
    let mut curves = Vec::new();
    let mut left_out = String::new();
    for scores in tables {
        let title = short(&scores.title);
        match scores.rows.iter().filter(|row| row.bytes <= 0.0).count() {
            0 => {}
            rows => {
                left_out.push_str(&format!(" {title}: {rows} rows state no bytes and are not among them."))
            }
        }
        if sweep::score_curves(scores, Columns::Average, XAxis::Bytes).is_none() {
            left_out
                .push_str(&format!(" {title}: no row has an average and bytes, so that curve is not drawn."));
        }
        for (columns, x, what) in [
            (Columns::Average, XAxis::Budget, "average against budget"),
            (Columns::Average, XAxis::Share, "average against share kept"),
            (Columns::Average, XAxis::Bytes, "average against bytes held"),
            (Columns::Categories, XAxis::Budget, "categories against budget"),
            (Columns::Categories, XAxis::Share, "categories against share kept"),
            (Columns::Datasets, XAxis::Budget, "data sets against budget"),
            (Columns::Datasets, XAxis::Share, "data sets against share kept"),
        ] {
            if let Some(data) = sweep::score_curves(scores, columns, x) {
                let caption = format!("{title}: {what}");
                curves.push(Figure { caption, picture: curve::draw(&data)? });
            }
        }
    }
    let intro = "Vertical strokes are intervals; the dashed line is the full cache with its own interval as a band. \
                 Against bytes, methods that store per query head lie further right.";
    if !curves.is_empty() || !left_out.is_empty() {
        groups.push(FigureGroup {
            title: "Curves".into(),
            intro: format!("{intro}{left_out}"),
            figures: curves,
        });
    }
    let mut add = |title: &str, intro: &str, figures: Vec<Figure>| {
        if !figures.is_empty() {
            groups.push(FigureGroup { title: title.into(), intro: intro.into(), figures });
        }
    };

    let (mut needles, mut tasks) = (Vec::new(), Vec::new());
    let (mut kept, mut capacity) = (Vec::new(), Vec::new());
    for group in &merged.groups {
        if let Some(grid) = sweep::needle_grid(group) {
            let caption = format!("All methods and budgets on one scale · {}", group.label());
            needles.push(Figure { caption, picture: heatmap::grid(&grid)? });
        }
        if let Some(grid) = sweep::task_grid(group) {
            let caption = format!("All methods and budgets on one scale · {}", group.label());
            tasks.push(Figure { caption, picture: heatmap::grid(&grid)? });
        }
        if let Some(curves) = sweep::layer_capacities(group) {
            let caption = format!("Capacity by layer · {}", group.label());
            capacity.push(Figure { caption, picture: curve::draw(&curves)? });
        }
        // Small budgets first: what does not fit on the page is the least telling.
        let mut variants: Vec<_> = group.variants.iter().collect();
        variants.sort_by_key(|v| v.budget);
        for variant in variants {
            if let Some(map) = sweep::needle_map(group, variant) {
                let average = map.average().map_or(String::new(), |a| format!(": average {}", fixed(a, 1)));
                let caption = format!("{}{average}", map.title);
                needles.push(Figure { caption, picture: heatmap::draw(&map)? });
            }
            if let Some(map) = sweep::task_map(group, variant) {
                let average = map.average().map_or(String::new(), |a| format!(": average {}", fixed(a, 1)));
                tasks.push(Figure {
                    caption: format!("{}{average}", map.title),
                    picture: heatmap::draw(&map)?,
                });
            }
            if let Some(map) = sweep::retention(group, variant).filter(|_| variant.budget.is_some()) {
                kept.push(Figure { caption: map.title.clone(), picture: retention::draw(&map)? });
            }
            if let Some(map) = sweep::capacity_map(group, variant) {
                capacity.push(Figure { caption: map.title.clone(), picture: head::draw(&map)? });
            }
        }
    }
    add("Needle", "Score by context length, to the right, and depth of the needle, downward.", needles);
    add("RULER", "Score by context length, to the right, and task, downward.", tasks);
    let intro = "The share of the needle's own tokens that each layer and head kept, by the needle's depth, beside the \
                 share of right answers.";
    add("Retention", intro, kept);
    let intro = "KV entries each layer and head was given out of the budget, the mean over prompts.";
    add("Capacity", intro, capacity);
    Ok(groups)
}

fn provenance(merged: &Merged, oddities: &dyn Fn(&str) -> Vec<String>) -> Vec<Provenance> {
    let fact =
        |label: &str, value: String, note: &str| Fact { label: label.into(), value, note: note.into() };
    let mut sources = Vec::new();
    for group in &merged.groups {
        let m = &group.manifest;
        let mut facts = vec![
            fact("Weights", m.model.weights_sha256.clone(), "sha256"),
            fact("Tokenizer", m.model.tokenizer_sha256.clone(), "sha256"),
        ];
        facts.extend(m.model.files.iter().map(|(file, sha256)| fact(file, sha256.clone(), "sha256")));
        facts.push(fact("Device", format!("{} {}", m.device, m.dtype), ""));
        sources.push(Provenance { title: format!("Model {}", m.model.name), facts, remarks: Vec::new() });
        sources.push(Provenance {
            title: format!("Protocol {}", m.protocol.name),
            facts: vec![
                fact("Version", m.protocol.version.clone(), ""),
                fact("Rules", m.protocol.sha256.clone(), "sha256"),
                fact("Suite", format!("{}, {} split", m.suite, m.split), ""),
                fact("Limit", m.limited().unwrap_or_else(|| "none".into()), ""),
                fact("Seed", m.seed.to_string(), ""),
            ],
            remarks: oddities(&m.protocol.name),
        });
        sources.push(Provenance {
            title: "Methods".into(),
            facts: group
                .methods
                .iter()
                .map(|method| {
                    let params: Vec<String> = method.params.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    let params =
                        if params.is_empty() { "no parameters".to_owned() } else { params.join(" ") };
                    fact(&method.spec, params, &format!("{} · id {}", method.granularity, method.params_id()))
                })
                .collect(),
            remarks: Vec::new(),
        });
        sources.push(Provenance {
            title: "Data sets".into(),
            facts: group
                .datasets
                .iter()
                .map(|d| {
                    fact(&d.name, d.sha256.clone(), &format!("sha256, {} examples", grouped(d.examples)))
                })
                .collect(),
            remarks: Vec::new(),
        });
        sources.push(Provenance {
            title: "Runs".into(),
            facts: vec![
                fact("Program", format!("kvsweep {}", m.program.version), ""),
                fact("Commits", group.commits.join(", "), ""),
                fact("Configuration", m.configuration(), "the same across commits"),
                fact("Directories", group.sources.join(", "), ""),
            ],
            remarks: Vec::new(),
        });
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_digits_and_strips() {
        assert_eq!(strip(&[1.0, 0.5, 0.75, 0.5]), "9575");
        assert_eq!(strip(&[]), "");
        assert_eq!((digit(0.0), digit(0.001), digit(1.0)), ('0', '1', '9'));
        assert_eq!(strip(&vec![1.0; 1000]).len(), STRIP);
    }

    #[test]
    fn numbers_are_grouped_in_threes() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1000, 1_234_567].map(grouped).as_slice());
    }
}
