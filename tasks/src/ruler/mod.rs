//! RULER's rows: our own generator of the thirteen tasks, and a reader of published rows.
//!
//! What a task is (its parameters, texts and answer lengths) is as in NVIDIA/RULER at commit c3f5e3b
//! (`scripts/synthetic.yaml`, `scripts/data/synthetic/`), read for facts; a row is cut into context, question and the
//! beginning of the answer as kvpress cuts it (`evaluation/benchmarks/ruler/create_huggingface_dataset.py`). What
//! differs from NVIDIA's rows is listed in `docs/ruler.md`: chance, the words, how essays are cut into sentences.
//!
//! A row has a part that its seed alone decides, what is asked and answered (`Task::draw`), and a haystack of as many
//! units as fit the context length (`Drawn::write`): more units never change the answers.

mod aggregation;
mod material;
mod needles;
pub mod published;
mod qa;
mod tracing;
mod words;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::datasets::DatasetInfo;
use crate::error::TaskError;

pub use material::Material;

/// Version of the generator. It changes whenever a row changes; a test pins each version's hash.
pub const RULER_VERSION: &str = "1";

/// The seed of the rows that tables show.
pub const RULER_SEED: u64 = 0;

/// Rows of each task and length, as in RULER.
pub const RULER_ROWS: usize = 500;

/// The context length that kvpress's leaderboard has, in tokens.
pub const DEFAULT_LENGTH: usize = 4096;

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulerRow {
    /// Instructions and haystack, up to the question.
    pub context: String,
    /// The question, with the space that ends it.
    pub question: String,
    /// How the answer begins.
    pub answer_prefix: String,
    /// What is searched for in the answer.
    pub answers: Vec<String>,
}

/// Which row: each has its own facts and haystack, always the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowId {
    /// The seed.
    pub seed: u64,
    /// The context length in tokens, answer included.
    pub length: usize,
    /// Number of the row among those of its length.
    pub index: u64,
}

/// A task of the thirteen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) name: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Needles(needles::Needles),
    Tracing,
    CommonWords,
    FrequentWords,
    Qa(qa::Source),
}

