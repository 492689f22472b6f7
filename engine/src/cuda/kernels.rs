//! The arguments of every kernel, as `engine/kernels/*.cu` declares and describes them, and the geometry of its launch.
//!
//! Lengths are `i32`, as kernels count in 32 bits; offsets are 64 bits wide there.

use super::launcher::{Address, Arguments, Element, Geometry, HeadDim, Instance, Symbol, Words};

/// A sliding window that hides nothing.
pub const NO_WINDOW: i32 = i32::MAX;

/// The factor on `<q, k>` that makes weights powers of two.
#[must_use]
pub fn scale_log2(head_dim: HeadDim) -> f32 {
    std::f32::consts::LOG2_E / (head_dim.get() as f32).sqrt()
}

/// A length that the caller knows to be none below zero.
fn count(length: i32) -> usize {
    usize::try_from(length).unwrap_or(0)
}

/// Bytes of rows of a head in shared memory, which are 8 elements longer there.
fn tile_bytes(rows: usize, head_dim: HeadDim) -> usize {
    rows * (head_dim.get() + 8) * Element::BYTES
}

/// `prefill.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Prefill {
    pub q: Address,
    pub k: Address,
    pub v: Address,
    pub out: Address,
    pub log_sums: Address,
    pub q_len: i32,
    pub q_start: i32,
    pub kv_len: i32,
    pub capacity: i32,
    pub heads: i32,
    pub group: i32,
    pub window: i32,
    pub scale_log2: f32,
}

impl Arguments for Prefill {
    fn geometry(&self, Instance { element, head_dim }: Instance) -> Geometry {
        let (halves, keys) = match head_dim.get() {
            0..=96 => (2, 64),
            97..=128 => (2, 32),
            _ => (1, 32),
        };
        let rows = 64 * halves;
        Geometry {
            symbol: Symbol::new("prefill").of(element).sized(head_dim),
            grid: [count(self.heads), count(self.q_len).div_ceil(rows), 1],
            threads: 128,
            shared_bytes: tile_bytes(rows + 2 * keys, head_dim),
        }
    }
}

/// `column_sums.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ColumnSums {
    pub q: Address,
    pub k: Address,
    pub log_sums: Address,
    pub out: Address,
    pub q_len: i32,
    pub q_start: i32,
    pub kv_len: i32,
    pub capacity: i32,
    pub heads: i32,
    pub group: i32,
    pub window: i32,
    pub first_row: i32,
    pub columns: i32,
    pub accumulate: i32,
    pub scale_log2: f32,
}

impl Arguments for ColumnSums {
    fn geometry(&self, Instance { element, head_dim }: Instance) -> Geometry {
        let keys = if head_dim.get() <= 128 { 64 } else { 32 };
        Geometry {
            symbol: Symbol::new("column_sums").of(element).sized(head_dim),
            grid: [count(self.columns).div_ceil(keys), count(self.heads), 1],
            threads: 128,
            shared_bytes: tile_bytes(128 + keys, head_dim) + 4 * keys * size_of::<f32>(),
        }
    }
}

/// `window_moments.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WindowMoments {
    pub q: Address,
    pub k: Address,
    pub log_sums: Address,
    pub mean: Address,
    pub variance: Address,
    pub entropy: Address,
    pub q_len: i32,
    pub q_start: i32,
    pub kv_len: i32,
    pub capacity: i32,
    pub heads: i32,
    pub group: i32,
    pub window: i32,
    pub first_row: i32,
    pub columns: i32,
    pub scale_log2: f32,
}

impl Arguments for WindowMoments {
    fn geometry(&self, Instance { element, head_dim }: Instance) -> Geometry {
        Geometry {
            symbol: Symbol::new("window_moments").of(element).sized(head_dim),
            grid: [count(self.columns).div_ceil(64), count(self.heads), 1],
            threads: 128,
            shared_bytes: tile_bytes(128, head_dim) + 320 * 4,
        }
    }
}

/// `key_norms.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KeyNorms {
    pub k: Address,
    pub out: Address,
    pub kv_len: i32,
    pub capacity: i32,
    pub kv_heads: i32,
}

impl Arguments for KeyNorms {
    fn geometry(&self, Instance { element, head_dim }: Instance) -> Geometry {
        Geometry {
            symbol: Symbol::new("key_norms").of(element).sized(head_dim),
            grid: [count(self.kv_len).div_ceil(4), count(self.kv_heads), 1],
            threads: 128,
            shared_bytes: 0,
        }
    }
}

/// One list of `gather.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GatherItem {
    pub k: Address,
    pub v: Address,
    pub positions: Address,
    pub to_k: Address,
    pub to_v: Address,
    pub len: i32,
    pub reserved: i32,
}

