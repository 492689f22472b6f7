//! Variable tracking: a chain of five variables in noise, behind a solved example of the same.

use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::Texts;
use super::needles::NOISE;

/// Assignments after the first.
const HOPS: usize = 4;
/// Lines of noise of the smallest row.
pub(super) const LEAST_UNITS: usize = HOPS + 1;
/// Lines of noise in the example: as many as RULER's 500 tokens hold with the tokenizer of Llama 3.
const EXAMPLE_NOISE: usize = 15;

/// Variables of one chain, and the value that all of them have.
struct Chain {
    names: Vec<String>,
    value: String,
}

impl Chain {
    fn new(rng: &mut ChaCha8Rng, letters: usize) -> Self {
        let mut names: Vec<String> = Vec::new();
        while names.len() <= HOPS {
            let name: String = (0..letters).map(|_| char::from(rng.random_range(b'A'..=b'Z'))).collect();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Self { names, value: rng.random_range(10_000..99_999).to_string() }
    }

    /// The chain's lines among `noise` others, in their order. The space at the end of an assignment is RULER's.
    fn hidden(&self, chance: &mut ChaCha8Rng, noise: usize) -> String {
        let mut lines = vec![NOISE.to_owned(); noise];
        let mut places = index::sample(chance, noise, self.names.len()).into_vec();
        places.sort_unstable();
        for (before, (place, name)) in places.into_iter().zip(&self.names).enumerate() {
            let line = match before.checked_sub(1).and_then(|last| self.names.get(last)) {
                Some(last) => format!("VAR {name} = VAR {last} "),
                None => format!("VAR {name} = {}", self.value),
            };
            lines.insert(place + before, line);
        }
        lines.join("\n")
    }

    fn question(&self) -> String {
        format!("Question: Find all variables that are assigned the value {} in the text above. ", self.value)
    }

    fn answer_prefix(&self) -> String {
        format!(
            "Answer: According to the chain(s) of variable assignment in the text above, {} variables are assigned the \
             value {}, they are: ",
            self.names.len(),
            self.value
        )
    }
}

const BEFORE: &str =
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n";

/// A row's chain and its example.
pub(crate) struct Drawn {
    chain: Chain,
    example: Chain,
    chance: ChaCha8Rng,
}

impl Drawn {
    pub(super) fn new(rng: &mut ChaCha8Rng, chance: ChaCha8Rng) -> Self {
        Self { chain: Chain::new(rng, 5), example: Chain::new(rng, 3), chance }
    }

    pub(super) fn answers(&self) -> Vec<String> {
        self.chain.names.clone()
    }

    pub(super) fn texts(&self) -> Texts {
        let Chain { names, .. } = &self.example;
        let solved = self.example.hidden(&mut self.chance.clone(), EXAMPLE_NOISE);
        let (question, prefix) = (self.example.question(), self.example.answer_prefix());
        Texts {
            before: format!("{BEFORE}{solved}\n{question}{prefix} {}\n\n{BEFORE}", names.join(" ")),
            after: "\n",
            question: self.chain.question(),
            answer_prefix: self.chain.answer_prefix(),
        }
    }

    pub(super) fn haystack(&self, units: usize) -> String {
        let mut chance = self.chance.clone();
        // Not the places of the example.
        chance.set_stream(1);
        self.chain.hidden(&mut chance, units)
    }
}