/// What a row asks and what answers it, and what its haystack is made with.
pub(crate) enum Drawn<'a> {
    Needles(needles::Drawn<'a>),
    Tracing(tracing::Drawn),
    CommonWords(aggregation::Common),
    FrequentWords(aggregation::Frequent),
    Qa(qa::Drawn<'a>),
}

/// Instructions before the haystack, between haystack and question, the question, and how the answer begins.
pub(crate) struct Texts {
    pub(crate) before: String,
    pub(crate) after: &'static str,
    pub(crate) question: String,
    pub(crate) answer_prefix: String,
}

const TASKS: [Task; 13] = {
    use needles::{Haystack, Needles, Value};
    const fn needle(name: &'static str, needles: Needles) -> Task {
        Task { name, kind: Kind::Needles(needles) }
    }
    const ONE: Needles = Needles {
        haystack: Haystack::Essays,
        key: Value::Word,
        value: Value::Number,
        keys: 1,
        values: 1,
        queries: 1,
    };
    [
        needle("niah_single_1", Needles { haystack: Haystack::Noise, ..ONE }),
        needle("niah_single_2", ONE),
        needle("niah_single_3", Needles { value: Value::Uuid, ..ONE }),
        needle("niah_multikey_1", Needles { keys: 4, ..ONE }),
        needle("niah_multikey_2", Needles { haystack: Haystack::Needles, ..ONE }),
        needle(
            "niah_multikey_3",
            Needles { haystack: Haystack::Needles, key: Value::Uuid, value: Value::Uuid, ..ONE },
        ),
        needle("niah_multivalue", Needles { values: 4, ..ONE }),
        needle("niah_multiquery", Needles { keys: 4, queries: 4, ..ONE }),
        Task { name: "vt", kind: Kind::Tracing },
        Task { name: "cwe", kind: Kind::CommonWords },
        Task { name: "fwe", kind: Kind::FrequentWords },
        Task { name: "qa_1", kind: Kind::Qa(qa::Source::Squad) },
        Task { name: "qa_2", kind: Kind::Qa(qa::Source::HotpotQa) },
    ]
};

/// Whether a task's haystack is essays.
pub fn reads_essays(info: &DatasetInfo) -> bool {
    Task::by_name(info.name).is_some_and(Task::reads_essays)
}

impl Task {
    /// The task of a registered data set.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        TASKS.into_iter().find(|task| task.name == name)
    }

    /// Whether its haystack is essays.
    pub(crate) fn reads_essays(self) -> bool {
        matches!(self.kind, Kind::Needles(needles) if needles.haystack == needles::Haystack::Essays)
    }

    /// The source of its questions, for the two that have one.
    pub(crate) fn questions(self) -> Option<qa::Source> {
        if let Kind::Qa(source) = self.kind { Some(source) } else { None }
    }

    /// How kvpress finds the question and the beginning of the answer in a row's text.
    pub(crate) fn marks(self) -> (&'static [&'static str], &'static str) {
        match self.kind {
            Kind::Needles(_) => {
                (&["What is the special magic", "What are all the special magic"], "The special magic")
            }
            Kind::Tracing => (&["Question: Find all variables that are assigned the value"], "Answer:"),
            Kind::CommonWords => {
                (&["Question: What are the 10 most common words in the above list?"], "Answer:")
            }
            Kind::FrequentWords => (&["Question: Do not provide any explanation."], "Answer:"),
            Kind::Qa(_) => (&["Answer the question based on the given documents."], "Answer:"),
        }
    }

    /// Units of haystack of the smallest row.
    pub(crate) fn least_units(self) -> usize {
        match self.kind {
            Kind::Needles(needles) => needles.least_units(),
            Kind::Tracing => tracing::LEAST_UNITS,
            Kind::CommonWords => aggregation::LEAST_COMMON,
            Kind::FrequentWords => aggregation::LEAST_FREQUENT,
            Kind::Qa(_) => 1,
        }
    }

    /// What row `id` asks and answers.
    ///
    /// # Errors
    /// The source of its questions is not there, or has fewer questions than are asked.
    pub(crate) fn draw(self, id: RowId, material: &Material) -> Result<Drawn<'_>, TaskError> {
        let mut rng = self.rng(id, "facts");
        let hay = self.rng(id, "haystack");
        Ok(match self.kind {
            Kind::Needles(needles) => Drawn::Needles(needles.draw(&mut rng, hay, material)),
            Kind::Tracing => Drawn::Tracing(tracing::Drawn::new(&mut rng, hay)),
            Kind::CommonWords => Drawn::CommonWords(aggregation::Common::new(&mut rng, hay, id.length)),
            Kind::FrequentWords => Drawn::FrequentWords(aggregation::Frequent::new(&mut rng, hay, id.length)),
            Kind::Qa(source) => Drawn::Qa(material.questions(source)?.draw(id.index, hay)?),
        })
    }

    /// A source of chance of row `id`.
    fn rng(self, id: RowId, of: &str) -> ChaCha8Rng {
        let RowId { seed, length, index } = id;
        let name = format!("kvsweep-ruler/{RULER_VERSION}/{}/{length}/{seed}/{index}/{of}", self.name);
        ChaCha8Rng::from_seed(Sha256::digest(name).into())
    }
}

