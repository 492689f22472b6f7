//! A model of the Llama family on a card: its weights, its buffers, and a layer's way through the kernels.
//!
//! Of a layer's eleven launches, seven are the same in prefill and decode and stand here; attention is in
//! [`prompt`](super::prompt) and [`decode`](super::decode). The residual stream is f32, everything else the model's type.

use kvsweep_methods::shape::{CacheShape, LayerShape, Reach};

use super::{
    kernels::{AddNorm, Embedding, NO_WINDOW, Rope, SiluTimesUp},
    launcher::{Address, Element, Instance, Launcher, Precision, Product},
};

/// Families whose graph the kernels compute, by `model_type`.
pub const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// A family whose graph the kernels do not compute.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the CUDA kernels do not compute the family `{family}`; they compute {}", FAMILIES.join(", "))]
pub struct UnsupportedFamily {
    family: String,
}

/// Refuses a family whose graph the kernels do not compute.
///
/// # Errors
/// The family, by name.
pub fn check_family(model_type: &str) -> Result<(), UnsupportedFamily> {
    match FAMILIES.contains(&model_type) {
        true => Ok(()),
        false => Err(UnsupportedFamily { family: model_type.to_owned() }),
    }
}

/// Sizes of a model.
#[derive(Clone, Copy, Debug)]
pub struct Dimensions {
    /// Elements of the residual stream; a multiple of 8.
    pub hidden: usize,
    /// Elements between gate and down; a multiple of 8.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Logits.
    pub vocab: usize,
    /// Of every norm.
    pub epsilon: f32,
}

/// A layer's weights, in the model's type, `[output][input]` each.
#[derive(Clone, Copy, Debug)]
pub struct LayerWeights<'a> {
    /// What its queries look at in a prompt. Decode reads whole lists: prompt and answer must lie inside a window.
    pub reach: Reach,
    /// `[hidden]`.
    pub input_norm: &'a [u16],
    /// Queries, keys, values: `[(heads + 2 kv_heads) head_dim][hidden]`.
    pub qkv: &'a [u16],
    /// `[(heads + 2 kv_heads) head_dim]`.
    pub qkv_bias: Option<&'a [u16]>,
    /// Weights of the norms of queries and of keys, `[head_dim]` each.
    pub qk_norms: Option<[&'a [u16]; 2]>,
    /// `[hidden][heads head_dim]`.
    pub o: &'a [u16],
    /// `[hidden]`.
    pub post_norm: &'a [u16],
    /// Gate, then up: `[2 intermediate][hidden]`.
    pub gate_up: &'a [u16],
    /// `[hidden][intermediate]`.
    pub down: &'a [u16],
}

/// A model's weights.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// `[vocab][hidden]`.
    pub embedding: &'a [u16],
    /// One a layer.
    pub layers: &'a [LayerWeights<'a>],
    /// `[hidden]`.
    pub norm: &'a [u16],
    /// `[vocab][hidden]`; none: the embedding.
    pub lm_head: Option<&'a [u16]>,
    /// Cosines, `[positions][head_dim / 2]`.
    pub cosines: &'a [f32],
    /// Sines, `[positions][head_dim / 2]`.
    pub sines: &'a [f32],
}

/// How much goes through the model at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a chunk of a prompt. Where a prompt is cut depends on its length alone.
    pub chunk: usize,
    /// Rows of every product of a decode step, however many sequences there are: results then do not depend on the
    /// batch. More sequences take more passes.
    pub step_rows: usize,
    /// The largest observation window: the last chunk is longer by as much, so that a window is never cut.
    pub window: usize,
}

/// A layer's weights on the card.
#[derive(Clone, Copy, Debug)]
struct Layer {
    reach: Reach,
    input_norm: Address,
    qkv: Address,
    qkv_bias: Address,
    q_norm: Address,
    k_norm: Address,
    o: Address,
    post_norm: Address,
    gate_up: Address,
    down: Address,
}

/// Buffers that every chunk and every step uses again, for [`Limits`]' most tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// u32, one a token each: ids, positions, rows of the caches, and lengths of tails.
    pub(super) tokens: Address,
    pub(super) positions: Address,
    pub(super) rows: Address,
    pub(super) lens: Address,
    /// f32.
    residual: Address,
    pub(super) normed: Address,
    projected: Address,
    pub(super) q: Address,
    pub(super) attended: Address,
    delta: Address,
    gate_up: Address,
    activated: Address,
    /// f32, `[heads][tokens]`.
    pub(super) log_sums: Address,
    /// f32, `[step_rows][vocab]`.
    pub(super) logits: Address,
    /// u32, `[step_rows][2]`: what `argmax` says.
    pub(super) chosen: Address,
}

