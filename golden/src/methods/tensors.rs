//! Tensor cases: the answer of a whole method on small tensors, computed through the same
//! [`MethodSpec`] that a run uses, and compared under the README's tie rule.

use kvsweep_methods::inputs::HeadScores;
use kvsweep_methods::method::cake::Cake;
use kvsweep_methods::method::compresskv::CompressKv;
use kvsweep_methods::method::headkv::HeadKv;
use kvsweep_methods::method::{Context, Method};
use kvsweep_methods::scoring::Scores;
use kvsweep_methods::{
    Granularity, Inputs, LayerSelection, LayerShape, MethodSpec, MethodState, Observations, Selection,
    registry,
};
use serde_json::{Map, Value};

use super::case::Case;
use super::observer::Observer;
use crate::vectors::{close, get, maybe, same};

/// Relative distance inside which two scores count as equal (the README's `eps`).
const EPS: f64 = 1e-5;

/// The profile that reproduces an implementation.
fn profile(implementation: &str) -> String {
    implementation.replace('_', "-")
}

/// A case as the command line would ask for it: method, profile, parameters, granularity.
fn spec(method: &str, case: &Case<'_>) -> Result<MethodSpec, String> {
    let implementation = profile(&get::<String>(case.entry, "impl")?);
    let method = if method == "headkv" { "headkv-r" } else { method };
    let entry = registry::find(method).map_err(|error| error.to_string())?;
    let semantics = case.entry.get("semantics").ok_or("the case has no `semantics`")?;
    let mut wanted: Vec<(&str, Value)> = Vec::new();
    for (name, value) in &case.params {
        match name.as_str() {
            // A budget, not a parameter; first prompts are state.
            "budget" | "init_prompt_len" => {}
            "normalize" => wanted.push(("normalize", Value::Bool(value == &Value::Bool(true)))),
            "window" if method == "streamingllm" => {
                if implementation != "adakv" {
                    wanted.push(("recent", value.clone()));
                }
            }
            "group_reduce" if method == "streamingllm" => {}
            "kernel" | "pooling" if method == "cake" => {}
            _ if value.is_null() => {}
            name => wanted.push((name, value.clone())),
        }
    }
    let layout: String = get(semantics, "group_layout")?;
    let order: String = get(semantics, "order")?;
    let order = match order.as_str() {
        "group_then_pool" => Some("before-pooling"),
        "pool_then_group" => Some("after-pooling"),
        _ => None,
    };
    let mut also = |name: &'static str, value: Option<&str>| {
        if let Some(value) = value.filter(|_| entry.parameters.iter().any(|parameter| parameter.name == name))
        {
            wanted.push((name, Value::from(value)));
        }
    };
    also("group_layout", Some(layout.as_str()));
    also("group_order", order);
    let granularity = match get::<String>(semantics, "head_axis")?.as_str() {
        "query" => Granularity::QueryHead,
        "kv" => Granularity::KvHead,
        other => return Err(format!("unknown head axis `{other}`")),
    };
    let overrides: Vec<(String, String)> =
        wanted.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect();
    MethodSpec::parse(&format!("{method}@{implementation}"), &overrides, Some(granularity))
        .map_err(|e| e.to_string())
}

/// A case of a method that a specification names.
pub(super) fn check_spec(method: &str, case: &Case<'_>, observer: &dyn Observer) -> Result<(), String> {
    let spec = spec(method, case)?;
    let budget = case.params.get("budget").cloned().unwrap_or_default();
    let budget: usize = serde_json::from_value(budget).map_err(|error| format!("`budget`: {error}"))?;
    let variant = spec.at(budget).map_err(|error| error.to_string())?;
    let mut inputs = Inputs::default();
    if let Some(lists) = maybe::<Map<String, Value>>(case.entry, "head_score_lists")? {
        inputs.retrieval = Some(HeadScores::read(&lists)?.means());
    }
    inputs.full_heads = maybe(case.entry, "full_heads")?;
    let observations = case.observe(&variant.observations(), observer)?;
    let mut state = match case.params.get("init_prompt_len").and_then(Value::as_u64) {
        Some(first) => MethodState::after(first as usize),
        None => MethodState::default(),
    };
    let selection =
        variant.choose(&case.shape, &observations, &inputs, &mut state).map_err(|error| error.to_string())?;
    let mean = case.entry["semantics"]["window_agg"] == "mean";
    let window = maybe(&Value::Object(case.params.clone()), "window")?.unwrap_or(0);
    let scale = if mean { 1.0 / window as f64 } else { 1.0 };
    compare(case, &selection, window, scale, |layer| {
        variant.scores(&case.shape, &observations, &inputs, layer).map_err(|error| error.to_string())
    })?;
    let ctx = Context {
        method: spec.entry().name,
        needs: spec.entry().needs,
        shape: &case.shape,
        observations: &observations,
        inputs: &inputs,
        budget,
        granularity: spec.granularity(),
    };
    match method {
        "cake" if case.shape.len > budget + window => check_cake(case, &spec, &ctx),
        "headkv" => {
            let params: HeadKv = typed(&spec)?;
            // Recorded per query head, also where KV heads store their mean.
            let ctx = Context { granularity: Granularity::QueryHead, ..ctx };
            let capacities = params.capacities(&ctx).map_err(|error| error.to_string())?;
            let capacities: Vec<i64> = capacities.into_iter().map(|capacity| capacity as i64).collect();
            same("head_capacity", &case.ints("head_capacity")?, &capacities)
        }
        _ => Ok(()),
    }
}

