//! Two runs compared cell by cell on the same examples: what got better or worse, which answers changed, what it
//! costs, and whether the same entries are kept.
//!
//! Three families of paired tests are made: methods (mean over their budgets), variants (average over data sets), and
//! cells (one data set). Each is Holm-corrected and the level is shared equally by the three, so that a comparison
//! without any real change raises a false alarm with at most the level's probability.

mod change;
mod cost;
mod flip;
mod notes;
mod overlap;
mod pairing;
mod text;

use serde::Serialize;

pub use change::{CellChange, Change, Scope};
pub use cost::CostChange;
pub use flip::Flip;
pub use overlap::LayerOverlap;
pub(crate) use text::p_value;

use crate::Result;
use crate::error::ResultsError;
use crate::merge::Merged;
use crate::record::ExampleKey;
use crate::stats::{ALPHA, Bootstrap};
use crate::table::TableLayout;

/// Most changed examples that are kept with their texts.
const FLIPS: usize = 50;

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

impl Comparison {
    /// Compares `head` with `base` on the examples and variants both have.
    ///
    /// # Errors
    /// Several models in one of them, different model, protocol or data, nothing in common.
    pub fn new(
        (base_name, base): (&str, &Merged),
        (head_name, head): (&str, &Merged),
        layout: &TableLayout,
        bootstrap: &Bootstrap,
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
        if !differences.is_empty() {
            let (first, second) = (base_name.to_owned(), head_name.to_owned());
            return Err(ResultsError::NotComparable { first, second, differences });
        }
        let pairs = pairing::pair_variants(base, head);
        let shared: Vec<&ExampleKey> =
            head.examples.keys().filter(|key| base.examples.contains_key(*key)).collect();
        if pairs.is_empty() || shared.is_empty() {
            return Err(ResultsError::Empty(format!(
                "`{base_name}` and `{head_name}` have no variant and example in common: nothing to compare"
            )));
        }
        let (overlaps, damaged) = overlap::overlaps(base, head, &pairs, &shared);
        let mut notes = notes::notes(base, head, &pairs, &shared);
        notes.extend(damaged);
        let mut comparison = Self {
            base: base_name.to_owned(),
            head: head_name.to_owned(),
            notes,
            bootstrap: *bootstrap,
            alpha: ALPHA,
            changes: Vec::new(),
            changed_scores: 0,
            changed_texts: 0,
            pairs: 0,
            flips: Vec::new(),
            costs: pairs
                .iter()
                .map(|pair| cost::cost(base, head, *pair, pairing::name(pair.1, &pairs)))
                .collect(),
            overlaps,
        };
        comparison.test_all(base, head, &pairs, &shared, layout);
        comparison.collect_flips(base, head, &pairs, &shared, FLIPS);
        Ok(comparison)
    }

    /// The significant losses. Not empty: `--gate` exits with 3.
    pub fn losses(&self) -> Vec<&CellChange> {
        self.changes.iter().filter(|change| change.change == Change::Worse).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::layout;
    use crate::fixture::{kept, manifest, part, record, write_run};
    use crate::manifest::Manifest;
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
        Comparison::new(("main", &base), ("topic", &head), &layout(), &Bootstrap::default()).unwrap()
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
        let whole = Comparison::new(("a", &base), ("b", &heads), &layout(), &Bootstrap::default()).unwrap();
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
        let text = all.text();
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
        assert!(all.changed_scores > 50 && all.text().contains("more changed answers are not shown"));
        assert!(all.flips[0].base.0 - all.flips[0].head.0 >= all.flips[49].base.0 - all.flips[49].head.0);
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
        assert!(all.losses().is_empty(), "{}", all.text());
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
        let text = all.text();
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
        assert!(all.text().contains("What is kept has changed"));
    }

    #[test]
    fn changed_parameters_are_compared_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let base = write_run(&dir.path().join("a"), &manifest(), |_, _, _| 1.0);
        let mut m = manifest();
        m.methods[1].params.insert("window".into(), "9".into());
        m.budgets = vec![crate::Budget::Entries(64)];
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
        let error = |head| {
            Comparison::new(("main", &base), ("topic", head), &layout(), &Bootstrap::default())
                .unwrap_err()
                .to_string()
        };
        assert!(error(&head).contains("protocol.name: `longbench` against `compresskv`"));
        assert!(error(&other).contains("nothing to compare"));
    }
}
