//! Budget tables: pyramid schedules, layer allocation, head capacities, CAKE's adjustment.

use std::path::Path;

use kvsweep_methods::budget::{cake, compresskv, headkv, pyramid};
use serde_json::{Map, Value};

use super::report::Report;
use crate::vectors::{close, get, read_json, same};

/// More layers than any model has, few enough to allocate.
const MOST_LAYERS: usize = 100_000;

/// The case's number of layers.
fn layers(case: &Value) -> Result<usize, String> {
    match get(case, "layers")? {
        layers if layers <= MOST_LAYERS => Ok(layers),
        layers => Err(format!("`layers`: {layers} is more than {MOST_LAYERS}")),
    }
}

/// Checks every entry of one `budgets/*.json`; the file's name says what it is.
pub(super) fn check(dir: &Path, file: &str, report: &mut Report) {
    let content = match read_json(dir, file) {
        Ok(content) => content,
        Err(problem) => return report.add(file, Err(problem)),
    };
    let kind = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let scores = content.get("scores").and_then(Value::as_object).cloned().unwrap_or_default();
    for (list, check) in
        [("cases", entry as fn(&str, &Value, &Scores) -> _), ("kvpress", |_, case, _| kvpress(case))]
    {
        let cases = content.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (index, case) in cases.iter().enumerate() {
            report.add(format!("{file} {list}[{index}]"), check(kind, case, &scores));
        }
    }
}

type Scores = Map<String, Value>;

fn entry(kind: &str, case: &Value, scores: &Scores) -> Result<(), String> {
    match kind {
        "pyramidkv" => pyramidkv(case),
        "compresskv" => {
            let importance: Vec<f64> = get(case, "importance")?;
            let budgets = compresskv::layer_budgets(
                &importance,
                get(case, "total")?,
                get(case, "min")?,
                get(case, "max")?,
            );
            same("budgets", &get::<Vec<usize>>(case, "budgets")?, &budgets)
        }
        "headkv" => capacities(case, scores),
        "cake" => {
            let raw: Vec<f64> = get(case, "raw")?;
            let budgets = cake::adjust(&raw, get(case, "total")?, get(case, "past_len")?);
            same("budgets", &get::<Vec<i64>>(case, "budgets")?, &budgets)
        }
        other => Err(format!("unknown budget table `{other}`")),
    }
}

fn pyramidkv(case: &Value) -> Result<(), String> {
    let (layers, budget, window) =
        (layers(case)?, get::<usize>(case, "budget")?, get::<usize>(case, "window")?);
    let (beta, prompt_len) = (get(case, "beta")?, get::<usize>(case, "prompt_len")?);
    let base = budget.checked_sub(window).ok_or("`window` is above `budget`")?;
    let n = match get::<String>(case, "variant")?.as_str() {
        "stateful" => {
            let first: i64 = get(case, "init_prompt_len")?;
            pyramid::layers(layers, base, beta, first.saturating_sub(window as i64))
        }
        "per_prompt" => pyramid::per_prompt(layers, base, beta, prompt_len, window),
        other => return Err(format!("unknown variant `{other}`")),
    };
    let capacity: Vec<usize> = n.iter().map(|n| n.saturating_add(window)).collect();
    if case.get("capacity").is_some() {
        same("capacity", &get::<Vec<usize>>(case, "capacity")?, &capacity)?;
    }
    let kept: Vec<usize> = capacity.iter().map(|&capacity| capacity.min(prompt_len)).collect();
    same("kept", &get::<Vec<usize>>(case, "kept")?, &kept)
}

fn kvpress(case: &Value) -> Result<(), String> {
    let ratio = get(case, "compression_ratio")?;
    let kept = pyramid::kvpress(
        layers(case)?,
        get(case, "prompt_len")?,
        ratio,
        get(case, "window")?,
        get(case, "beta")?,
    );
    same("kept", &get::<Vec<usize>>(case, "kept")?, &kept)
}

fn capacities(case: &Value, scores: &Scores) -> Result<(), String> {
    let file: String = get(case, "file")?;
    let scores = scores.get(&file).ok_or_else(|| format!("there are no scores of `{file}`"))?;
    let means: Vec<f64> = get(scores, "mean_scores")?;
    let budget: usize = get(case, "budget")?;
    let base = match get::<String>(case, "variant")?.as_str() {
        "headkv" => budget.checked_sub(get(case, "window")?).ok_or("`window` is above `budget`")?,
        "kvcache_factory" => budget,
        other => return Err(format!("unknown variant `{other}`")),
    };
    let split = headkv::capacities(&means, base, get(case, "beta")?, get(case, "temp")?);
    close("pool", &[get(case, "pool")?], &[split.pool], 1e-12)?;
    close("min_num", &[get(case, "min_num")?], &[split.min_num], 1e-12)?;
    same("capacity", &get::<Vec<u64>>(case, "capacity")?, &split.heads)?;
    same(
        "sum",
        &[get::<u64>(case, "sum")?],
        &[split.heads.iter().fold(0, |sum: u64, n| sum.saturating_add(*n))],
    )
}
