//! From query heads to KV heads: the rows of a group become one row (section 1.7).

use serde::{Deserialize, Serialize};

/// Which query heads share a KV head, as far as scoring is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupLayout {
    /// KV head `j` is scored by query heads `j*g .. j*g+g-1`, the heads that read it.
    Contiguous,
    /// KV head `j` is scored by query heads `j, j+kv_heads, j+2*kv_heads, ...`: an indexing slip of the
    /// CompressKV repository's SnapKV and PyramidKV, kept to reproduce its tables.
    Strided,
}

/// How the rows of a group become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupReduce {
    /// Their mean.
    Mean,
    /// Their maximum.
    Max,
    /// Their sum.
    Sum,
}

/// Whether groups are reduced before or after pooling. It matters for max pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupOrder {
    /// Reduce, then pool (AdaKV, KVCache-Factory).
    BeforePooling,
    /// Pool each query head, then reduce (CompressKV, CAKE, kvpress).
    AfterPooling,
}

/// The query heads that score KV head `kv_head`, ascending.
pub fn members(
    layout: GroupLayout,
    query_heads: usize,
    kv_heads: usize,
    kv_head: usize,
) -> impl Iterator<Item = usize> {
    let group = query_heads / kv_heads;
    (0..group).map(move |i| match layout {
        GroupLayout::Contiguous => kv_head * group + i,
        GroupLayout::Strided => kv_head + i * kv_heads,
    })
}

/// Reduces several rows of equal length to one. No rows give no values.
#[must_use]
pub fn reduce<'a>(rows: impl IntoIterator<Item = &'a [f32]>, how: GroupReduce) -> Vec<f32> {
    let mut rows = rows.into_iter();
    let Some(first) = rows.next() else { return Vec::new() };
    let mut out = first.to_vec();
    let mut count = 1usize;
    for row in rows {
        count += 1;
        let pairs = out.iter_mut().zip(row);
        match how {
            GroupReduce::Max => pairs.for_each(|(o, &x)| *o = if x > *o { x } else { *o }),
            GroupReduce::Mean | GroupReduce::Sum => pairs.for_each(|(o, &x)| *o += x),
        }
    }
    if how == GroupReduce::Mean {
        let count = count as f32;
        out.iter_mut().for_each(|x| *x /= count);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_partition_the_query_heads() {
        let list = |layout, kv| members(layout, 8, 2, kv).collect::<Vec<_>>();
        assert_eq!(list(GroupLayout::Contiguous, 1), [4, 5, 6, 7]);
        assert_eq!(list(GroupLayout::Strided, 1), [1, 3, 5, 7]);
    }

    #[test]
    fn reductions() {
        let rows: [&[f32]; 2] = [&[1.0, 5.0], &[3.0, -5.0]];
        assert_eq!(reduce(rows, GroupReduce::Mean), [2.0, 0.0]);
        assert_eq!(reduce(rows, GroupReduce::Max), [3.0, 5.0]);
        assert_eq!(reduce(rows, GroupReduce::Sum), [4.0, 0.0]);
    }
}
