//! Decoding under observation: the attention rows that head identification reads, and the layer errors of CompressKV.

use std::sync::Arc;

use kvsweep_methods::selection::{Granularity, LayerSelection, Selection};

use crate::{
    backend::{Backend, HeadSet},
    decode::{DecodeRule, Decoded, Sequence, decode_tapped},
    error::Result,
    model::Model,
    prefill::Prefill,
};

/// Sees the attention of one decode step in one layer: (step, layer, rows), where `rows` is
/// `[query_heads][entries]` over the prompt and every token read so far, the current one included.
pub type OnRows<'a> = &'a mut dyn FnMut(usize, usize, &[f32]);

/// A sequence with its whole prompt.
fn full(prefill: &Arc<Prefill>, rule: &DecodeRule, masked_heads: Option<Arc<HeadSet>>) -> Sequence {
    let layers = vec![LayerSelection::All; prefill.shape().layers];
    Sequence {
        prefill: Arc::clone(prefill),
        selection: Arc::new(Selection { granularity: Granularity::KvHead, layers }),
        rule: rule.clone(),
        keep_logits: false,
        masked_heads,
    }
}

impl Model {
    /// Decodes with the whole prompt and shows every attention row. With `feed`, that token (the prompt's last, left
    /// out of the prefill) is read first, so that step 0 is the one that chooses the first token, as the
    /// head-detection scripts do it.
    ///
    /// # Errors
    /// As [`Model::decode`], and a `feed` outside the vocabulary.
    pub fn decode_with_attention(
        &self,
        prefill: &Arc<Prefill>,
        feed: Option<u32>,
        rule: &DecodeRule,
        masked_heads: Option<Arc<HeadSet>>,
        on_rows: OnRows<'_>,
    ) -> Result<Decoded> {
        if let Some(token) = feed {
            self.check_prompt(&[token], 0)?;
        }
        let sequence = full(prefill, rule, masked_heads);
        match &self.backend {
            Backend::Cpu(model) => decode_tapped(model, &sequence, feed, Some(on_rows), None, &self.cancel),
            Backend::Reference(model) => {
                decode_tapped(model, &sequence, feed, Some(on_rows), None, &self.cancel)
            }
        }
    }

    /// Decodes with the whole prompt, and measures what each layer's attention output would lose with `selection`
    /// instead: per layer the sum over the decode steps of `|part - full| / (|full| + 1e-5)` behind the output
    /// projection (CompressKV, `pred_get_importance_score.py`). The query is that of the full run.
    ///
    /// # Errors
    /// As [`Model::decode`].
    pub fn layer_errors(
        &self,
        prefill: &Arc<Prefill>,
        selection: &Selection,
        rule: &DecodeRule,
    ) -> Result<(Vec<f64>, Decoded)> {
        let sequence = full(prefill, rule, None);
        let mut errors = vec![0.0; prefill.shape().layers];
        let shadow = Some((selection, errors.as_mut_slice()));
        let decoded = match &self.backend {
            Backend::Cpu(model) => decode_tapped(model, &sequence, None, None, shadow, &self.cancel)?,
            Backend::Reference(model) => decode_tapped(model, &sequence, None, None, shadow, &self.cancel)?,
        };
        Ok((errors, decoded))
    }
}
