//! `kvsweep export RUN --layout NAME`: a run's predictions as another harness writes them.

use kvsweep_results::Run;
use kvsweep_tasks::layouts::{self, ExportMeta, Prediction};

use crate::cli::ExportArgs;
use crate::exit::Exit;
use crate::output;

/// Runs the command: one tree a variant.
pub fn run(args: &ExportArgs) -> anyhow::Result<Exit> {
    let run = Run::load(&args.run)?;
    let variants = run.manifest.variants();
    for variant in &variants {
        let predictions: Vec<Prediction> = run
            .examples
            .iter()
            .filter_map(|example| {
                let answer = example.variants.iter().find(|answer| answer.variant == *variant)?;
                let info = &example.info;
                Some(Prediction {
                    dataset: example.key.dataset.clone(),
                    pred: answer.prediction.clone(),
                    answers: info.answers.clone(),
                    all_classes: info.all_classes.clone(),
                    length: info.length.unwrap_or_default(),
                    prompt: info.prompt_tail.clone(),
                    input: String::new(),
                    context: String::new(),
                    language: info.language.clone(),
                    id: example.key.example.clone(),
                })
            })
            .collect();
        let meta = ExportMeta {
            model: run.manifest.model.name.clone(),
            method: variant.method.clone(),
            budget: variant.budget.map(|budget| budget as usize),
        };
        // Layouts whose paths carry no method would collide: each variant gets a folder.
        let root = match variant.budget {
            Some(budget) => args.output.join(format!("{}-{budget}", variant.method)),
            None => args.output.join(&variant.method),
        };
        for path in layouts::export(&root, &args.layout, &meta, &predictions)? {
            output::line(&path.display().to_string())?;
        }
    }
    Ok(Exit::Done)
}
