//! Decoding under observation: the attention rows that head identification reads, and the layer errors of CompressKV.

use std::sync::Arc;

use kvsweep_methods::selection::{Granularity, LayerSelection, Selection};

use crate::{
    backend::{Backend, HeadSet},
    decode::{DecodeRule, Decoded, OnRows, Sequence, decode_tapped},
    error::Result,
    prefill::Prefill,
    session::Session,
};

/// A sequence with its whole prompt.
fn full<P>(
    prefill: &Arc<Prefill<P>>,
    follow: Option<u32>,
    rule: &DecodeRule,
    masked_heads: Option<Arc<HeadSet>>,
) -> Sequence<P> {
    let layers = vec![LayerSelection::All; prefill.shape().layers.len()];
    Sequence {
        prefill: Arc::clone(prefill),
        selection: Arc::new(Selection { granularity: Granularity::KvHead, layers }),
        follow: follow.into_iter().collect(),
        renumbered: false,
        again: None,
        rule: rule.clone(),
        keep_logits: false,
        masked_heads,
    }
}

impl<B: Backend> Session<B> {
    /// Decodes with the whole prompt and shows every attention row. With `feed`, that token (the prompt's last, left
    /// out of the prefill) is read first, so that step 0 is the one that chooses the first token, as the
    /// head-detection scripts do it.
    ///
    /// # Errors
    /// As [`Session::decode`], and a `feed` outside the vocabulary.
    pub fn decode_with_attention(
        &self,
        prefill: &Arc<Prefill<B::Prompt>>,
        feed: Option<u32>,
        rule: &DecodeRule,
        masked_heads: Option<Arc<HeadSet>>,
        on_rows: OnRows<'_>,
    ) -> Result<Decoded> {
        self.config.check_ids(feed.as_slice())?;
        let sequence = full(prefill, feed, rule, masked_heads);
        decode_tapped(&self.backend, &sequence, Some(on_rows), None, &self.cancel)
    }

    /// Decodes with the whole prompt, and measures what each layer's attention output would lose with `selection`
    /// instead: per layer the sum over the decode steps of `|part - full| / (|full| + 1e-5)` behind the output
    /// projection (CompressKV, `pred_get_importance_score.py`). The query is that of the full run.
    ///
    /// # Errors
    /// As [`Session::decode`].
    pub fn layer_errors(
        &self,
        prefill: &Arc<Prefill<B::Prompt>>,
        selection: &Selection,
        rule: &DecodeRule,
    ) -> Result<(Vec<f64>, Decoded)> {
        let sequence = full(prefill, None, rule, None);
        let mut errors = vec![0.0; prefill.shape().layers.len()];
        let shadow = Some((selection, errors.as_mut_slice()));
        let decoded = decode_tapped(&self.backend, &sequence, None, shadow, &self.cancel)?;
        Ok((errors, decoded))
    }
}
