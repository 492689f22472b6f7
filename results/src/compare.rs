//! Two runs compared cell by cell on the same examples: what got better or worse, which answers changed, what it
//! costs, and whether the same entries are kept.
//!
//! Three families of paired tests are made: methods (mean over their budgets), variants (average over data sets), and
//! cells (one data set). Each is Holm-corrected and the level is shared equally by the three, so that a comparison
//! without any real change raises a false alarm with at most the level's probability.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::Result;
use crate::error::ResultsError;
use crate::kept::{LayerKept, jaccard};
use crate::merge::{Group, Merged};
use crate::record::{ExampleKey, VariantKey};
use crate::render::{bytes, markdown_text};
use crate::stats::{Bootstrap, PairedTest, SAME, Sample, holm};
use crate::table::{Column, TableLayout, exact_percent, group_part};
use crate::text::{excerpt, visible};

/// Characters of a prediction that are shown.
const SHOWN: usize = 160;

/// How to compare.
#[derive(Clone, Copy, Debug)]
pub struct CompareOptions {
    /// How intervals are made.
    pub bootstrap: Bootstrap,
    /// Level of the whole comparison.
    pub alpha: f64,
    /// Most changed examples that are kept with their texts, the largest changes first.
    pub max_flips: usize,
    /// Compare although model, protocol or data differ.
    pub allow_different: bool,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { bootstrap: Bootstrap::default(), alpha: 0.05, max_flips: 50, allow_different: false }
    }
}

/// What happened to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Significantly higher.
    Better,
    /// Significantly lower.
    Worse,
    /// No significant difference.
    Unchanged,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Unchanged => "unchanged",
        })
    }
}

/// What a number is the mean of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// One method over all its budgets and data sets.
    Method,
    /// One variant over all data sets.
    Variant,
    /// One variant on one data set.
    Cell,
}

/// One number of both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CellChange {
    /// What it is the mean of.
    pub scope: Scope,
    /// The method or variant.
    pub variant: String,
    /// The data set's column, or `average`.
    pub column: String,
    /// Percent in the base, over the shared examples.
    pub base: f64,
    /// Percent in the head.
    pub head: f64,
    /// The paired test of `head - base`, scores 0 to 1; its `p_holm` is corrected for the whole comparison.
    pub test: PairedTest,
    /// The verdict.
    pub change: Change,
}

/// An example whose score changed, with both answers. The texts are untrusted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flip {
    /// The data set.
    pub dataset: String,
    /// The example.
    pub example: String,
    /// The variant.
    pub variant: String,
    /// The reference answers.
    pub answers: Vec<String>,
    /// Score and prediction in the base.
    pub base: (f64, String),
    /// Score and prediction in the head.
    pub head: (f64, String),
}

/// What a variant costs, in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CostChange {
    /// The variant.
    pub variant: String,
    /// Mean entries per head, base and head.
    pub entries: (f64, f64),
    /// Mean bytes held, base and head.
    pub bytes: (f64, f64),
    /// Decoded tokens per second, base and head, where timed.
    pub tokens_per_s: (Option<f64>, Option<f64>),
}

/// Whether the same entries are kept in one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerOverlap {
    /// The variant.
    pub variant: String,
    /// The layer.
    pub layer: usize,
    /// Share of the shared examples whose selection in this layer is exactly the same.
    pub identical: f64,
    /// Examples compared by their hashes.
    pub n: usize,
    /// Mean Jaccard index of the kept positions; none where neither stored them.
    pub jaccard: Option<f64>,
    /// Examples compared by their positions.
    pub n_jaccard: usize,
}

/// Two runs compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What the base is called.
    pub base: String,
    /// What the head is called.
    pub head: String,
    /// What a reader must know: manifest fields that differ, what only one of them has.
    pub notes: Vec<String>,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// Level of the whole comparison.
    pub alpha: f64,
    /// All numbers: methods, then variants, then cells.
    pub changes: Vec<CellChange>,
    /// Pairs of answers whose score changed.
    pub changed_scores: usize,
    /// Pairs of answers whose text changed.
    pub changed_texts: usize,
    /// Pairs of answers compared.
    pub pairs: usize,
    /// The largest changes with their texts.
    pub flips: Vec<Flip>,
    /// Costs, by variant.
    pub costs: Vec<CostChange>,
    /// Overlap of what is kept, by variant and layer.
    pub overlaps: Vec<LayerOverlap>,
}

/// The variants of base and head that are the same: same method, budget and granularity; where several are, same
/// parameters too.
fn pair_variants<'a>(base: &'a Group, head: &'a Group) -> Vec<(&'a VariantKey, &'a VariantKey)> {
    let alike = |a: &VariantKey, b: &VariantKey| {
        (&a.method, a.budget, &a.granularity) == (&b.method, b.budget, &b.granularity)
    };
    let only = |group: &'a Group, key: &VariantKey| -> Option<&'a VariantKey> {
        let mut all = group.variants.iter().filter(|other| alike(other, key));
        all.next().filter(|_| all.next().is_none())
    };
    let partner = |key: &'a VariantKey| {
        let exact = base.variants.iter().find(|other| *other == key);
        exact.or_else(|| only(head, key).and_then(|_| only(base, key)))
    };
    head.variants.iter().filter_map(|key| Some((partner(key)?, key))).collect()
}