/// A spec's parameters as their own type.
fn typed<P: serde::de::DeserializeOwned>(spec: &MethodSpec) -> Result<P, String> {
    serde_json::from_value(Value::Object(spec.resolved().params.into_iter().collect()))
        .map_err(|error| error.to_string())
}

fn check_cake(case: &Case<'_>, spec: &MethodSpec, ctx: &Context<'_>) -> Result<(), String> {
    let cake: Cake = typed(spec)?;
    let preferences = cake.preferences(ctx).map_err(|error| error.to_string())?;
    close("pref_scores", &case.doubles("pref_scores")?, &preferences, 1e-4)?;
    let cascade = cake.cascade(ctx).map_err(|error| error.to_string())?;
    let layers = case.shape.layers.len();
    let (raw, adjusted) = (case.doubles("cascade_budgets_raw")?, case.ints("cascade_budgets")?);
    if raw.len() != layers * layers || adjusted.len() != layers * layers {
        return Err(format!("cascade budgets are not {layers} x {layers}"));
    }
    for (layer, (ours, theirs)) in cascade.raw.iter().zip(raw.chunks(layers)).enumerate() {
        close(&format!("cascade_budgets_raw row {layer}"), &theirs[..=layer], ours, 1e-4)?;
    }
    for (layer, (ours, theirs)) in cascade.steps.iter().zip(adjusted.chunks(layers)).enumerate() {
        same(&format!("cascade_budgets row {layer}"), &theirs[..=layer], ours)?;
    }
    let last = cascade.steps.last().map(Vec::as_slice).unwrap_or_default();
    same("layer_budget", &case.ints("layer_budget")?, last)
}

/// A case of CompressKV, whose layer budgets are given.
pub(super) fn check_compresskv(case: &Case<'_>, observer: &dyn Observer) -> Result<(), String> {
    let params = Value::Object(case.params.clone());
    let method = CompressKv {
        window: get(&params, "window")?,
        kernel: get(&params, "kernel")?,
        pooling: get(&params, "pooling")?,
        first_k: get(&params, "first_k")?,
        ..CompressKv::default()
    };
    let budgets: Vec<usize> = get(&params, "layer_budgets")?;
    same("layer budgets", &[case.shape.layers.len()], &[budgets.len()])?;
    let selection = compresskv(case, &method, &budgets, observer)?;
    let (observations, inputs) = (selection.1, selection.2);
    let ctx = context(case, &observations, &inputs, 0)?;
    compare(case, &selection.0, method.window, 1.0, |layer| {
        method.scores(&ctx, layer).map_err(|error| error.to_string())
    })
}

/// CompressKV with given layer budgets, for its own cases and those of the layer error.
pub(super) fn compresskv(
    case: &Case<'_>,
    method: &CompressKv,
    budgets: &[usize],
    observer: &dyn Observer,
) -> Result<(Selection, Observations, Inputs), String> {
    method.check().map_err(|(parameter, problem)| format!("`{parameter}`: {problem}"))?;
    let inputs = Inputs { ranking: Some(case.ranking()?), ..Inputs::default() };
    let observations = case.observe(&method.observations(), observer)?;
    let ctx = context(case, &observations, &inputs, 0)?;
    let layers = method.cut(&ctx, budgets).map_err(|error| error.to_string())?;
    Ok((Selection { granularity: Granularity::KvHead, layers }, observations, inputs))
}

pub(super) fn context<'a>(
    case: &'a Case<'_>,
    observations: &'a Observations,
    inputs: &'a Inputs,
    budget: usize,
) -> Result<Context<'a>, String> {
    let entry = registry::find("compresskv").map_err(|error| error.to_string())?;
    Ok(Context {
        method: entry.name,
        needs: entry.needs,
        shape: &case.shape,
        observations,
        inputs,
        budget,
        granularity: Granularity::KvHead,
    })
}