// SAFETY: Numbers, and their sizes add up to the whole.
unsafe impl Words for GatherItem {}

/// `gather.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    pub items: Address,
    pub count: i32,
    pub longest: i32,
}

impl Arguments for Gather {
    fn geometry(&self, Instance { head_dim, .. }: Instance) -> Geometry {
        Geometry {
            symbol: Symbol::new("gather").sized(head_dim),
            grid: [count(self.count), count(self.longest).div_ceil(64), 1],
            threads: 128,
            shared_bytes: 0,
        }
    }
}

/// One piece of a list of `ragged_decode.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeItem {
    pub k: Address,
    pub v: Address,
    pub len: i32,
    pub len_from: i32,
    pub q_row: i32,
    pub q_count: i32,
    pub part: i32,
    pub reserved: i32,
}

// SAFETY: Numbers, and their sizes add up to the whole.
unsafe impl Words for DecodeItem {}

/// `ragged_decode.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RaggedDecode {
    pub q: Address,
    pub items: Address,
    pub lens: Address,
    pub part_out: Address,
    pub part_sums: Address,
    pub scale_log2: f32,
    pub count: i32,
}

impl Arguments for RaggedDecode {
    fn geometry(&self, Instance { element, head_dim }: Instance) -> Geometry {
        Geometry {
            symbol: Symbol::new("ragged_decode").of(element).sized(head_dim),
            grid: [count(self.count), 1, 1],
            threads: 128,
            shared_bytes: 64 * (head_dim.get() + 2) * 4,
        }
    }
}

/// `merge.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Merge {
    pub part_out: Address,
    pub part_sums: Address,
    pub parts: Address,
    pub first: Address,
    pub out: Address,
    pub rows: i32,
}

impl Arguments for Merge {
    fn geometry(&self, Instance { element, head_dim }: Instance) -> Geometry {
        Geometry {
            symbol: Symbol::new("merge").of(element).sized(head_dim),
            grid: [count(self.rows), 1, 1],
            threads: (head_dim.get() / 2).next_multiple_of(32),
            shared_bytes: 0,
        }
    }
}

/// `embedding.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    pub table: Address,
    pub tokens: Address,
    pub out: Address,
    pub width: i32,
    pub count: i32,
}

impl Arguments for Embedding {
    fn geometry(&self, Instance { element, .. }: Instance) -> Geometry {
        Geometry {
            symbol: Symbol::new("embedding").of(element),
            grid: [count(self.count), 1, 1],
            threads: 128,
            shared_bytes: 0,
        }
    }
}

/// `add_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AddNorm {
    pub residual: Address,
    pub add: Address,
    pub weight: Address,
    pub out: Address,
    pub width: i32,
    pub epsilon: f32,
    pub count: i32,
}

impl Arguments for AddNorm {
    fn geometry(&self, Instance { element, .. }: Instance) -> Geometry {
        Geometry {
            symbol: Symbol::new("add_norm").of(element),
            grid: [count(self.count), 1, 1],
            threads: 256,
            shared_bytes: 8 * 4,
        }
    }
}

/// `rope.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    pub projected: Address,
    pub bias: Address,
    pub q_norm: Address,
    pub k_norm: Address,
    pub cosines: Address,
    pub sines: Address,
    pub positions: Address,
    pub rows: Address,
    pub q: Address,
    pub k: Address,
    pub v: Address,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_rows: i32,
    pub epsilon: f32,
    pub count: i32,
}

impl Arguments for Rope {
    fn geometry(&self, Instance { element, head_dim }: Instance) -> Geometry {
        let heads = count(self.heads) + 2 * count(self.kv_heads);
        Geometry {
            symbol: Symbol::new("rope").of(element).sized(head_dim),
            grid: [count(self.count), heads.div_ceil(4), 1],
            threads: 128,
            shared_bytes: 0,
        }
    }
}

/// `silu_times_up.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SiluTimesUp {
    pub gate_up: Address,
    pub out: Address,
    pub width: i32,
    pub count: i32,
}

impl Arguments for SiluTimesUp {
    fn geometry(&self, Instance { element, .. }: Instance) -> Geometry {
        Geometry {
            symbol: Symbol::new("silu_times_up").of(element),
            grid: [count(self.count), count(self.width).div_ceil(1024), 1],
            threads: 128,
            shared_bytes: 0,
        }
    }
}

/// `argmax.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Argmax {
    pub logits: Address,
    pub out: Address,
    pub vocab: i32,
    pub rows: i32,
}

impl Arguments for Argmax {
    fn geometry(&self, _: Instance) -> Geometry {
        Geometry {
            symbol: Symbol::new("argmax"),
            grid: [count(self.rows), 1, 1],
            threads: 256,
            shared_bytes: 96,
        }
    }
}