/// A variant for people: the parameters' id only where it is needed.
fn name(key: &VariantKey, among: &[(&VariantKey, &VariantKey)]) -> String {
    let budget = key.budget.map(|budget| format!("/{budget}")).unwrap_or_default();
    let short = |key: &VariantKey| (key.method.clone(), key.budget);
    let mut text = format!("{}{budget}", key.method);
    if among.iter().filter(|(_, other)| short(other) == short(key)).count() > 1 {
        text.push_str(&format!(" {}#{}", key.granularity, key.params));
    }
    text
}

/// Paired differences by stratum (data set and bucket), with the weight of the column.
type Differences<'a> = BTreeMap<String, (f64, Vec<Sample<'a>>)>;

/// Sums over the budgets of one method.
#[derive(Default)]
struct MethodSums<'a> {
    /// Averages of base and head, one a budget.
    totals: Vec<(f64, f64)>,
    /// By column: number of budgets, weight, summed differences of every example.
    columns: BTreeMap<String, (usize, f64, Vec<Sample<'a>>)>,
}

impl Comparison {
    /// Compares `head` with `base` on the examples and variants both have.
    ///
    /// # Errors
    /// Several models in one of them, different model, protocol or data (unless allowed), nothing in common.
    pub fn new(
        (base_name, base): (&str, &Merged),
        (head_name, head): (&str, &Merged),
        layout: &TableLayout,
        options: &CompareOptions,
    ) -> Result<Self> {
        let (base, head) = match (base.groups.as_slice(), head.groups.as_slice()) {
            ([base], [head]) => (base, head),
            _ => {
                return Err(ResultsError::Empty(
                    "a comparison takes runs of one model and protocol".to_owned(),
                ));
            }
        };
        let differences = base.identity.incomparable(&head.identity);
        if !differences.is_empty() && !options.allow_different {
            let (first, second) = (base_name.to_owned(), head_name.to_owned());
            return Err(ResultsError::NotComparable { first, second, differences });
        }
        let pairs = pair_variants(base, head);
        let shared: Vec<&ExampleKey> =
            head.examples.keys().filter(|key| base.examples.contains_key(*key)).collect();
        if pairs.is_empty() || shared.is_empty() {
            return Err(ResultsError::Empty(format!(
                "`{base_name}` and `{head_name}` have no variant and example in common: nothing to compare"
            )));
        }
        let (overlaps, damaged) = overlaps(base, head, &pairs, &shared);
        let mut notes = notes(base, head, &pairs, &shared);
        notes.extend(damaged);
        let mut comparison = Self {
            base: base_name.to_owned(),
            head: head_name.to_owned(),
            notes,
            bootstrap: options.bootstrap,
            alpha: options.alpha,
            changes: Vec::new(),
            changed_scores: 0,
            changed_texts: 0,
            pairs: 0,
            flips: Vec::new(),
            costs: pairs.iter().map(|pair| cost(base, head, *pair, name(pair.1, &pairs))).collect(),
            overlaps,
        };
        comparison.test_all(base, head, &pairs, &shared, layout);
        comparison.collect_flips(base, head, &pairs, &shared, options.max_flips);
        Ok(comparison)
    }

