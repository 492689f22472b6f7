//! The prompts of a finished run, rendered again from its manifest: no weights, only tokenizer and rows.

use std::path::Path;

use anyhow::Context;
use kvsweep_engine::model::Card;
use kvsweep_results::{
    ExampleKey, Manifest, NEEDLE_DEPTHS, NEEDLE_LENGTHS, QUESTION, RULER_LENGTHS, UNSEEN, WITHOUT_CONTEXT,
};
use kvsweep_tasks::protocol::{self, Protocol};
use kvsweep_tasks::{ModelFacts, ModelText, Prompt, QuestionView, Renderer, Suite, TextError};

use crate::cli::{ModelArgs, RunArgs, Split};
use crate::model::{self, TextSide};
use crate::questions::{self, DatasetPart, Selected};
use crate::{kept, output};

/// A run's questions, and what renders them.
pub(crate) struct Recorded {
    card: Card,
    facts: ModelFacts,
    protocol: &'static Protocol,
    question: QuestionView,
    datasets: Vec<DatasetPart>,
}

impl Recorded {
    /// Reads what the run read: `names` of its data sets, from `data` where it had local rows. The model is the one of
    /// `models` that has the run's tokenizer, or goes by the run's name for it.
    ///
    /// # Errors
    /// A suite, protocol, model or rows that are not there any more.
    pub(crate) fn of(
        manifest: &Manifest,
        names: Option<Vec<String>>,
        data: Option<&Path>,
        models: &[String],
    ) -> anyhow::Result<Self> {
        let suite = Suite::by_name(&manifest.suite)
            .with_context(|| format!("the run's suite `{}` is unknown", manifest.suite))?;
        let mini = manifest.split == questions::MINI;
        let setting = |name: &str| manifest.settings.get(name).map(|list| list.split(','));
        let generated = mini || setting(questions::GENERATOR).is_some();
        let args = RunArgs {
            suite: Some(suite),
            model: model_args(&manifest.model.name),
            split: Some(if mini { Split::Mini } else { Split::Full }),
            data: data.map(Path::to_owned),
            datasets: names.filter(|_| suite != Suite::Needle),
            // A file's rows are all read: examples are looked up by their keys.
            limit: manifest.limit.filter(|_| generated).map(|limit| limit as usize),
            seed: generated.then_some(manifest.seed),
            without_context: setting(WITHOUT_CONTEXT).is_some(),
            lengths: setting(NEEDLE_LENGTHS)
                .or_else(|| setting(RULER_LENGTHS))
                .map(|list| list.filter_map(|n| n.parse().ok()).collect()),
            depths: setting(NEEDLE_DEPTHS).map(|list| list.filter_map(|n| n.parse().ok()).collect()),
            ..RunArgs::default()
        };
        let selected = Selected::of(suite, &args)?;
        let protocol = protocol::by_name(&manifest.protocol.name)?;
        let card = card(manifest, models)?;
        let facts = model::facts(&card);
        let text = TextSide::new(&card)?;
        // A run that says nothing of its question was asked with it seen.
        let unseen = manifest.settings.get(QUESTION).is_some_and(|view| view == UNSEEN);
        let question = if unseen { QuestionView::Unseen } else { QuestionView::Seen };
        let renderer = Renderer { protocol, model: &facts, text: &text, question };
        let datasets = questions::read(&selected, &renderer)?;
        Ok(Self { card, facts, protocol, question, datasets })
    }

