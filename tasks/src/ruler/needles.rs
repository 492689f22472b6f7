//! The eight needle tasks: keys with values, hidden in noise, in essays, or among others of their kind.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom, index};
use rand_chacha::ChaCha8Rng;

use super::{Material, Texts, words};

/// RULER's noise, one line of it.
pub(super) const NOISE: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/// Depths at which needles lie in essays: `np.round(np.linspace(0, 100, num=40))`.
const DEPTHS: usize = 40;

/// What a needle task hides, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needles {
    pub(super) haystack: Haystack,
    pub(super) key: Value,
    pub(super) value: Value,
    pub(super) keys: usize,
    /// Values of each key.
    pub(super) values: usize,
    /// Keys that are asked for.
    pub(super) queries: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haystack {
    /// Lines of [`NOISE`].
    Noise,
    /// Essays, word by word.
    Essays,
    /// Other needles.
    Needles,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// Seven digits.
    Number,
    /// Adjective and noun.
    Word,
    /// A version 4 UUID.
    Uuid,
}

impl Value {
    fn draw(self, rng: &mut ChaCha8Rng) -> String {
        match self {
            Self::Number => rng.random_range(1_000_000..10_000_000).to_string(),
            Self::Word => words::pair(rng),
            Self::Uuid => {
                let bits: u128 = rng.random();
                let versioned = (bits & !(0xf000 << 64) & !(0xc000 << 48)) | (4 << 76) | (0x8000 << 48);
                let hex = format!("{versioned:032x}");
                [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
            }
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Number => "numbers",
            Self::Word => "words",
            Self::Uuid => "uuids",
        }
    }
}

/// The needles of a row.
pub(crate) struct Drawn<'a> {
    needles: Needles,
    material: &'a Material,
    /// Keys with their values.
    told: Vec<(String, Vec<String>)>,
    /// Which of them are asked for.
    asked: Vec<usize>,
    chance: ChaCha8Rng,
}

impl Needles {
    pub(super) fn draw<'a>(
        self,
        rng: &mut ChaCha8Rng,
        chance: ChaCha8Rng,
        material: &'a Material,
    ) -> Drawn<'a> {
        let told = (0..self.keys)
            .map(|_| (self.key.draw(rng), (0..self.values).map(|_| self.value.draw(rng)).collect()))
            .collect();
        let asked = index::sample(rng, self.keys, self.queries).into_vec();
        Drawn { needles: self, material, told, asked, chance }
    }

    pub(super) fn least_units(self) -> usize {
        match self.haystack {
            // Words enough for a few sentences.
            Haystack::Essays => 50,
            Haystack::Noise | Haystack::Needles => self.keys * self.values,
        }
    }

    fn sentence(self, key: &str, value: &str) -> String {
        format!("One of the special magic {} for {key} is: {value}.", self.value.plural())
    }
}

impl Drawn<'_> {
    pub(super) fn answers(&self) -> Vec<String> {
        self.asked
            .iter()
            .filter_map(|&key| self.told.get(key))
            .flat_map(|(_, values)| values.clone())
            .collect()
    }

    pub(super) fn texts(&self) -> Texts {
        let keys: Vec<&str> =
            self.asked.iter().filter_map(|&key| Some(self.told.get(key)?.0.as_str())).collect();
        let query = match keys.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{}, and {last}", rest.join(", ")),
            _ => keys.concat(),
        };
        let kind = self.needles.value.plural();
        let several = self.needles.queries * self.needles.values > 1;
        let kind = if several { kind } else { kind.trim_end_matches('s') };
        let (some, are, all) = if several { ("Some", "are", "are all") } else { ("A", "is", "is") };
        Texts {
            before: format!(
                "{some} special magic {kind} {are} hidden within the following text. Make sure to memorize it. I will quiz \
                 you about the {kind} afterwards.\n"
            ),
            after: "\n",
            question: format!(
                "What {all} the special magic {kind} for {query} mentioned in the provided text? "
            ),
            answer_prefix: format!(
                "The special magic {kind} for {query} mentioned in the provided text {are}"
            ),
        }
    }

    pub(super) fn haystack(&self, units: usize) -> String {
        let mut chance = self.chance.clone();
        let told = self.told.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
        let mut needles: Vec<String> = told.map(|(key, value)| self.needles.sentence(key, value)).collect();
        needles.shuffle(&mut chance);
        let Needles { haystack, key, value, .. } = self.needles;
        let mut lines = match haystack {
            Haystack::Essays => return self.in_essays(units, &needles, &mut chance),
            Haystack::Noise => vec![NOISE.to_owned(); units],
            Haystack::Needles => (0..units)
                .map(|_| self.needles.sentence(&key.draw(&mut chance), &value.draw(&mut chance)))
                .collect(),
        };
        let mut places = index::sample(&mut chance, units, needles.len()).into_vec();
        places.sort_unstable();
        // From the back, so that what is inserted does not move the places that are left.
        for (place, needle) in places.into_iter().zip(needles).rev() {
            lines.insert(place, needle);
        }
        lines.join("\n")
    }

    /// The first words of the essays, again from the start where they do not suffice, with a needle before the sentence
    /// at each of some depths.
    fn in_essays(&self, units: usize, needles: &[String], chance: &mut ChaCha8Rng) -> String {
        let sentences = sentences(self.material.words.iter().cycle().take(units).map(String::as_str));
        let all: Vec<usize> = (0..DEPTHS).collect();
        let mut depths: Vec<usize> = all.choose_multiple(chance, needles.len()).copied().collect();
        depths.sort_unstable();
        let percent = |depth: usize| (depth as f64 * 100.0 / (DEPTHS - 1) as f64).round();
        let place = |depth: usize| (sentences.len() as f64 * (percent(depth) / 100.0)) as usize;
        let mut parts: Vec<&str> = Vec::new();
        let mut from = 0;
        for (depth, needle) in depths.into_iter().zip(needles) {
            let to = place(depth);
            parts.extend(sentences[from..to].iter().map(String::as_str));
            parts.push(needle);
            from = to;
        }
        parts.extend(sentences[from..].iter().map(String::as_str));
        parts.join(" ")
    }
}

/// Words as sentences: one ends with a full stop, a question or an exclamation mark, closing quotes and brackets
/// included.
fn sentences<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    let mut ended = true;
    for word in words {
        match sentences.last_mut().filter(|_| !ended) {
            Some(sentence) => {
                sentence.push(' ');
                sentence.push_str(word);
            }
            None => sentences.push(word.to_owned()),
        }
        ended = word.trim_end_matches(['"', '\'', ')', ']', '”', '’']).ends_with(['.', '?', '!']);
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn values_have_their_kinds_form() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..200 {
            assert!(Value::Number.draw(&mut rng).len() == 7);
            let uuid = Value::Uuid.draw(&mut rng);
            let parts: Vec<usize> = uuid.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12]);
            assert!(
                &uuid[14..15] == "4" && ['8', '9', 'a', 'b'].contains(&uuid.as_bytes()[19].into()),
                "{uuid}"
            );
        }
    }

    #[test]
    fn sentences_end_at_marks() {
        let text = "One two. (Three.) Four \"five?\" six";
        assert_eq!(sentences(text.split(' ')), ["One two.", "(Three.)", "Four \"five?\"", "six"]);
        assert!(sentences([].into_iter()).is_empty());
    }
}