    fn test_all(
        &mut self,
        base: &Group,
        head: &Group,
        pairs: &[(&VariantKey, &VariantKey)],
        shared: &[&ExampleKey],
        layout: &TableLayout,
    ) {
        let in_column = |column: &Column, key: &ExampleKey| {
            let bucket = head.examples.get(key).and_then(|example| example.info.bucket.as_deref());
            key.dataset == column.dataset && (column.bucket.is_none() || column.bucket.as_deref() == bucket)
        };
        let present: Vec<&Column> =
            layout.columns.iter().filter(|column| shared.iter().any(|key| in_column(column, key))).collect();
        let (weights, whole) = layout.weights(&present);
        if !whole {
            self.notes.push(format!(
                "the average is the plain mean of the {} columns that both have, not the protocol's average",
                present.len()
            ));
        }
        // Scores of the shared examples by column: base, head, and their difference, for every pair of variants.
        let scores = |column: &Column, (old, new): (&VariantKey, &VariantKey)| {
            let score = |group: &Group, key: &ExampleKey, variant: &VariantKey| {
                Some(group.examples.get(key)?.variants.get(variant)?.record.score)
            };
            let (mut before, mut after, mut differences) = (Vec::new(), Vec::new(), Vec::new());
            for key in shared.iter().filter(|key| in_column(column, key)) {
                let (Some(old), Some(new)) = (score(base, key, old), score(head, key, new)) else { continue };
                let context = head.examples.get(*key).and_then(|example| example.info.context.as_deref());
                before.push(old);
                after.push(new);
                differences.push(Sample { value: new - old, context });
            }
            (before, after, differences)
        };
        let mut methods: BTreeMap<String, MethodSums<'_>> = BTreeMap::new();
        let mut order: Vec<String> = Vec::new();
        let (mut by_method, mut by_variant, mut by_cell) = (Vec::new(), Vec::new(), Vec::new());
        for (old, new) in pairs {
            let variant = name(new, pairs);
            let method = format!("{} {}", new.method, new.granularity);
            if !order.contains(&method) {
                order.push(method.clone());
            }
            let mut all: Differences<'_> = BTreeMap::new();
            let (mut before, mut after) = (Vec::new(), Vec::new());
            for (column, weight) in present.iter().zip(&weights) {
                let (old, new, differences) = scores(column, (old, new));
                if differences.is_empty() {
                    continue;
                }
                let printed = ((column.percent)(&old), (column.percent)(&new));
                let alone = BTreeMap::from([(column.key(), (1.0, differences.clone()))]);
                by_cell.push(self.change(Scope::Cell, &variant, &column.title, printed, &alone));
                // A column that the average leaves out is a cell only.
                if *weight > 0.0 {
                    before.push((*weight, exact_percent(&old)));
                    after.push((*weight, exact_percent(&new)));
                    all.insert(column.key(), (*weight, differences));
                }
            }
            let total = ((layout.average.percent)(&before), (layout.average.percent)(&after));
            by_variant.push(self.change(Scope::Variant, &variant, "average", total, &all));
            // A method's difference on an example is the mean over its budgets: one value an example, so that the
            // examples stay the units that are resampled.
            let sums = methods.entry(method).or_default();
            sums.totals.push(total);
            for (title, (weight, differences)) in all {
                match sums.columns.entry(title) {
                    Entry::Vacant(place) => drop(place.insert((1, weight, differences))),
                    Entry::Occupied(mut place) => {
                        let (count, _, sum) = place.get_mut();
                        // A budget with other examples than the first (a merge of unlike runs) stays out.
                        if sum.len() == differences.len() {
                            *count += 1;
                            sum.iter_mut().zip(differences).for_each(|(sum, other)| sum.value += other.value);
                        }
                    }
                }
            }
        }
        for method in order {
            // One budget: the variant says it all.
            let Some(MethodSums { totals, columns }) =
                methods.remove(&method).filter(|sums| sums.totals.len() > 1)
            else {
                continue;
            };
            let mut differences: Differences<'_> = BTreeMap::new();
            for (title, (count, weight, mut sum)) in columns {
                sum.iter_mut().for_each(|sample| sample.value /= count as f64);
                differences.insert(title, (weight, sum));
            }
            let n = totals.len() as f64;
            let total = totals.iter().fold((0.0, 0.0), |sum, t| (sum.0 + t.0 / n, sum.1 + t.1 / n));
            by_method.push(self.change(Scope::Method, &method, "average", total, &differences));
        }
        let families: Vec<Vec<CellChange>> =
            [by_method, by_variant, by_cell].into_iter().filter(|family| !family.is_empty()).collect();
        let shares = families.len() as f64;
        for family in families {
            let adjusted = holm(&family.iter().map(|change| change.test.p).collect::<Vec<_>>());
            for (mut change, p) in family.into_iter().zip(adjusted) {
                change.test.p_holm = (p * shares).min(1.0);
                change.change = if change.test.p_holm >= self.alpha {
                    Change::Unchanged
                } else if change.test.estimate.mean < 0.0 {
                    Change::Worse
                } else {
                    Change::Better
                };
                self.changes.push(change);
            }
        }
    }

    fn change(
        &self,
        scope: Scope,
        variant: &str,
        column: &str,
        (base, head): (f64, f64),
        differences: &Differences<'_>,
    ) -> CellChange {
        CellChange {
            scope,
            variant: variant.to_owned(),
            column: column.to_owned(),
            base,
            head,
            test: self.bootstrap.paired(differences),
            change: Change::Unchanged,
        }
    }

