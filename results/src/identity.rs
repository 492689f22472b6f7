//! What makes a run what it is: every fact of its manifest, with what the fact is about. Continuing, merging, comparing
//! and storing a run ask here whether two runs are the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Difference;
use crate::io::hash_parts;
use crate::manifest::{
    CALIBRATION, ESSAYS, LIMIT_TAKES, MASKED_HEADS, Manifest, MethodInfo, ModelInfo, NEEDLE_DEPTHS,
    NEEDLE_LENGTHS, ProgramInfo, ProtocolInfo, RULER_LENGTHS, RunDataset, Shard,
};

impl Manifest {
    /// What the run is, for continuing, merging, comparing and storing it.
    pub(crate) fn identity(&self) -> Identity {
        Identity::of(self)
    }

    /// Identifies the measurement across commits and parts: sixteen hexadecimal digits over everything but the program and
    /// the part.
    pub fn configuration(&self) -> String {
        self.identity().configuration()
    }
}

/// What a fact is about, and so where it must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Concern {
    /// The program that ran: only for continuing a run.
    Program,
    /// Every number of the run: for standing in one table.
    Measurement,
    /// What some numbers are made from (a data set, a calibration): for standing in one table, where both runs have it.
    Source,
    /// Which numbers there are: runs that differ in it add to each other.
    Extent,
    /// Which part of them this process ran.
    Part,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fact {
    value: String,
    concern: Concern,
    /// The first schema of manifests that states it.
    since: u32,
}

/// The facts of a manifest, by dotted path; list entries go by their name where they have one, so that an inserted
/// method does not shift all that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    schema: u32,
    facts: BTreeMap<String, Fact>,
}

impl Identity {
    /// The facts of a manifest.
    pub(crate) fn of(manifest: &Manifest) -> Self {
        use Concern::{Extent, Measurement, Part, Program, Source};
        // No `..` in any pattern here: a field that is added does not compile before it is said what it is about.
        let Manifest {
            schema,
            program: ProgramInfo { version, commit },
            model: ModelInfo { name: model, weights_sha256, tokenizer_sha256, files, embedded },
            suite,
            split,
            protocol: ProtocolInfo { name: protocol, version: protocol_version, sha256: protocol_sha256 },
            datasets,
            methods,
            budgets,
            device,
            dtype,
            limit,
            shard,
            seed,
            settings,
        } = manifest;
        let mut facts = Facts { schema: *schema, facts: BTreeMap::new() };
        facts.add("schema", schema, Program, 1);
        facts.add("program.version", version, Program, 1);
        facts.add("program.commit", commit, Program, 1);
        facts.add("model.name", model, Measurement, 1);
        facts.add("model.weights_sha256", weights_sha256, Measurement, 1);
        facts.add("model.tokenizer_sha256", tokenizer_sha256, Measurement, 1);
        for (file, sha256) in files {
            facts.add(&format!("model.files[{file}]"), sha256, Measurement, 2);
        }
        facts.add("model.embedded", embedded, Measurement, 1);
        facts.add("suite", suite, Extent, 1);
        facts.add("split", split, Measurement, 1);
        facts.add("protocol.name", protocol, Measurement, 1);
        facts.add("protocol.version", protocol_version, Measurement, 1);
        facts.add("protocol.sha256", protocol_sha256, Measurement, 2);
        for RunDataset { name, sha256, examples, total } in datasets {
            let path = format!("datasets[{name}]");
            facts.add(&format!("{path}.name"), name, Extent, 1);
            facts.add(&format!("{path}.sha256"), sha256, Source, 1);
            facts.add(&format!("{path}.examples"), examples, Part, 1);
            facts.add(&format!("{path}.total"), total, Extent, 2);
        }
        facts.add("order of datasets", join(datasets.iter().map(|d| &d.name)), Extent, 1);
        let mut used = BTreeSet::new();
        for (index, MethodInfo { spec, params, granularity, budgeted }) in methods.iter().enumerate() {
            // A method may be there twice, with other parameters.
            let again = if used.insert(spec) { String::new() } else { format!(" #{index}") };
            let path = format!("methods[{spec}{again}]");
            facts.add(&format!("{path}.spec"), spec, Extent, 1);
            for (name, value) in params {
                facts.add(&format!("{path}.params.{name}"), value, Extent, 1);
            }
            facts.add(&format!("{path}.granularity"), granularity, Extent, 1);
            facts.add(&format!("{path}.budgeted"), budgeted, Extent, 1);
        }
        facts.add("order of methods", join(methods.iter().map(|m| &m.spec)), Extent, 1);
        facts.add("budgets", format!("[{}]", join(budgets)), Extent, 1);
        facts.add("device", device, Measurement, 1);
        facts.add("dtype", dtype, Measurement, 1);
        if let Some(limit) = limit {
            facts.add("limit", limit, Extent, 1);
        }
        if let Some(Shard { index, count }) = shard {
            facts.add("shard.index", index, Part, 1);
            facts.add("shard.count", count, Part, 1);
        }
        facts.add("seed", seed, Measurement, 1);
        for (name, value) in settings {
            let (concern, since) = match name.as_str() {
                // Schema 1 named the part's own grid.
                NEEDLE_LENGTHS | NEEDLE_DEPTHS => (if *schema == 1 { Part } else { Extent }, 1),
                RULER_LENGTHS => (Extent, 2),
                ESSAYS => (Source, 2),
                LIMIT_TAKES => (Extent, 1),
                MASKED_HEADS => (Measurement, 2),
                name if name.starts_with(CALIBRATION) => (Source, 1),
                // Masked heads, removed contexts, and what will be added: refused rather than joined unseen.
                _ => (Measurement, 1),
            };
            facts.add(&format!("settings.{name}"), value, concern, since);
        }
        let Facts { schema, facts } = facts;
        Self { schema, facts }
    }

