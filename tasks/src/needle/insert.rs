//! Where a needle goes into a haystack of token ids: `insert_needle()` of the four needle testers.
//!
//! The four (gkamradt, KVCache-Factory, HeadKV, CompressKV) share this walk and differ in what they pass to it: whether
//! context and needle were encoded with a leading BOS id, and which ids they take for a full stop. With a Mistral
//! tokenizer CompressKV's stop ids are BOS and a stop that hardly occurs inside text, so its needle lands at the front
//! for all depths but 100; that is reproduced by passing those ids.

/// Inserts `needle` into `context` at a depth in per cent.
///
/// The context is cut so that both fit into `context_length - buffer` tokens. At depth 100 the needle is appended;
/// otherwise the place `len * depth / 100` is walked back until the token before it is one of `period_ids`, or to the
/// front. A needle longer than the room cuts as Python's negative slices do: from the end.
pub fn insert_needle(
    context: &[u32],
    needle: &[u32],
    period_ids: &[u32],
    depth_percent: f64,
    context_length: usize,
    buffer: usize,
) -> Vec<u32> {
    let mut context = context;
    let room = context_length as i64 - buffer as i64;
    if (context.len() + needle.len()) as i64 > room {
        let keep = room - needle.len() as i64;
        let end = if keep < 0 { context.len() as i64 + keep } else { keep };
        context = &context[..end.clamp(0, context.len() as i64) as usize];
    }
    let (head, tail) = context.split_at(position(context, period_ids, depth_percent));
    [head, needle, tail].concat()
}

/// Where [`insert_needle`] puts the needle into a context that already leaves room for it.
pub fn position(context: &[u32], period_ids: &[u32], depth_percent: f64) -> usize {
    if depth_percent == 100.0 {
        return context.len();
    }
    // Python's `int` cuts towards zero, as this cast does; a depth above 100 slices to the end.
    let at = (context.len() as f64 * (depth_percent / 100.0)) as usize;
    let head = &context[..at.min(context.len())];
    head.iter().rposition(|id| period_ids.contains(id)).map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_back_to_a_stop() {
        let context = [5, 13, 6, 7, 13, 8];
        let at = |depth| insert_needle(&context, &[99], &[13], depth, 100, 10);
        assert_eq!(at(70.0), [5, 13, 99, 6, 7, 13, 8]);
        assert_eq!(at(0.0), [99, 5, 13, 6, 7, 13, 8]);
        assert_eq!(at(100.0), [5, 13, 6, 7, 13, 8, 99]);
    }

    #[test]
    fn cuts_to_the_room_left() {
        assert_eq!(insert_needle(&[1, 2, 3, 4], &[9], &[], 100.0, 4, 1), [1, 2, 9]);
        // No room at all: context[:-2].
        assert_eq!(insert_needle(&[1, 2, 3, 4], &[9], &[], 100.0, 1, 2), [1, 2, 9]);
        assert_eq!(insert_needle(&[1], &[9, 9, 9], &[], 0.0, 0, 5), [9, 9, 9]);
    }
}