    /// The prompt of an example; its hash must be the recorded one.
    ///
    /// # Errors
    /// An example that is not in the data, a prompt that is not the recorded one.
    pub(crate) fn prompt(&self, key: &ExampleKey, sha256: &str) -> anyhow::Result<Prompt> {
        let mut questions = self.datasets.iter().flat_map(DatasetPart::questions);
        let asked = questions.find(|question| question.key == *key).with_context(|| {
            format!("example `{}` is not in the data; give the run's rows with --data", key.example)
        })?;
        let text = TextSide::new(&self.card)?;
        let (protocol, model, question) = (self.protocol, &self.facts, self.question);
        let renderer = Renderer { protocol, model, text: &text, question };
        let prompt = asked.question.prompt(&renderer)?;
        anyhow::ensure!(
            kept::ids_sha256(&prompt.ids) == sha256,
            "the prompt of `{}` is not the recorded one any more: other rows, another tokenizer or another protocol \
             version",
            key.example
        );
        Ok(prompt)
    }

    /// The text that each token of an example's prompt adds. A token that ends inside a character adds nothing; the
    /// one that completes it adds the character.
    ///
    /// # Errors
    /// As [`Recorded::prompt`]; what the tokenizer says.
    pub(crate) fn tokens(&self, key: &ExampleKey, sha256: &str) -> anyhow::Result<Vec<String>> {
        let text = TextSide::new(&self.card)?;
        let ids = self.prompt(key, sha256)?.ids;
        Ok(pieces(&ids, &|ids| text.decode(ids, false))?)
    }
}

fn model_args(name: &str) -> ModelArgs {
    ModelArgs { model: Some(name.to_owned()), ..ModelArgs::default() }
}

/// The run's model without its weights.
fn card(manifest: &Manifest, models: &[String]) -> anyhow::Result<Card> {
    let recorded = &manifest.model;
    for model in models {
        let (card, _) = model_args(model).card()?;
        if card.tokenizer().is_ok_and(|tokenizer| tokenizer.sha256() == recorded.tokenizer_sha256) {
            return Ok(card);
        }
    }
    if let [model] = models {
        anyhow::bail!("`{model}` has another tokenizer than the run's model `{}`", recorded.name);
    }
    let (card, _) = model_args(&recorded.name).card().map_err(|error| {
        let causes = output::causes(&error);
        anyhow::anyhow!("{causes}\nhint: `--model` names the run's model where it lies elsewhere")
    })?;
    Ok(card)
}

/// Tokens that one character may be spread over.
const LONGEST_CHARACTER: usize = 8;

/// What every token adds to the text of those before it. Decoding one by one would lose the spaces of some
/// tokenizers and every character of several tokens, so each is decoded behind the piece before it.
fn pieces(
    ids: &[u32],
    decode: &dyn Fn(&[u32]) -> Result<String, TextError>,
) -> Result<Vec<String>, TextError> {
    let mut pieces = Vec::with_capacity(ids.len());
    let (mut context, mut done) = (0, 0);
    for end in 1..=ids.len() {
        let before = decode(&ids[context..done])?;
        let text = decode(&ids[context..end])?;
        if text.ends_with('\u{fffd}') && end < ids.len() && end - done < LONGEST_CHARACTER {
            pieces.push(String::new());
            continue;
        }
        pieces.push(text.strip_prefix(&before).unwrap_or(&text).to_owned());
        (context, done) = (done, end);
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_text_and_keep_characters_whole() {
        let bytes: Vec<u32> = "a – 鱼.".bytes().map(u32::from).collect();
        let decode = |ids: &[u32]| {
            let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let pieces = pieces(&bytes, &decode).unwrap();
        assert_eq!(pieces.len(), bytes.len());
        assert_eq!(pieces.concat(), "a – 鱼.");
        assert!(pieces.contains(&"鱼".to_owned()) && pieces.iter().all(|piece| !piece.contains('\u{fffd}')));
    }

    #[test]
    fn a_space_that_a_lone_token_would_lose_is_kept() {
        let words = ["▁one", "▁two", "▁three"];
        let decode = |ids: &[u32]| {
            let text: String = ids.iter().map(|&id| words[id as usize]).collect();
            Ok(text.replace('▁', " ").trim_start().to_owned())
        };
        assert_eq!(pieces(&[0, 1, 2], &decode).unwrap(), ["one", " two", " three"]);
    }
}