    /// Every fact in which `self` (stored) and `wanted` differ, with both values.
    pub(crate) fn differences(&self, wanted: &Self) -> Vec<Difference> {
        self.differing(wanted, |_| true)
    }

    /// As [`Identity::differences`], without which part of the measurement was run.
    pub(crate) fn differences_but_parts(&self, wanted: &Self) -> Vec<Difference> {
        self.differing(wanted, |(_, fact)| fact.concern != Concern::Part)
    }

    /// What keeps the records of two runs from standing in one table, or from being compared: a fact about every
    /// number, or one data set, essay collection or calibration of two contents. Other suites, data sets, methods,
    /// budgets, limits and parts are no obstacle: HeadKV's table has LongBench and LooGLE.
    pub(crate) fn incomparable(&self, other: &Self) -> Vec<Difference> {
        let both = |name: &str| self.facts.contains_key(name) && other.facts.contains_key(name);
        self.differing(other, |(name, fact)| match fact.concern {
            Concern::Measurement => true,
            Concern::Source => both(name),
            Concern::Program | Concern::Extent | Concern::Part => false,
        })
    }

    /// Says whether the two are one measurement, made by whatever program and in whatever parts.
    pub(crate) fn same_measurement(&self, other: &Self) -> bool {
        self.differing(other, |(_, fact)| !matches!(fact.concern, Concern::Program | Concern::Part))
            .is_empty()
    }

    /// Identifies the measurement across commits and parts: a hash over everything but the program and the part,
    /// sixteen hexadecimal digits. The parts of a run have one configuration, the whole run's.
    ///
    /// The weights' hash is in it: retraining the embedded model starts a new history.
    pub(crate) fn configuration(&self) -> String {
        // Schema 1 hashed its own number and the examples of the part, too: the directories of stored runs are named so.
        let hashed = |name: &str, fact: &Fact| match self.schema {
            1 => name == "schema" || !(fact.concern == Concern::Program || name.starts_with("shard.")),
            _ => !matches!(fact.concern, Concern::Program | Concern::Part),
        };
        self.hash(hashed)
    }

    /// As [`Identity::configuration`], but equal for the parts of a run of schema 1, too.
    pub(crate) fn sweep(&self) -> String {
        self.hash(|_, fact| !matches!(fact.concern, Concern::Program | Concern::Part))
    }

    fn hash(&self, hashed: impl Fn(&str, &Fact) -> bool) -> String {
        let facts = self.facts.iter().filter(|(name, fact)| hashed(name, fact));
        hash_parts(facts.flat_map(|(name, fact)| [name.as_bytes(), fact.value.as_bytes()]), 16)
    }