/// Compares a selection with `kept_len`, `kept_idx` and `scores.<l>`: the number kept exactly, the positions
/// up to ties at the cut, our scores with theirs, and where there are `k_kept` rows, what a gather gives.
pub(super) fn compare(
    case: &Case<'_>,
    selection: &Selection,
    window: usize,
    scale: f64,
    scores: impl Fn(usize) -> Result<Option<Scores>, String>,
) -> Result<(), String> {
    let LayerShape { kv_heads, head_dim, .. } = case.layer;
    let (layers, prompt_len) = (case.shape.layers.len(), case.shape.len);
    let out_heads: usize = get(case.entry, "out_heads")?;
    let (lens, kept) = (case.ints("kept_len")?, case.ints("kept_idx")?);
    if out_heads == 0 || Some(lens.len()) != layers.checked_mul(out_heads) || lens.iter().any(|&len| len < 0)
    {
        return Err(format!("tensor `kept_len` does not have {layers} x {out_heads} entries"));
    }
    let mut rest = kept.as_slice();
    let mut offset = 0;
    let gathered = case.has("k_kept").then(|| case.shaped("k_kept", &[kept.len(), head_dim])).transpose()?;
    let keys = gathered
        .is_some()
        .then(|| case.shaped("k", &[layers, kv_heads, prompt_len, head_dim]))
        .transpose()?;
    for (layer, chosen) in selection.layers.iter().enumerate() {
        let all: Vec<u32> = (0..prompt_len as u32).collect();
        let stored = match case.has(&format!("scores.{layer}")) {
            true => Some(case.floats(&format!("scores.{layer}"))?),
            false => None,
        };
        let ours = if stored.is_some() { scores(layer)? } else { None };
        if let (Some((_, stored)), Some(ours)) = (&stored, ours) {
            let stored: Vec<f64> = stored.iter().copied().map(f64::from).collect();
            let ours: Vec<f64> =
                ours.rows.concat().into_iter().map(|score| f64::from(score) * scale).collect();
            close(&format!("scores.{layer}"), &stored, &ours, 1e-4)?;
        }
        for head in 0..out_heads {
            let place = format!("layer {layer} head {head}");
            let len = usize::try_from(lens[layer * out_heads + head]).unwrap_or(0);
            let (expected, tail) = rest.split_at_checked(len).ok_or("tensor `kept_idx` is too short")?;
            rest = tail;
            let ours = match chosen {
                LayerSelection::All => &all,
                LayerSelection::Heads(heads) => {
                    heads.get(head).ok_or_else(|| format!("{place}: nothing selected"))?
                }
            };
            same(&format!("{place}: entries kept"), &[len], &[ours.len()])?;
            let equal = ours.iter().map(|&i| i64::from(i)).eq(expected.iter().copied());
            match &stored {
                Some((shape, values)) if !equal => {
                    let columns = shape.last().copied().unwrap_or(0);
                    let row = if shape.first() == Some(&1) { 0 } else { head };
                    let row = values
                        .get(row * columns..(row + 1) * columns)
                        .ok_or("tensor of scores is too short")?;
                    within_ties(row, ours, window, prompt_len)
                        .map_err(|problem| format!("{place}: {problem}"))?;
                }
                _ => same(&place, expected, &ours.iter().map(|&i| i64::from(i)).collect::<Vec<_>>())?,
            }
            if let (true, Some(gathered), Some(keys)) = (equal, &gathered, &keys) {
                let kv_head = head * kv_heads / out_heads;
                for (i, &position) in ours.iter().enumerate() {
                    let at = ((layer * kv_heads + kv_head) * prompt_len + position as usize) * head_dim;
                    same(
                        &format!("{place}: gathered key"),
                        &gathered[(offset + i) * head_dim..][..head_dim],
                        &keys[at..at + head_dim],
                    )?;
                }
            }
            offset += len;
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(format!("tensor `kept_idx` has {} entries too many", rest.len()))
    }
}

/// The README's rule: the window whole, everything clearly above the cut, nothing clearly below it.
fn within_ties(scores: &[f32], ours: &[u32], window: usize, prompt_len: usize) -> Result<(), String> {
    let past = prompt_len.saturating_sub(window);
    let n = ours.iter().filter(|&&i| (i as usize) < past).count();
    let window_kept = ours.iter().skip(n).map(|&i| i as usize).eq(past..prompt_len);
    if scores.len() != past || !window_kept {
        return Err("the window is not kept whole".into());
    }
    if n == 0 {
        return Ok(());
    }
    let mut sorted: Vec<f64> = scores.iter().copied().map(f64::from).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let cut = sorted[n - 1];
    let kept = |position: usize| ours.binary_search(&(position as u32)).is_ok();
    for (position, &score) in scores.iter().enumerate() {
        let score = f64::from(score);
        if score > cut * (1.0 + EPS) && !kept(position) {
            return Err(format!("position {position} (score {score}) is missing, the cut is at {cut}"));
        }
        if score < cut * (1.0 - EPS) && kept(position) {
            return Err(format!("position {position} (score {score}) is kept, the cut is at {cut}"));
        }
    }
    Ok(())
}
