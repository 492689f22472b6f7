//! A second pass over a prompt, behind the whole of it: the model repeats it part by part, and what it looks at
//! meanwhile is what a method may keep ([`Observation::Reconstruction`]).

use kvsweep_methods::observation::{Observation, Observed, UNJUDGED};

use crate::{
    backend::Backend,
    cancel::Cancel,
    error::{EngineError, Result},
    model::config::ModelConfig,
    prefill::Prefill,
    repeat::{RepeatRequest, Replayed},
};

/// Refuses a prompt of which no second pass can be made for `wanted`.
///
/// # Errors
/// No request, no positions behind the prompt, or windows that it does not fit in.
pub(crate) fn check(
    config: &ModelConfig,
    ids: &[u32],
    wanted: Observation,
    request: Option<&RepeatRequest>,
) -> Result<()> {
    let Observation::Reconstruction { chunk, .. } = wanted else { return Ok(()) };
    let request = request.ok_or(EngineError::NoRepeatRequest)?;
    let shape = config.cache_shape(ids.len());
    let repeat = request.parts(ids, chunk).iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
    if shape.len + repeat > config.max_positions {
        return Err(EngineError::RepeatTooLong { prompt: shape.len, repeat, limit: config.max_positions });
    }
    if shape.seen().start > 0 {
        return Err(EngineError::RepeatBeyondWindow { prompt: shape.len, window: shape.seen().len() + 1 });
    }
    Ok(())
}

/// Makes one second pass, for [`Observation::Reconstruction`], of a prompt that was [checked](check).
///
/// # Errors
/// No request, a failing device, or an interruption.
pub(crate) fn observe<B: Backend>(
    backend: &B,
    prefill: &mut Prefill<B::Prompt>,
    wanted: Observation,
    request: Option<&RepeatRequest>,
    cancel: &Cancel,
) -> Result<()> {
    let Observation::Reconstruction { sinks, chunk } = wanted else { return Ok(()) };
    let request = request.ok_or(EngineError::NoRepeatRequest)?;
    let shape = prefill.shape();
    let sinks = sinks.unwrap_or(request.head).min(shape.len);
    let contested = shape.contested();
    let mut most = vec![Vec::new(); shape.layers.len()];
    for &layer in &contested {
        most[layer] = vec![0.0; shape.layers[layer].kv_heads * shape.len];
    }
    for (part, tokens) in request.parts(&prefill.ids, chunk) {
        let seen = Replayed { sinks: sinks.min(part.start), part };
        backend.replay(&prefill.prompt, &tokens, &seen, &mut most, cancel)?;
    }
    let (len, layers) = (shape.len, shape.layers.clone());
    prefill.observations.layers.resize_with(layers.len(), Default::default);
    for layer in contested {
        let (observed, sizes) = (&mut prefill.observations.layers[layer], layers[layer]);
        let mut values = std::mem::take(&mut most[layer]);
        values.chunks_mut(len).for_each(|row| row[..sinks].fill(UNJUDGED));
        observed.insert(wanted, Observed::Rows { rows: sizes.kv_heads, columns: len, values });
    }
    Ok(())
}