/// Where rotated keys and values of a layer go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) k: Address,
    pub(super) v: Address,
    /// Rows from a KV head to the next.
    pub(super) head_rows: usize,
}

/// A model on a card.
#[derive(Debug)]
pub struct CudaModel<L> {
    pub(super) card: L,
    pub(super) instance: Instance,
    pub(super) dimensions: Dimensions,
    pub(super) limits: Limits,
    pub(super) work: Work,
    embedding: Address,
    layers: Vec<Layer>,
    norm: Address,
    lm_head: Address,
    cosines: Address,
    sines: Address,
}

/// A length as a kernel counts it. Memory ends before 32 bits do.
pub(super) fn int(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

impl<L: Launcher> CudaModel<L> {
    /// Copies the weights to the card and reserves the buffers of prefill and decode.
    ///
    /// # Errors
    /// Where the card has not enough memory.
    pub fn new(
        mut card: L,
        instance: Instance,
        dimensions: Dimensions,
        limits: Limits,
        weights: &Weights<'_>,
    ) -> Result<Self, L::Error> {
        let Dimensions { hidden, intermediate, heads, kv_heads, vocab, .. } = dimensions;
        let dim = instance.head_dim.get();
        let mut layers = Vec::with_capacity(weights.layers.len());
        for layer in weights.layers {
            let mut optional = |values: Option<&[u16]>| match values {
                Some(values) => card.store(values),
                None => Ok(Address::NONE),
            };
            let qkv_bias = optional(layer.qkv_bias)?;
            let [q_norm, k_norm] = match layer.qk_norms {
                Some([q, k]) => [optional(Some(q))?, optional(Some(k))?],
                None => [Address::NONE; 2],
            };
            layers.push(Layer {
                reach: layer.reach,
                input_norm: card.store(layer.input_norm)?,
                qkv: card.store(layer.qkv)?,
                qkv_bias,
                q_norm,
                k_norm,
                o: card.store(layer.o)?,
                post_norm: card.store(layer.post_norm)?,
                gate_up: card.store(layer.gate_up)?,
                down: card.store(layer.down)?,
            });
        }
        let embedding = card.store(weights.embedding)?;
        let lm_head = weights.lm_head.map_or(Ok(embedding), |values| card.store(values))?;
        let tokens = (limits.chunk + limits.window).max(limits.step_rows);
        // Zeros: rows of a step that no sequence has go through the products, too.
        let mut words = |len: usize| card.store(&vec![0u32; len]);
        let mut halves = |len: usize| words(len.div_ceil(2));
        let [normed, delta] = [halves(tokens * hidden)?, halves(tokens * hidden)?];
        let projected = halves(tokens * (heads + 2 * kv_heads) * dim)?;
        let [q, attended] = [halves(tokens * heads * dim)?, halves(tokens * heads * dim)?];
        let gate_up = halves(tokens * 2 * intermediate)?;
        let activated = halves(tokens * intermediate)?;
        let work = Work {
            tokens: words(tokens)?,
            positions: words(tokens)?,
            rows: words(tokens)?,
            lens: words(tokens)?,
            residual: words(tokens * hidden)?,
            normed,
            projected,
            q,
            attended,
            delta,
            gate_up,
            activated,
            log_sums: words(tokens * heads)?,
            logits: words(limits.step_rows * vocab)?,
            chosen: words(limits.step_rows * 2)?,
        };
        let [cosines, sines] = [card.store(weights.cosines)?, card.store(weights.sines)?];
        let norm = card.store(weights.norm)?;
        Ok(Self {
            card,
            instance,
            dimensions,
            limits,
            work,
            embedding,
            layers,
            norm,
            lm_head,
            cosines,
            sines,
        })
    }

    /// Decoder layers.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Sizes of a prompt, for the methods.
    pub(super) fn shape(&self, len: usize) -> CacheShape {
        let Dimensions { heads, kv_heads, .. } = self.dimensions;
        let head_dim = self.instance.head_dim.get();
        let layer = |layer: &Layer| LayerShape { query_heads: heads, kv_heads, head_dim, reach: layer.reach };
        CacheShape { layers: self.layers.iter().map(layer).collect(), len }
    }

    /// A layer's window as kernels count it.
    pub(super) fn window(&self, layer: usize) -> i32 {
        match self.layers[layer].reach {
            Reach::All => NO_WINDOW,
            Reach::Window(window) => int(window),
        }
    }

    /// The card, to look at.
    #[must_use]
    pub fn card(&self) -> &L {
        &self.card
    }

    /// Bytes from one entry to the next.
    pub(super) fn entry_bytes(&self) -> usize {
        self.instance.head_dim.get() * Element::BYTES
    }

    pub(super) fn multiply(
        &mut self,
        [x, weight, out]: [Address; 3],
        [rows, input, output]: [usize; 3],
        precision: Precision,
    ) -> Result<(), L::Error> {
        self.card.multiply(self.instance.element, &Product { x, weight, out, rows, input, output, precision })
    }

    /// Starts the residual streams of tokens.
    pub(super) fn embed(&mut self, tokens: &[u32]) -> Result<(), L::Error> {
        self.card.write(self.work.tokens, tokens)?;
        let arguments = Embedding {
            table: self.embedding,
            tokens: self.work.tokens,
            out: self.work.residual,
            width: int(self.dimensions.hidden),
            count: int(tokens.len()),
        };
        self.card.launch(self.instance, &arguments)
    }

    /// What the block before added, and a norm.
    fn add_norm(&mut self, add: Address, weight: Address, count: usize) -> Result<(), L::Error> {
        let arguments = AddNorm {
            residual: self.work.residual,
            add,
            weight,
            out: self.work.normed,
            width: int(self.dimensions.hidden),
            epsilon: self.dimensions.epsilon,
            count: int(count),
        };
        self.card.launch(self.instance, &arguments)
    }

    /// A layer up to its attention: rotated queries in [`Work::q`], rotated keys and values where `target` says.
    /// `rows` is what the products have.
    pub(super) fn before_attention(
        &mut self,
        layer: usize,
        [count, rows]: [usize; 2],
        target: Target,
    ) -> Result<(), L::Error> {
        let Dimensions { hidden, heads, kv_heads, epsilon, .. } = self.dimensions;
        let (own, work) = (self.layers[layer], self.work);
        let add = if layer == 0 { Address::NONE } else { work.delta };
        self.add_norm(add, own.input_norm, count)?;
        let width = (heads + 2 * kv_heads) * self.instance.head_dim.get();
        self.multiply([work.normed, own.qkv, work.projected], [rows, hidden, width], Precision::Element)?;
        let arguments = Rope {
            projected: work.projected,
            bias: own.qkv_bias,
            q_norm: own.q_norm,
            k_norm: own.k_norm,
            cosines: self.cosines,
            sines: self.sines,
            positions: work.positions,
            rows: work.rows,
            q: work.q,
            k: target.k,
            v: target.v,
            heads: int(heads),
            kv_heads: int(kv_heads),
            head_rows: int(target.head_rows),
            epsilon,
            count: int(count),
        };
        self.card.launch(self.instance, &arguments)
    }

    /// A layer from its attention, in [`Work::attended`], to its end.
    pub(super) fn after_attention(
        &mut self,
        layer: usize,
        [count, rows]: [usize; 2],
    ) -> Result<(), L::Error> {
        let Dimensions { hidden, intermediate, heads, .. } = self.dimensions;
        let (own, work) = (self.layers[layer], self.work);
        let width = heads * self.instance.head_dim.get();
        self.multiply([work.attended, own.o, work.delta], [rows, width, hidden], Precision::Element)?;
        self.add_norm(work.delta, own.post_norm, count)?;
        let gate_up = [work.normed, own.gate_up, work.gate_up];
        self.multiply(gate_up, [rows, hidden, 2 * intermediate], Precision::Element)?;
        let arguments = SiluTimesUp {
            gate_up: work.gate_up,
            out: work.activated,
            width: int(intermediate),
            count: int(count),
        };
        self.card.launch(self.instance, &arguments)?;
        self.multiply(
            [work.activated, own.down, work.delta],
            [rows, intermediate, hidden],
            Precision::Element,
        )
    }

    /// Logits of the rows of the last layer from `first` on.
    pub(super) fn logits(&mut self, count: usize, first: usize, rows: usize) -> Result<(), L::Error> {
        let Dimensions { hidden, vocab, .. } = self.dimensions;
        self.add_norm(self.work.delta, self.norm, count)?;
        let x = self.work.normed.at(first, hidden * Element::BYTES);
        self.multiply([x, self.lm_head, self.work.logits], [rows, hidden, vocab], Precision::F32)
    }
}
