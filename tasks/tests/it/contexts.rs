//! Where the context of a prompt ends and the question begins: for every protocol, on real rows with real tokenizers.

use kvsweep_tasks::datasets::Language;
use kvsweep_tasks::needle::{Essays, cases, mini_case, variants};
use kvsweep_tasks::{
    Example, ModelFacts, ModelText, Prompt, Suite, datasets, find_dataset, mini, protocol, read_rows,
};

use crate::shared::{HubText, shared};

/// Tokenizer folder, and the model name protocols match.
const MODELS: [(&str, &str); 3] = [
    ("llama3", "meta-llama/Llama-3.1-8B-Instruct"),
    ("mistral_v1", "mistralai/Mistral-7B-Instruct-v0.2"),
    ("mistral_v3", "mistralai/Mistral-7B-Instruct-v0.3"),
];

fn rows() -> Option<Vec<(&'static datasets::DatasetInfo, Example)>> {
    let data = shared()?.join("data");
    let rows: Vec<_> = datasets::all()
        .iter()
        .filter_map(|info| {
            let folder = if info.suite == Suite::LooGle { "loogle" } else { "longbench_samples" };
            let path = find_dataset(&data.join(folder), info.name).ok()?;
            let mut example = read_rows(&path, info.name).unwrap().examples.remove(0);
            // Within every protocol's limit.
            let most = if info.language == Language::Chinese { 4000 } else { 9000 };
            example.context = example.context.chars().take(most).collect::<String>().into();
            Some((info, example))
        })
        .collect();
    assert!(rows.len() >= 42, "{} data sets with rows", rows.len());
    Some(rows)
}

fn facts(name: &str, max_prompt: Option<usize>) -> ModelFacts {
    ModelFacts {
        name: name.into(),
        max_positions: 131_072,
        max_prompt,
        clean_up_spaces: name.contains("Llama"),
        ..ModelFacts::default()
    }
}

/// The prompt's tokens before the question's own part, after a check that the part is all there.
fn context_of<'a>(prompt: &'a Prompt, text: &HubText, question: &str) -> Option<&'a [u32]> {
    let (context, rest) = prompt.ids.split_at(prompt.context_tokens(text).unwrap()?);
    let rest = text.decode(rest, false).unwrap();
    assert!(rest.contains(question.trim_end()), "{question:?} is not in {rest:?}");
    // At most the seam's tokens are more than the question.
    let more = rest.split(question.trim_end()).next().unwrap_or_default();
    assert!(more.chars().count() < 80, "{more:?} stands before {question:?}");
    Some(context)
}

fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).collect()
}

#[test]
fn questions_about_one_context_have_one_beginning() {
    let Some(rows) = rows() else { return };
    let (mut told, mut untold) = (0, 0);
    for (folder, name) in MODELS {
        let Some(text) = HubText::load(folder) else { return };
        // Where parts are named, the context reaches to them; `protocol/apart.rs` tests those.
        for protocol in protocol::all().iter().filter(|protocol| protocol.parts.is_empty()) {
            for (info, example) in &rows {
                let of = |input: &str, max_prompt| {
                    let example = Example { input: input.to_owned(), ..example.clone() };
                    protocol.render(&example, info, &facts(name, max_prompt), &text).unwrap()
                };
                let place = format!("{folder} / {} / {}", protocol.name, info.name);
                let question = info.question(&example.input).unwrap();
                let whole = of(&example.input, None);
                assert!(whole.truncated.is_none(), "{place}");
                let context = context_of(&whole, &text, &question).unwrap_or_else(|| panic!("{place}"));
                // Another, longer question: the same context, token for token. Where nothing stands between context and
                // question, the first letter may merge.
                let first: String = example.input.chars().take(8).collect();
                let second = format!("{first} And what else? 此外还有什么？");
                let other = of(&second, None);
                let behind = info.question(&second).unwrap();
                assert_eq!(context_of(&other, &text, &behind), Some(context), "{place}");
                // Cut in the middle: told as long as the half that is kept holds the whole question.
                let cut = of(&example.input, Some(1501));
                let tokens = text.encode(&question, false).unwrap().len();
                if cut.truncated.is_some() && tokens + 50 < 750 {
                    let context = cut.context_tokens(&text).unwrap().unwrap_or_else(|| panic!("{place}"));
                    // The official way decodes and cleans what it keeps: the letters stay.
                    let rest = text.decode(&cut.ids[context..], false).unwrap();
                    assert!(letters(&rest).contains(&letters(&question)), "{place}: {question:?}, {rest:?}");
                    told += 1;
                } else if cut.truncated.is_some() && tokens > 750 {
                    assert_eq!(cut.context_tokens(&text).unwrap(), None, "{place}");
                    untold += 1;
                }
            }
        }
    }
    assert!(told > 500 && untold > 50, "{told} prompts told, {untold} with half a question");
}

#[test]
fn needles_have_their_question_behind_the_haystack() {
    let Some(shared) = shared() else { return };
    let essays = Essays::read(&shared.join("data/paul_graham_essays")).unwrap();
    for (folder, name) in MODELS {
        let Some(text) = HubText::load(folder) else { return };
        let model = facts(name, None);
        for variant in &variants::VARIANTS {
            let built = cases(variant, &model, &[1000], &[0, 100], &essays, &text).unwrap();
            for case in built {
                let prompt = &case.prompt;
                let context = context_of(prompt, &text, variant.question)
                    .unwrap_or_else(|| panic!("{folder} / {}", variant.name));
                assert!(prompt.needle.clone().unwrap().end <= context.len() + 1, "{}", case.key);
            }
        }
        let trial = mini::NeedleTrial { seed: mini::SUITE_SEED, length: 512, depth: 50, number: 1 };
        let case = mini_case(trial, false, &model, &text).unwrap();
        let context = context_of(&case.prompt, &text, "\nAnswer:").unwrap();
        assert!(case.prompt.needle.clone().unwrap().end <= context.len());
    }
}
