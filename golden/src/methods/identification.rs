//! Head identification: score accumulation, needle search, ranking, layer averages.

use std::collections::BTreeMap;
use std::path::Path;

use kvsweep_methods::identify::{self, HeadKind};
use kvsweep_methods::inputs::{self, HeadScores, LayerScores};
use serde_json::{Map, Value};

use super::report::Report;
use crate::vectors::{close, get, maybe, read_json, same};

type Check = fn(&Value) -> Result<(), String>;

/// Checks every entry of `head_identification.json`.
pub(super) fn check(dir: &Path, file: &str, report: &mut Report) {
    let content = match read_json(dir, file) {
        Ok(content) => content,
        Err(problem) => return report.add(file, Err(problem)),
    };
    let kinds: [(&str, Check); 4] = [
        ("accumulate", accumulate),
        ("find_needle", find_needle),
        ("ranking", ranking),
        ("layer_average", layer_average),
    ];
    for (kind, check) in kinds {
        let cases = content.get(kind).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (index, case) in cases.iter().enumerate() {
            report.add(format!("{file} {kind}[{index}]"), check(case));
        }
    }
}

fn accumulate(case: &Value) -> Result<(), String> {
    let prompt: Vec<u32> = get(case, "prompt_ids")?;
    let span = get::<usize>(case, "needle_start")?..get::<usize>(case, "needle_end")?;
    let produced: Vec<u32> = get(case, "generated_ids")?;
    let steps: Vec<Vec<Vec<Vec<f32>>>> = get(case, "attention")?;
    if steps.len() != produced.len() {
        return Err(format!("{} attention steps for {} generated tokens", steps.len(), produced.len()));
    }
    let expected: BTreeMap<String, Vec<Vec<f64>>> = get(case, "scores")?;
    for (name, expected) in expected {
        let kind = match name.as_str() {
            "retrieval_head" => HeadKind::Retrieval,
            "headkv_r2" => HeadKind::Reasoning,
            "srh" => HeadKind::Semantic,
            other => return Err(format!("unknown score `{other}`")),
        };
        let mut scores: Vec<Vec<f64>> = expected.iter().map(|heads| vec![0.0; heads.len()]).collect();
        for (step, &produced) in steps.iter().zip(&produced) {
            same("layers", &[scores.len()], &[step.len()])?;
            for (scores, heads) in scores.iter_mut().zip(step) {
                same("heads", &[scores.len()], &[heads.len()])?;
                for (score, row) in scores.iter_mut().zip(heads) {
                    *score += identify::step_score(kind, &prompt, &span, row, produced);
                }
            }
        }
        close(&name, &expected.concat(), &scores.concat(), 1e-5)?;
    }
    Ok(())
}

fn find_needle(case: &Value) -> Result<(), String> {
    let (prompt, needle): (Vec<u32>, Vec<u32>) = (get(case, "prompt_ids")?, get(case, "needle_ids")?);
    let found: BTreeMap<String, [i64; 2]> = get(case, "found")?;
    for (variant, expected) in found {
        let span = match variant.as_str() {
            "retrieval_head" | "srh" => identify::find_needle(&prompt, &needle),
            "headkv_r2" => Some(identify::find_needle_reasoning(&prompt, &needle, maybe(case, "bos_id")?)),
            other => return Err(format!("unknown search `{other}`")),
        };
        let span = span.map_or([-1, -1], |span| [span.start as i64, span.end as i64]);
        same(&variant, &expected, &span)?;
    }
    Ok(())
}

fn ranking(case: &Value) -> Result<(), String> {
    let scores = HeadScores::read(&get::<Map<String, Value>>(case, "score_lists")?)?;
    let expected = inputs::read_ranking(&get(case, "ranking")?)?;
    same("ranking", &expected, &scores.ranking())
}

fn layer_average(case: &Value) -> Result<(), String> {
    let mut data_sets = BTreeMap::new();
    for row in get::<Vec<BTreeMap<String, Vec<f64>>>>(case, "rows")? {
        data_sets.extend(row);
    }
    if data_sets.values().any(|scores| Some(scores.len()) != data_sets.values().next().map(Vec::len)) {
        return Err("data sets differ in their number of layers".into());
    }
    let ours = LayerScores::of(data_sets);
    let expected = LayerScores::read(&get(case, "output")?)?;
    same(
        "data sets",
        &expected.data_sets.keys().collect::<Vec<_>>(),
        &ours.data_sets.keys().collect::<Vec<_>>(),
    )?;
    close("avg_score", &expected.average, &ours.average, 1e-9)
}
