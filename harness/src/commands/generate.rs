//! `kvsweep generate`: one prompt through one or several variants.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kvsweep_engine::backend::Backend;
use kvsweep_engine::decode::{DecodeRule, Sequence};
use kvsweep_engine::model::Model;
use kvsweep_engine::prefill::PrefillOptions;
use kvsweep_engine::session::Session;
use kvsweep_engine::with_session;
use kvsweep_methods::inputs::Inputs;
use kvsweep_methods::method::MethodState;
use kvsweep_methods::spec::Variant;
use kvsweep_tasks::{ModelText, QuestionView, TextError};
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;

use crate::calibration::Calibrations;
use crate::cli::GenerateArgs;
use crate::exit::{Exit, usage};
use crate::model::TextSide;
use crate::repeat::RepeatWords;
use crate::runner::{again, without_room};
use crate::{destination, output, stop};

/// What one variant answered.
#[derive(Serialize)]
struct Answer {
    variant: String,
    text: Option<String>,
    ids: Vec<u32>,
    stopped_by: Option<u32>,
    /// Entries of each layer and stored head.
    kept_entries: Vec<Vec<usize>>,
    bytes: u64,
    select_seconds: f64,
}

/// The whole output.
#[derive(Serialize)]
struct Output {
    model: String,
    weights_sha256: String,
    prompt_tokens: usize,
    prefill_seconds: f64,
    decode_seconds: f64,
    answers: Vec<Answer>,
}

/// Runs the command.
pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<Exit> {
    let mut variant_args = args.variants.clone();
    variant_args.methods.get_or_insert_with(|| vec!["full".to_owned()]);
    let mut variants = variant_args.resolve(&|_| None)?;
    let input = Input::of(args)?;
    let stdout_is_taken = args.logits.as_deref().is_some_and(destination::is_stdout);
    if stdout_is_taken && args.json {
        return Err(usage("--json and --logits both write to stdout; give one of them a file"));
    }
    let session = args.model.load()?;
    let calibrations =
        Calibrations::load(&session, args.variants.calibration.as_deref().unwrap_or_default(), &args.model)?;
    calibrations.fit(&mut variants, true, &args.model)?;
    let (ids, question) = match input {
        Input::Ids { ids, question } => (ids, question),
        Input::Text(text) => {
            let side = TextSide::new(&session)?;
            let ids = if args.chat {
                side.encode(&side.render_user(&text).map_err(usage)?, false)?
            } else {
                side.encode(&text, true)?
            };
            (ids, Vec::new())
        }
    };
    session.check_prompt(&[ids.as_slice(), &question].concat(), args.max_new)?;
    let prompt = Prompt::of(ids, &question, args.question.unwrap_or(QuestionView::Unseen));
    let rule = rule(&session, args)?;
    let output = with_session!(&session, session => {
        answer(args, session, &prompt, &variants.all, &calibrations.inputs, &rule)
    })?;
    if args.json {
        output::json(&output)?
    } else {
        print(&output, if stdout_is_taken { to_people } else { output::line })?
    }
    Ok(Exit::Done)
}

/// When the answers end; a model without a tokenizer has its configuration's end tokens alone.
fn rule(model: &Model, args: &GenerateArgs) -> anyhow::Result<DecodeRule> {
    let rule = match TextSide::new(model) {
        Ok(text) => stop::of_a_turn(args.max_new, &crate::model::facts(model), &text)?,
        Err(_) => DecodeRule {
            max_new: args.max_new,
            stop_ids: model.generation.eos_ids.iter().copied().collect(),
            ..DecodeRule::default()
        },
    };
    Ok(DecodeRule { ignore_stops: args.ignore_eos, ..rule })
}