    fn collect_flips(
        &mut self,
        base: &Group,
        head: &Group,
        pairs: &[(&VariantKey, &VariantKey)],
        shared: &[&ExampleKey],
        limit: usize,
    ) {
        let size = |flip: &Flip| (flip.head.0 - flip.base.0).abs();
        let mut flips: Vec<Flip> = Vec::new();
        for key in shared {
            let (Some(before), Some(after)) = (base.examples.get(*key), head.examples.get(*key)) else {
                continue;
            };
            for (old, new) in pairs {
                let (Some(old), Some(new_record)) = (before.variants.get(*old), after.variants.get(*new))
                else {
                    continue;
                };
                let (old, record) = (&old.record, &new_record.record);
                self.pairs += 1;
                self.changed_texts += usize::from(old.prediction != record.prediction);
                if (old.score - record.score).abs() <= SAME {
                    continue;
                }
                self.changed_scores += 1;
                // Only the largest are kept: all of a long comparison's would be much text.
                if flips.len() >= 4 * limit.max(64) {
                    flips.sort_by(|a, b| size(b).total_cmp(&size(a)));
                    flips.truncate(limit);
                }
                flips.push(Flip {
                    dataset: key.dataset.clone(),
                    example: key.example.clone(),
                    variant: name(new, pairs),
                    answers: after.info.answers.clone(),
                    base: (old.score, old.prediction.clone()),
                    head: (record.score, record.prediction.clone()),
                });
            }
        }
        flips.sort_by(|a, b| size(b).total_cmp(&size(a)));
        flips.truncate(limit);
        self.flips = flips;
    }

    /// The significant losses. Not empty: `--gate` exits with 3.
    pub fn losses(&self) -> Vec<&CellChange> {
        self.changes.iter().filter(|change| change.change == Change::Worse).collect()
    }

    /// Writes the comparison for people.
    pub fn render(&self, markdown: bool) -> String {
        let safe = |text: &str| if markdown { markdown_text(text) } else { visible(text) };
        let mut out = String::new();
        let title = format!("{} against {}", self.head, self.base);
        out.push_str(&if markdown {
            format!("**{}**\n\n", safe(&title))
        } else {
            format!("{}\n\n", safe(&title))
        });
        for note in &self.notes {
            out.push_str(&format!("{}{}\n", if markdown { "- " } else { "" }, safe(note)));
        }
        if !self.notes.is_empty() {
            out.push('\n');
        }
        let shown: Vec<&CellChange> = self
            .changes
            .iter()
            .filter(|change| change.scope != Scope::Cell || change.change != Change::Unchanged)
            .collect();
        let rows = shown.iter().map(|change| {
            let end = |value: f64| format!("{:+.2}", 100.0 * value);
            let interval = change.test.estimate.interval;
            vec![
                change.variant.clone(),
                change.column.clone(),
                format!("{:.2}", change.base),
                format!("{:.2}", change.head),
                end(change.test.estimate.mean),
                interval
                    .map_or_else(|| "-".to_owned(), |(low, high)| format!("[{}, {}]", end(low), end(high))),
                format!("{}/{}/{}", change.test.wins, change.test.losses, change.test.ties),
                p_value(change.test.p_holm),
                p_value(change.test.p_sign),
                change.change.to_string(),
            ]
        });
        let head = [
            "variant",
            "column",
            "base",
            "head",
            "difference",
            "95 %",
            "won/lost/same",
            "p (Holm)",
            "p (sign)",
            "verdict",
        ];
        out.push_str(&grid(&head, rows.collect(), markdown));
        let hidden = self.changes.len() - shown.len();
        out.push_str(&format!(
            "\n{hidden} cells without a significant change are not shown; {} of {} answers differ in text, {} in score\n\n",
            self.changed_texts, self.pairs, self.changed_scores
        ));
        let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
        let rows = self.costs.iter().map(|cost| {
            vec![
                cost.variant.clone(),
                format!("{:.1}", cost.entries.0),
                format!("{:.1}", cost.entries.1),
                bytes(cost.bytes.0),
                bytes(cost.bytes.1),
                rate(cost.tokens_per_s.0),
                rate(cost.tokens_per_s.1),
            ]
        });
        let head = ["variant", "entries base", "head", "KV held base", "head", "tokens/s base", "head"];
        out.push_str(&grid(&head, rows.collect(), markdown));
        out.push('\n');
        let moved: Vec<&LayerOverlap> =
            self.overlaps.iter().filter(|overlap| overlap.identical < 1.0).collect();
        if moved.is_empty() {
            out.push_str("every stored selection is the same in every layer\n");
        } else {
            let rows = moved.iter().map(|overlap| {
                vec![
                    overlap.variant.clone(),
                    overlap.layer.to_string(),
                    format!("{:.1} %", 100.0 * overlap.identical),
                    overlap.n.to_string(),
                    overlap.jaccard.map_or_else(|| "-".to_owned(), |jaccard| format!("{jaccard:.4}")),
                    overlap.n_jaccard.to_string(),
                ]
            });
            out.push_str("What is kept has changed:\n\n");
            let head = ["variant", "layer", "same selection", "of", "Jaccard", "of"];
            out.push_str(&grid(&head, rows.collect(), markdown));
        }
        for flip in &self.flips {
            let answer =
                |(score, text): &(f64, String)| format!("{score:.2}  {}", safe(&excerpt(text, SHOWN)));
            out.push_str(&format!(
                "\n{} {} {}\n  answer  {}\n  base    {}\n  head    {}\n",
                safe(&flip.dataset),
                safe(&flip.example),
                safe(&flip.variant),
                safe(&excerpt(&flip.answers.join(" | "), SHOWN)),
                answer(&flip.base),
                answer(&flip.head)
            ));
        }
        if self.changed_scores > self.flips.len() {
            out.push_str(&format!(
                "\n{} more changed answers are not shown\n",
                self.changed_scores - self.flips.len()
            ));
        }
        let losses = self.losses();
        out.push_str(&match losses.as_slice() {
            [] => format!("\ngate: no significant loss at {}\n", self.alpha),
            losses => {
                let names: Vec<String> =
                    losses.iter().map(|loss| safe(&format!("{} ({})", loss.variant, loss.column))).collect();
                format!(
                    "\ngate: {} significant losses at {}: {}\n",
                    losses.len(),
                    self.alpha,
                    names.join(", ")
                )
            }
        });
        out
    }