    /// The value of a fact, where it is stated.
    pub(crate) fn value(&self, field: &str) -> Option<&str> {
        self.facts.get(field).map(|fact| fact.value.as_str())
    }

    /// Adds what `other`, which fits, states beyond `self`.
    pub(crate) fn join(&mut self, other: &Self) {
        self.schema = self.schema.max(other.schema);
        for (name, fact) in &other.facts {
            self.facts.entry(name.clone()).or_insert_with(|| fact.clone());
        }
    }

    /// Facts that the two state differently and `wanted_of` picks. What a manifest's schema did not state yet is unknown,
    /// not different.
    fn differing(&self, other: &Self, wanted_of: impl Fn((&str, &Fact)) -> bool) -> Vec<Difference> {
        let known = self.schema.min(other.schema);
        let names: BTreeSet<&String> = self.facts.keys().chain(other.facts.keys()).collect();
        let value = |fact: Option<&Fact>| fact.map_or_else(|| "none".to_owned(), |fact| fact.value.clone());
        names
            .into_iter()
            .filter_map(|name| {
                let (ours, theirs) = (self.facts.get(name), other.facts.get(name));
                let fact = ours.or(theirs)?;
                let differs = ours.map(|fact| &fact.value) != theirs.map(|fact| &fact.value);
                (differs && fact.since <= known && wanted_of((name, fact))).then(|| Difference {
                    field: name.clone(),
                    stored: value(ours),
                    wanted: value(theirs),
                })
            })
            .collect()
    }
}

/// Facts as they are gathered.
struct Facts {
    schema: u32,
    facts: BTreeMap<String, Fact>,
}

impl Facts {
    /// Adds a fact, unless the manifest's schema did not state it yet.
    fn add(&mut self, name: &str, value: impl ToString, concern: Concern, since: u32) {
        if since <= self.schema {
            self.facts.insert(name.to_owned(), Fact { value: value.to_string(), concern, since });
        }
    }
}