impl Drawn<'_> {
    /// The row with a haystack of `units`, at least the task's [`Task::least_units`].
    pub(crate) fn write(&self, units: usize) -> RulerRow {
        let (haystack, texts, answers) = match self {
            Self::Needles(drawn) => (drawn.haystack(units), drawn.texts(), drawn.answers()),
            Self::Tracing(drawn) => (drawn.haystack(units), drawn.texts(), drawn.answers()),
            Self::CommonWords(drawn) => (drawn.haystack(units), drawn.texts(), drawn.answers()),
            Self::FrequentWords(drawn) => (drawn.haystack(units), drawn.texts(), drawn.answers()),
            Self::Qa(drawn) => (drawn.haystack(units), drawn.texts(), drawn.answers()),
        };
        let Texts { before, after, question, answer_prefix } = texts;
        RulerRow { context: format!("{before}{haystack}{after}"), question, answer_prefix, answers }
    }

    /// What answers it.
    pub(crate) fn answers(&self) -> Vec<String> {
        match self {
            Self::Needles(drawn) => drawn.answers(),
            Self::Tracing(drawn) => drawn.answers(),
            Self::CommonWords(drawn) => drawn.answers(),
            Self::FrequentWords(drawn) => drawn.answers(),
            Self::Qa(drawn) => drawn.answers(),
        }
    }

    /// The row with as many units, about `units`, as keep it within `room` tokens as `count` counts them; `None` where
    /// not even the smallest does.
    pub(crate) fn fitting<E>(
        &self,
        least: usize,
        room: usize,
        units: usize,
        count: &dyn Fn(&RulerRow) -> Result<usize, E>,
    ) -> Result<Option<RulerRow>, E> {
        let mut units = units.max(least);
        loop {
            let row = self.write(units);
            let tokens = count(&row)?;
            if tokens <= room {
                return Ok(Some(row));
            }
            if units == least {
                return Ok(None);
            }
            // Tokens go with units; one less at least, in case they do not.
            let share = (units as f64 * room as f64 / tokens as f64) as usize;
            units = share.min(units - 1).max(least);
        }
    }

    /// The most units that keep the row within `room` tokens; `None` where not even the smallest does.
    pub(crate) fn most_units<E>(
        &self,
        least: usize,
        room: usize,
        count: &dyn Fn(&RulerRow) -> Result<usize, E>,
    ) -> Result<Option<usize>, E> {
        let tokens = |units: usize| count(&self.write(units));
        let mut filled = tokens(least)?;
        if filled > room {
            return Ok(None);
        }
        let (mut good, mut bad) = (least, least * 2);
        loop {
            let more = tokens(bad)?;
            if more > room {
                break;
            }
            // All words or documents are told: more units add nothing.
            if more == filled {
                return Ok(Some(good));
            }
            (good, bad, filled) = (bad, bad * 2, more);
        }
        // To one part in two hundred: rows differ by more than that among themselves.
        while bad - good > 1 + good / 200 {
            let middle = good + (bad - good) / 2;
            if tokens(middle)? <= room { good = middle } else { bad = middle }
        }
        Ok(Some(good))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets;
    use crate::mini::estimate_tokens;
    use crate::suite::Suite;

    /// Hash over rows of every task but the two that need files; a change needs a new [`RULER_VERSION`].
    const ROWS_HASH: &str = "2f28aaf0f78f0529ef53536c0fb665f8014f4a2e509365eb68c081ae584dff88";

    fn count(row: &RulerRow) -> Result<usize, TaskError> {
        Ok([&row.context, &row.question, &row.answer_prefix].map(|text| estimate_tokens(text)).iter().sum())
    }

    fn row(name: &str, length: usize, index: u64, material: &Material) -> RulerRow {
        let task = Task::by_name(name).unwrap();
        let drawn = task.draw(RowId { seed: 0, length, index }, material).unwrap();
        let units = drawn.most_units(task.least_units(), length, &count).unwrap().unwrap();
        drawn.fitting(task.least_units(), length, units, &count).unwrap().unwrap()
    }

    fn without_files() -> impl Iterator<Item = &'static str> {
        TASKS.into_iter().filter(|task| task.questions().is_none()).map(|task| task.name)
    }

    #[test]
    fn every_registered_task_is_generated() {
        let registered = datasets::all().iter().filter(|info| info.suite == Suite::Ruler).map(|d| d.name);
        assert!(registered.eq(TASKS.iter().map(|task| task.name)));
    }

    #[test]
    fn rows_are_those_their_version_names() {
        let material = Material::embedded();
        let mut hash = Sha256::new();
        for name in without_files() {
            for (length, index) in [(1024, 0), (4096, 0), (4096, 1)] {
                let row = row(name, length, index, &material);
                for text in [&row.context, &row.question, &row.answer_prefix].into_iter().chain(&row.answers)
                {
                    hash.update(text.len().to_le_bytes());
                    hash.update(text);
                }
            }
        }
        assert_eq!((RULER_VERSION, crate::example::hex(&hash.finalize()).as_str()), ("1", ROWS_HASH));
    }

    #[test]
    fn rows_fill_their_length_and_hold_their_answers() {
        let material = Material::embedded();
        for name in without_files() {
            for length in [1024, 4096] {
                let row = row(name, length, 3, &material);
                let tokens = count(&row).unwrap();
                assert!(tokens <= length && tokens * 10 >= length * 9, "{name}: {tokens} of {length}");
                for answer in &row.answers {
                    assert!(row.context.contains(answer.as_str()), "{name}: {answer}");
                }
                assert!(row.question.ends_with(' ') && !row.answer_prefix.starts_with(' '), "{name}");
            }
        }
    }

    #[test]
    fn answers_stay_whatever_the_haystack_and_change_with_the_row() {
        let material = Material::embedded();
        for name in without_files() {
            let task = Task::by_name(name).unwrap();
            let draw = |seed, index| task.draw(RowId { seed, length: 2048, index }, &material).unwrap();
            let drawn = draw(0, 7);
            let (small, large) = (drawn.write(task.least_units()), drawn.write(task.least_units() * 3));
            assert_eq!((&small.answers, &small.question), (&large.answers, &large.question), "{name}");
            assert_ne!(small.context, large.context, "{name}");
            assert_ne!(drawn.answers(), draw(0, 8).answers(), "{name}");
            assert_ne!(drawn.answers(), draw(1, 7).answers(), "{name}");
        }
    }

    #[test]
    fn a_haystack_ends_where_all_words_are_told() {
        let material = Material::embedded();
        let task = Task::by_name("cwe").unwrap();
        let drawn = task.draw(RowId { seed: 0, length: 4096, index: 0 }, &material).unwrap();
        let most = drawn.most_units(task.least_units(), 1 << 30, &count).unwrap().unwrap();
        assert!(most >= 20_000, "{most}");
    }

    #[test]
    fn a_length_that_holds_nothing_is_told() {
        let material = Material::embedded();
        let task = Task::by_name("vt").unwrap();
        let drawn = task.draw(RowId { seed: 0, length: 64, index: 0 }, &material).unwrap();
        assert_eq!(drawn.most_units(task.least_units(), 64, &count).unwrap(), None);
        assert_eq!(drawn.fitting(task.least_units(), 64, 9, &count).unwrap(), None);
    }

    /// The texts of RULER's own rows, as kvpress cuts them.
    #[test]
    fn questions_and_answers_begin_as_rulers_do() {
        let material = Material::embedded();
        let of = |name: &str| row(name, 2048, 0, &material);
        let single = of("niah_single_1");
        let key = single.question.trim_start_matches("What is the special magic number for ");
        let key = key.trim_end_matches(" mentioned in the provided text? ");
        assert!(single.context.starts_with(
            "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you \
             about the number afterwards.\nThe grass is green. The sky is blue."
        ));
        let needle = format!("\nOne of the special magic numbers for {key} is: {}.\n", single.answers[0]);
        assert!(single.context.contains(&needle) && single.context.ends_with(".\n"));
        let prefix = format!("The special magic number for {key} mentioned in the provided text is");
        assert_eq!(single.answer_prefix, prefix);
        let many = of("niah_multivalue");
        assert!(many.context.starts_with("Some special magic numbers are hidden within"));
        assert!(many.question.starts_with("What are all the special magic numbers for "));
        assert_eq!(many.answers.len(), 4);
        let four = of("niah_multiquery");
        assert_eq!((four.question.matches(", ").count(), four.question.matches(", and ").count()), (3, 1));
        let chain = of("vt");
        assert_eq!((chain.answers.len(), chain.context.matches("VAR ").count()), (5, 18));
        assert!(chain.answer_prefix.contains("5 variables are assigned the value"));
        assert_eq!(of("cwe").answers.len(), 10);
        let coded = of("fwe");
        assert!(coded.answers.iter().all(|word| word.len() == 6) && coded.context.contains(" ... "));
    }
}