    /// Writes everything as versioned JSON.
    ///
    /// # Errors
    /// Never for a comparison made by [`Comparison::new`].
    pub fn to_json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            format: &'static str,
            version: u32,
            losses: usize,
            comparison: &'a Comparison,
        }
        let versioned = Versioned {
            format: "kvsweep-compare",
            version: 1,
            losses: self.losses().len(),
            comparison: self,
        };
        serde_json::to_string_pretty(&versioned).map_err(|error| ResultsError::Empty(error.to_string()))
    }
}

pub(crate) fn p_value(p: f64) -> String {
    if p < 0.0001 { "<0.0001".to_owned() } else { format!("{p:.4}") }
}

/// Rows under a head, as aligned text or as a Markdown table.
pub(crate) fn grid(head: &[&str], rows: Vec<Vec<String>>, markdown: bool) -> String {
    let head: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    let safe = |row: &Vec<String>| -> Vec<String> {
        row.iter().map(|cell| if markdown { markdown_text(cell) } else { visible(cell) }).collect()
    };
    let rows: Vec<Vec<String>> = [&head].into_iter().chain(&rows).map(safe).collect();
    let mut out = String::new();
    if markdown {
        for (place, row) in rows.iter().enumerate() {
            out.push_str(&format!("| {} |\n", row.join(" | ")));
            if place == 0 {
                out.push_str(&format!("|{}\n", " --- |".repeat(row.len())));
            }
        }
        return out;
    }
    let widths: Vec<usize> = (0..head.len())
        .map(|place| {
            rows.iter().filter_map(|row| row.get(place)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    for row in &rows {
        let mut line = String::new();
        for (place, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            line.push_str(&if place == 0 { format!("{cell}{pad}  ") } else { format!("{pad}{cell}  ") });
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn notes(
    base: &Group,
    head: &Group,
    pairs: &[(&VariantKey, &VariantKey)],
    shared: &[&ExampleKey],
) -> Vec<String> {
    let mut notes: Vec<String> = base
        .identity
        .differences_but_parts(&head.identity)
        .iter()
        .map(|difference| format!("differs {}", difference.to_string().trim_start()))
        .collect();
    for (side, group) in [("base", base), ("head", head)] {
        notes.extend(group_part(group).into_iter().map(|why| format!("the {side} is a part: {why}")));
        if group.manifests.iter().any(|manifest| manifest.schema == 1) {
            notes.push(format!(
                "the {side} is of schema 1, which states neither the model's configuration files nor the protocol's rules: \
                 whether they differ is unknown"
            ));
        }
    }
    let mut one_sided = |what: &str, only: Vec<String>| {
        if !only.is_empty() {
            let shown: Vec<&str> = only.iter().take(8).map(String::as_str).collect();
            let more = if only.len() > shown.len() { ", …" } else { "" };
            notes.push(format!("{} {what}: {}{more}", only.len(), shown.join(", ")));
        }
    };
    let unpaired = |group: &Group, paired: Vec<&VariantKey>| -> Vec<String> {
        group.variants.iter().filter(|key| !paired.contains(key)).map(ToString::to_string).collect()
    };
    one_sided("variants are in the base only", unpaired(base, pairs.iter().map(|pair| pair.0).collect()));
    one_sided("variants are in the head only", unpaired(head, pairs.iter().map(|pair| pair.1).collect()));
    let missing = |group: &Group| -> Vec<String> {
        let shared: BTreeSet<&&ExampleKey> = shared.iter().collect();
        group
            .examples
            .keys()
            .filter(|key| !shared.contains(key))
            .map(|key| format!("{}/{}", key.dataset, key.example))
            .collect()
    };
    one_sided("examples are in the base only", missing(base));
    one_sided("examples are in the head only", missing(head));
    let prompt =
        |group: &Group, key: &ExampleKey| group.examples.get(key).map(|e| e.info.prompt_sha256.clone());
    let prompts = shared.iter().filter(|key| prompt(base, key) != prompt(head, key)).count();
    if prompts > 0 {
        notes.push(format!("the prompts of {prompts} examples differ"));
    }
    notes
}

fn cost(base: &Group, head: &Group, (old, new): (&VariantKey, &VariantKey), variant: String) -> CostChange {
    let of = |group: &Group, key: &VariantKey| {
        let all: Vec<_> = group.examples.values().filter_map(|example| example.variants.get(key)).collect();
        let n = all.len().max(1) as f64;
        let seconds: Option<f64> = all.iter().map(|variant| variant.decode_s).sum();
        let tokens: u32 = all.iter().map(|variant| variant.record.new_tokens).sum();
        (
            all.iter().map(|variant| variant.record.kept.entries_mean).sum::<f64>() / n,
            all.iter().map(|variant| variant.record.kept.bytes as f64).sum::<f64>() / n,
            seconds.filter(|seconds| *seconds > 0.0).map(|seconds| f64::from(tokens) / seconds),
        )
    };
    let (before, after) = (of(base, old), of(head, new));
    CostChange {
        variant,
        entries: (before.0, after.0),
        bytes: (before.1, after.1),
        tokens_per_s: (before.2, after.2),
    }
}

fn overlaps(
    base: &Group,
    head: &Group,
    pairs: &[(&VariantKey, &VariantKey)],
    shared: &[&ExampleKey],
) -> (Vec<LayerOverlap>, Option<String>) {
    /// Sums of one layer: equal hashes, hashes, Jaccard sum, Jaccard count.
    #[derive(Clone, Copy, Default)]
    struct Sums(usize, usize, f64, usize);
    let mut sums: Vec<Vec<Sums>> = vec![Vec::new(); pairs.len()];
    let mut damaged: Vec<String> = Vec::new();
    for key in shared {
        let (Some(before), Some(after)) = (base.examples.get(*key), head.examples.get(*key)) else {
            continue;
        };
        let [kept_before, kept_after] = [base, head].map(|group| {
            group.kept(key).unwrap_or_else(|error| {
                damaged.push(error.to_string());
                crate::KeptPositions::default()
            })
        });
        for ((old, new), layers) in pairs.iter().zip(&mut sums) {
            let digest = |example: &crate::MergedExample, variant: &VariantKey| {
                example.variants.get(variant).and_then(|variant| variant.record.selection.clone())
            };
            if let (Some(a), Some(b)) = (digest(before, old), digest(after, new)) {
                layers.resize(layers.len().max(a.layers.len()).max(b.layers.len()), Sums::default());
                for (layer, sum) in layers.iter_mut().enumerate() {
                    sum.0 += usize::from(a.layers.get(layer) == b.layers.get(layer));
                    sum.1 += 1;
                }
            }
            let positions = |kept: &crate::KeptPositions, variant: &VariantKey| -> Option<Vec<LayerKept>> {
                let name = variant.to_string();
                kept.variants.iter().find(|kept| kept.variant == name).map(|kept| kept.layers.clone())
            };
            if let (Some(a), Some(b)) = (positions(&kept_before, old), positions(&kept_after, new)) {
                layers.resize(layers.len().max(a.len()).max(b.len()), Sums::default());
                for ((a, b), sum) in a.iter().zip(&b).zip(layers.iter_mut()) {
                    if let Some(index) = jaccard(a, b, after.info.prompt_tokens) {
                        sum.2 += index;
                        sum.3 += 1;
                    }
                }
            }
        }
    }
    let mut all = Vec::new();
    for ((_, new), layers) in pairs.iter().zip(sums) {
        for (layer, Sums(same, n, total, n_jaccard)) in layers.into_iter().enumerate() {
            all.push(LayerOverlap {
                variant: name(new, pairs),
                layer,
                identical: if n > 0 { same as f64 / n as f64 } else { 1.0 },
                n,
                jaccard: (n_jaccard > 0).then(|| total / n_jaccard as f64),
                n_jaccard,
            });
        }
    }
    damaged.sort();
    damaged.dedup();
    let note = damaged.first().map(|first| {
        let more =
            if damaged.len() > 1 { format!(" (and {} more)", damaged.len() - 1) } else { String::new() };
        format!("kept positions of a damaged file are not compared: {first}{more}")
    });
    (all, note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use crate::render::tests::layout;
    use crate::run::tests::{kept, manifest, part, record, write_run};
    use crate::run::{Run, RunDir};

    /// Forty examples a data set.
    fn large() -> Manifest {
        let mut m = manifest();
        m.datasets.iter_mut().for_each(|dataset| (dataset.examples, dataset.total) = (40, 40));
        m
    }

    fn score(row: u64) -> f64 {
        ((row * 37) % 11) as f64 / 10.0
    }

    fn compare(base: Run, head: Run) -> Comparison {
        let (base, head) = (Merged::of(&[base], false).unwrap(), Merged::of(&[head], false).unwrap());
        Comparison::new(("main", &base), ("topic", &head), &layout(), &CompareOptions::default()).unwrap()
    }

    #[test]
    fn a_damaged_file_of_kept_positions_is_told_and_the_rest_compared() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| write_run(&dir.path().join(name), &manifest(), |_, row, _| score(row));
        let (base, head) = (write("base"), write("head"));
        let file = crate::run::kept_path(&head.path, &head.examples[0].key);
        std::fs::write(&file, "kvsweep-kept 1\n0 all\n").unwrap();
        let comparison = compare(base, head);
        assert_eq!(comparison.changed_texts, 0);
        let told = comparison.notes.iter().find(|note| note.contains("damaged")).unwrap();
        assert!(told.contains(file.to_str().unwrap()) && told.contains("line 2"), "{told}");
        assert!(comparison.overlaps.iter().all(|o| o.n_jaccard == 5), "{:?}", comparison.overlaps[0]);
    }

    #[test]
    fn parts_are_compared_and_say_that_they_are_parts() {
        let dir = tempfile::tempdir().unwrap();
        let base = write_run(&dir.path().join("base"), &large(), |_, row, _| score(row));
        let worse = |row: u64| (score(row) - 0.4).max(0.0);
        let parts = [1, 2].map(|index| {
            write_run(&dir.path().join(index.to_string()), &part(&large(), index, 2), |_, row, _| worse(row))
        });
        let comparison = compare(base.clone(), parts[0].clone());
        let note = "the head is a part: part 1 of 2; part 2 missing: 40 examples";
        assert!(comparison.notes.contains(&note.to_owned()), "{:?}", comparison.notes);
        assert!(!comparison.losses().is_empty());
        let heads = Merged::of(&parts, false).unwrap();
        let base = Merged::of(&[base], false).unwrap();
        let whole =
            Comparison::new(("a", &base), ("b", &heads), &layout(), &CompareOptions::default()).unwrap();
        assert_eq!((whole.notes.as_slice(), whole.changes[0].test.estimate.n), ([].as_slice(), 80));
    }

    #[test]
    fn equal_runs_are_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let base = write_run(&dir.path().join("a"), &manifest(), |_, row, _| score(row));
        let head = write_run(&dir.path().join("b"), &manifest(), |_, row, _| score(row));
        let all = compare(base, head);
        assert!(all.losses().is_empty() && all.flips.is_empty());
        assert_eq!((all.changed_scores, all.changed_texts, all.pairs), (0, 0, 18));
        assert!(all.changes.iter().all(|change| change.change == Change::Unchanged && change.test.p == 1.0));
        assert!(all.overlaps.iter().all(|overlap| overlap.identical == 1.0 && overlap.jaccard == Some(1.0)));
        let text = all.render(false);
        assert!(
            text.contains("gate: no significant loss") && text.contains("the same in every layer"),
            "{text}"
        );
        assert_eq!(all.costs[1].tokens_per_s, (Some(10.0), Some(10.0)));
    }

    #[test]
    fn a_loss_of_one_method_is_seen_and_the_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let base = write_run(&dir.path().join("a"), &large(), |_, row, _| score(row));
        // snapkv at both budgets loses on two thirds of the rows, by differing amounts.
        let head = write_run(&dir.path().join("b"), &large(), |_, row, variant| {
            let loss = if variant > 0 && row % 3 != 0 { 0.05 + (row % 4) as f64 / 20.0 } else { 0.0 };
            (score(row) - loss).max(0.0)
        });
        let all = compare(base, head);
        let losses: Vec<(Scope, &str, &str)> = all
            .losses()
            .iter()
            .map(|loss| (loss.scope, loss.variant.as_str(), loss.column.as_str()))
            .collect();
        assert!(losses.contains(&(Scope::Method, "snapkv kv-head", "average")), "{losses:?}");
        assert!(losses.contains(&(Scope::Variant, "snapkv/64", "average")), "{losses:?}");
        assert!(losses.iter().all(|(_, variant, _)| variant.starts_with("snapkv")), "{losses:?}");
        let average =
            all.changes.iter().find(|c| c.scope == Scope::Variant && c.variant == "snapkv/64").unwrap();
        let (low, high) = average.test.estimate.interval.unwrap();
        assert!(low < average.test.estimate.mean && average.test.estimate.mean < high && high < 0.0);
        assert!((average.head - average.base - 100.0 * average.test.estimate.mean).abs() < 1e-9);
        assert_eq!(all.flips.len(), 50);
        assert!(all.changed_scores > 50 && all.render(false).contains("more changed answers are not shown"));
        assert!(all.flips[0].base.0 - all.flips[0].head.0 >= all.flips[49].base.0 - all.flips[49].head.0);
        assert!(all.render(true).contains("significant losses"));
        let json: serde_json::Value = serde_json::from_str(&all.to_json().unwrap()).unwrap();
        assert_eq!(json["losses"], all.losses().len());
    }

    #[test]
    fn a_difference_in_the_last_bit_is_no_change_and_equal_losses_of_three_rows_prove_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let base = write_run(&dir.path().join("a"), &manifest(), |_, row, _| [0.3, 0.5, 0.5][row as usize]);
        let head = write_run(&dir.path().join("b"), &manifest(), |dataset, row, _| {
            [0.1, 0.3, 0.3][row as usize] + if dataset == "trec" { 0.2 } else { 0.0 }
        });
        let all = compare(base, head);
        assert!(all.losses().is_empty(), "{}", all.render(false));
        let cell = |column: &str| {
            let found = |c: &&CellChange| c.scope == Scope::Cell && c.variant == "full" && c.column == column;
            all.changes.iter().find(found).unwrap().test
        };
        assert!((cell("qasper").p - 0.25).abs() < 1e-9 && cell("qasper").losses == 3, "{:?}", cell("qasper"));
        // 0.1 + 0.2 is not 0.3, and the same score all the same.
        assert_eq!((cell("trec").p, cell("trec").ties), (1.0, 3));
        assert_eq!(all.changed_scores, 9, "three rows of qasper under three variants");
    }

    #[test]
    fn one_flip_in_few_examples_is_no_loss() {
        let dir = tempfile::tempdir().unwrap();
        let base = write_run(&dir.path().join("a"), &manifest(), |_, _, _| 1.0);
        let head = write_run(&dir.path().join("b"), &manifest(), |dataset, row, variant| {
            if (dataset, row, variant) == ("trec", 1, 2) { 0.0 } else { 1.0 }
        });
        let all = compare(base, head);
        assert!(all.losses().is_empty());
        assert_eq!((all.changed_scores, all.flips[0].example.as_str()), (1, "trec-1"));
        let text = all.render(false);
        assert!(text.contains("trec trec-1 snapkv/128"), "{text}");
        // The prediction is hostile and stays text.
        assert!(text.contains("\\u{202e} <script>") && !text.contains('\u{202e}'), "{text}");
    }

    #[test]
    fn a_silent_change_of_what_is_kept_shows() {
        let dir = tempfile::tempdir().unwrap();
        let base = write_run(&dir.path().join("a"), &manifest(), |_, _, _| 1.0);
        let m = manifest();
        let mut run = RunDir::create_or_continue(&dir.path().join("b"), &m).unwrap();
        for dataset in ["qasper", "trec"] {
            for row in 0..3 {
                let mut record = record(&m, dataset, row, &[1.0; 3]);
                let moved = kept(&m, 1);
                for (variant, kept) in record.variants.iter_mut().zip(&moved.variants) {
                    variant.selection = Some(crate::SelectionDigest::of(&kept.layers));
                }
                run.append(&record, Some(&moved)).unwrap();
            }
        }
        let all = compare(base, run.records().unwrap());
        assert!(all.losses().is_empty() && all.changed_scores == 0);
        let moved =
            all.overlaps.iter().find(|overlap| overlap.variant == "snapkv/64" && overlap.layer == 1).unwrap();
        // Head 0: {0,1,5} and {0,1,6} share 2 of 4; head 1: {2} and {3} share none.
        assert_eq!((moved.identical, moved.jaccard, moved.n), (0.0, Some(0.25), 6));
        let still =
            all.overlaps.iter().find(|overlap| overlap.variant == "snapkv/64" && overlap.layer == 0).unwrap();
        assert_eq!((still.identical, still.jaccard), (1.0, Some(1.0)));
        assert!(all.render(false).contains("What is kept has changed"));
    }

    #[test]
    fn changed_parameters_are_compared_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let base = write_run(&dir.path().join("a"), &manifest(), |_, _, _| 1.0);
        let mut m = manifest();
        m.methods[1].params.insert("window".into(), "9".into());
        m.budgets = vec![64];
        let head = write_run(&dir.path().join("b"), &m, |_, _, _| 1.0);
        let all = compare(base, head);
        let notes = all.notes.join("\n");
        assert!(notes.contains("methods[snapkv].params.window: `8` against `9`"), "{notes}");
        assert!(notes.contains("1 variants are in the base only: snapkv/128"), "{notes}");
        assert!(all.costs.iter().any(|cost| cost.variant == "snapkv/64"));
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = write_run(&dir.path().join("a"), &manifest(), |_, _, _| 1.0);
        let mut m = manifest();
        m.protocol.name = "compresskv".into();
        let head = write_run(&dir.path().join("b"), &m, |_, _, _| 1.0);
        m.protocol.name = "longbench".into();
        m.methods.iter_mut().for_each(|method| method.spec.push('x'));
        let other = write_run(&dir.path().join("c"), &m, |_, _, _| 1.0);
        let [base, head, other] = [base, head, other].map(|run| Merged::of(&[run], false).unwrap());
        let options = CompareOptions::default();
        let error = |head| {
            Comparison::new(("main", &base), ("topic", head), &layout(), &options).unwrap_err().to_string()
        };
        assert!(error(&head).contains("protocol.name: `longbench` against `compresskv`"));
        assert!(error(&other).contains("nothing to compare"));
        let options = CompareOptions { allow_different: true, ..options };
        assert!(Comparison::new(("main", &base), ("topic", &head), &layout(), &options).is_ok());
    }
}