fn join<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::fixture::manifest;

    type Edit = fn(&mut Manifest);

    fn set(m: &mut Manifest, name: &str, value: &str) {
        m.settings.insert(name.into(), value.into());
    }

    use Concern::{Extent, Measurement, Part, Program, Source};

    /// One edit for every field, with the path that must be named and what it is about.
    const EDITS: &[(&str, Concern, Edit)] = &[
        ("program.version", Program, |m| m.program.version.push('x')),
        ("program.commit", Program, |m| m.program.commit.push('x')),
        ("model.name", Measurement, |m| m.model.name.push('x')),
        ("model.weights_sha256", Measurement, |m| m.model.weights_sha256.push('x')),
        ("model.tokenizer_sha256", Measurement, |m| m.model.tokenizer_sha256.push('x')),
        ("model.files[config.json]", Measurement, |m| {
            m.model.files.insert("config.json".into(), "x".into());
        }),
        ("model.files[chat_template.jinja]", Measurement, |m| {
            m.model.files.insert("chat_template.jinja".into(), "x".into());
        }),
        ("model.embedded", Measurement, |m| m.model.embedded = !m.model.embedded),
        ("suite", Extent, |m| m.suite.push('x')),
        ("split", Measurement, |m| m.split.push('x')),
        ("protocol.name", Measurement, |m| m.protocol.name.push('x')),
        ("protocol.version", Measurement, |m| m.protocol.version.push('x')),
        ("protocol.sha256", Measurement, |m| m.protocol.sha256.push('x')),
        ("datasets[qasper].sha256", Source, |m| m.datasets[0].sha256.push('x')),
        ("datasets[qasper].examples", Part, |m| m.datasets[0].examples += 1),
        ("datasets[qasper].total", Extent, |m| m.datasets[0].total += 1),
        ("order of datasets", Extent, |m| m.datasets.reverse()),
        ("methods[snapkv].params.window", Extent, |m| {
            m.methods[1].params.insert("window".into(), "9".into());
        }),
        ("methods[snapkv].granularity", Extent, |m| m.methods[1].granularity = "query-head".into()),
        ("methods[snapkv].budgeted", Extent, |m| m.methods[1].budgeted = false),
        ("order of methods", Extent, |m| m.methods.reverse()),
        ("budgets", Extent, |m| m.budgets.push(Budget::Entries(4096))),
        ("device", Measurement, |m| m.device = "cuda".into()),
        ("dtype", Measurement, |m| m.dtype = "bf16".into()),
        ("limit", Extent, |m| m.limit = Some(1)),
        ("shard.index", Part, |m| m.shard = Some(Shard { index: 1, count: 2 })),
        ("seed", Measurement, |m| m.seed += 1),
        ("settings.needle-depths", Extent, |m| set(m, NEEDLE_DEPTHS, "50")),
        ("settings.ruler-lengths", Extent, |m| set(m, RULER_LENGTHS, "4096")),
        ("settings.mask-heads", Measurement, |m| set(m, "mask-heads", "semantic:16")),
        ("settings.without-context", Measurement, |m| set(m, "without-context", "true")),
        ("settings.question", Measurement, |m| set(m, "question", "unseen")),
        ("settings.something new", Measurement, |m| set(m, "something new", "x")),
    ];

    #[test]
    fn every_field_counts_where_it_must() {
        let stored = Identity::of(&manifest());
        assert_eq!(stored.differences(&stored), []);
        for (field, concern, edit) in EDITS {
            let mut wanted = manifest();
            edit(&mut wanted);
            let wanted = Identity::of(&wanted);
            let names = |list: Vec<Difference>| list.into_iter().any(|d| d.field == *field);
            assert!(names(stored.differences(&wanted)), "{field}");
            let refused = matches!(concern, Measurement | Source);
            assert_eq!(names(stored.incomparable(&wanted)), refused, "{field}");
            let same = matches!(concern, Program | Part);
            assert_eq!(stored.configuration() == wanted.configuration(), same, "{field}");
            assert_eq!(stored.same_measurement(&wanted), same, "{field}");
        }
    }

    #[test]
    fn a_calibration_must_agree_where_both_have_one() {
        let with = |hash: Option<&str>| {
            let mut m = manifest();
            hash.into_iter().for_each(|hash| set(&mut m, "calibration of retrieval scores", hash));
            Identity::of(&m)
        };
        assert_eq!(with(None).incomparable(&with(Some("a"))), []);
        assert_eq!(with(Some("a")).incomparable(&with(Some("a"))), []);
        assert_eq!(with(Some("a")).incomparable(&with(Some("b"))).len(), 1);
        // A body of runs knows what its second run knew.
        let mut body = with(None);
        body.join(&with(Some("a")));
        assert_eq!(body.incomparable(&with(Some("b"))).len(), 1);
    }

    #[test]
    fn what_an_old_schema_does_not_state_is_unknown_and_not_different() {
        let old = || {
            let mut m = manifest();
            m.schema = 1;
            m.model.files.clear();
            m.protocol.sha256.clear();
            m
        };
        let (stored, new) = (Identity::of(&old()), Identity::of(&manifest()));
        assert!(stored.same_measurement(&new));
        let mut other = old();
        other.device = "cuda".into();
        assert!(!Identity::of(&other).same_measurement(&new));
        // Joined with a run that states it, it is known.
        let mut edited = manifest();
        edited.model.files.insert("config.json".into(), "other".into());
        let mut body = stored;
        body.join(&new);
        assert_eq!(body.incomparable(&Identity::of(&edited)).len(), 1);
    }

    #[test]
    fn a_method_that_is_there_twice_counts_twice() {
        let twice = |window: &str| {
            let mut m = manifest();
            let mut second = m.methods[1].clone();
            second.params.insert("window".into(), "16".into());
            m.methods.push(second);
            m.methods[1].params.insert("window".into(), window.into());
            Identity::of(&m)
        };
        assert_eq!(twice("8").differences(&twice("9")).len(), 1);
    }

    #[test]
    fn a_difference_shows_both_values() {
        let mut wanted = manifest();
        wanted.dtype = "bf16".into();
        let differences = Identity::of(&manifest()).differences(&Identity::of(&wanted));
        assert_eq!(differences[0].to_string(), "  dtype: `f32` against `bf16`");
    }
}