/// Reads the prompt once, and lets every variant answer, behind what the methods do not see.
fn answer<B: Backend>(
    args: &GenerateArgs,
    model: &Session<B>,
    prompt: &Prompt,
    variants: &[Variant],
    inputs: &Inputs,
    rule: &DecodeRule,
) -> anyhow::Result<Output> {
    let wanted: BTreeSet<_> = variants.iter().flat_map(Variant::observations).collect();
    let side = TextSide::new(model).ok();
    let repeats = side.as_ref().filter(|_| wanted.iter().any(|one| one.repeats_the_prompt()));
    let repeat = repeats
        .map(|side| Ok::<_, TextError>(RepeatWords::new(side)?.request(&prompt.compressed)))
        .transpose()?;
    let started = Instant::now();
    let options =
        PrefillOptions { keep_all_logits: args.logits.is_some(), repeat: repeat.as_ref(), question: None };
    let prefill = Arc::new(model.prefill(&prompt.compressed, &wanted, options)?);
    let prefill_seconds = started.elapsed().as_secs_f64();

    let seen = prefill.shape().seen().len();
    let mut sequences = Vec::new();
    let mut select_seconds = Vec::new();
    for variant in variants {
        if let Err(needs) = variant.room(seen) {
            output::note(&without_room(variant, seen, &needs));
        }
        let started = Instant::now();
        let mut state = MethodState::default();
        let selection = variant.select(prefill.shape(), prefill.observations(), inputs, &mut state)?;
        select_seconds.push(started.elapsed().as_secs_f64());
        sequences.push(Sequence {
            prefill: Arc::clone(&prefill),
            selection: Arc::new(selection),
            follow: Arc::clone(&prompt.follow),
            renumbered: variant.renumbers(),
            again: again(variant, seen),
            rule: rule.clone(),
            keep_logits: args.logits.is_some(),
            masked_heads: None,
        });
    }
    let started = Instant::now();
    let decoded = model.decode(&sequences, &mut |_| ())?;
    let decode_seconds = started.elapsed().as_secs_f64();

    if let Some(path) = &args.logits {
        let vocab = model.config.vocab_size;
        let mut tensors = vec![("prompt".to_owned(), prefill.all_logits().unwrap_or_default())];
        for (variant, decoded) in variants.iter().zip(&decoded) {
            tensors.push((variant.id(), decoded.logits.as_deref().unwrap_or_default()));
        }
        write_logits(path, &tensors, vocab)?;
    }
    let answers = variants
        .iter()
        .zip(decoded)
        .zip(select_seconds)
        .map(|((variant, decoded), select_seconds)| Answer {
            variant: variant.id(),
            text: side.as_ref().and_then(|side| side.decode(&decoded.ids, true).ok()),
            ids: decoded.ids,
            stopped_by: decoded.stopped_by,
            kept_entries: decoded.held.layers,
            bytes: decoded.held.bytes,
            select_seconds,
        })
        .collect();
    Ok(Output {
        model: model.name.clone(),
        weights_sha256: model.weights_sha256.clone(),
        prompt_tokens: prompt.compressed.len() + prompt.follow.len(),
        prefill_seconds,
        decode_seconds,
        answers,
    })
}

/// What to read.
enum Input {
    Text(String),
    /// Token ids, and those of a question about them, if one is asked.
    Ids {
        ids: Vec<u32>,
        question: Vec<u32>,
    },
}

impl Input {
    fn of(args: &GenerateArgs) -> anyhow::Result<Self> {
        if let Some(text) = &args.prompt {
            return Ok(Self::Text(text.clone()));
        }
        if let Some(path) = &args.prompt_file {
            return Ok(Self::Text(fs_err::read_to_string(path)?));
        }
        let Some(path) = &args.ids else {
            return Err(usage("no prompt given; use --prompt TEXT, --prompt-file FILE or --ids FILE.json"));
        };
        let ids = read_ids(path)?;
        let question = args.question_ids.as_deref().map(read_ids).transpose()?;
        match (question, &args.question_ids) {
            (Some(question), Some(path)) if question.is_empty() => {
                anyhow::bail!("`{}`: the question has no tokens; leave --question-ids out", path.display())
            }
            (question, _) => Ok(Self::Ids { ids, question: question.unwrap_or_default() }),
        }
    }
}

fn read_ids(path: &Path) -> anyhow::Result<Vec<u32>> {
    let text = fs_err::read_to_string(path)?;
    serde_json::from_str(&text)
        .map_err(|error| anyhow::anyhow!("`{}`: expected a JSON list of token ids: {error}", path.display()))
}

/// A prompt, cut where the methods compress.
struct Prompt {
    compressed: Vec<u32>,
    /// Read behind the cut, at the positions that follow.
    follow: Arc<[u32]>,
}

impl Prompt {
    /// A question that is seen is compressed with the rest, its last token apart: the first token of the answer then
    /// depends on what was kept, as it does where the question is unseen.
    fn of(mut ids: Vec<u32>, question: &[u32], view: QuestionView) -> Self {
        let (seen, unseen) = match view {
            QuestionView::Seen => question.split_at(question.len().saturating_sub(1)),
            QuestionView::Unseen => (&[][..], question),
        };
        ids.extend_from_slice(seen);
        Self { compressed: ids, follow: unseen.into() }
    }
}

fn write_logits(path: &Path, tensors: &[(String, &[f32])], vocab: usize) -> anyhow::Result<()> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let mut views = HashMap::new();
    for ((name, values), bytes) in tensors.iter().zip(&bytes) {
        let shape = vec![values.len() / vocab.max(1), vocab];
        views.insert(name.clone(), TensorView::new(Dtype::F32, shape, bytes)?);
    }
    let data = safetensors::serialize(views, None)?;
    destination::write(path, &data)
}

/// Answers beside logits on stdout.
fn to_people(text: &str) -> anyhow::Result<()> {
    output::note(text);
    Ok(())
}

/// The answers, a line each at a time to `line`.
fn print(output: &Output, line: fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for answer in &output.answers {
        let entries: usize = answer.kept_entries.iter().flatten().sum();
        let heads: usize = answer.kept_entries.iter().map(Vec::len).sum();
        line(&format!(
            "{}  ({:.1} entries per head, {} bytes{})",
            answer.variant,
            entries as f64 / heads.max(1) as f64,
            answer.bytes,
            if answer.stopped_by.is_some() { "" } else { ", length limit reached" }
        ))?;
        line(&match &answer.text {
            Some(text) => kvsweep_results::visible(text),
            None => format!("{:?}", answer.ids),
        })?;
    }
    output::note(&format!(
        "{} prompt tokens, prefill {:.3} s, decode of all variants {:.3} s",
        output.prompt_tokens, output.prefill_seconds, output.decode_seconds
    ));
    Ok(())
}
