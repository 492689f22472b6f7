//! Some rows of a file: not the first ones, which are no sample where a file is sorted, but rows spread evenly over the
//! lengths that the file has.

use std::collections::BTreeSet;

/// `count` rows (all, where there are no more): each adds a length from the middle of the widest gap so far, among the
/// file's rows in the order of their lengths. Nothing is drawn by chance, and more rows are the same ones and others.
pub fn rows(lengths: &[u64], count: usize) -> BTreeSet<u64> {
    let mut by_length: Vec<u64> = (0u64..).take(lengths.len()).collect();
    by_length.sort_by_key(|&row| (lengths[row as usize], row));
    let mut drawn = BTreeSet::new();
    let count = count.min(by_length.len());
    for turn in 0u32.. {
        if drawn.len() == count {
            break;
        }
        drawn.insert(by_length[place(turn, by_length.len())]);
    }
    drawn
}

/// The place of a turn among `of`: van der Corput's sequence, 1/2, 1/4, 3/4, 1/8, …, which takes every place.
fn place(turn: u32, of: usize) -> usize {
    let share = u64::from(turn.wrapping_add(1).reverse_bits());
    ((u128::from(share) * of as u128) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_covered_evenly_and_a_larger_draw_holds_the_smaller() {
        // Sorted the wrong way: the first rows are the longest.
        let lengths: Vec<u64> = (0..200).rev().map(|length| length * 50).collect();
        let drawn = |count| rows(&lengths, count);
        for count in 1..=200 {
            let part = drawn(count);
            assert_eq!(part.len(), count);
            assert!(part.is_subset(&drawn(count + 1)), "{count}");
        }
        assert_eq!(drawn(1), BTreeSet::from([99]), "the median");
        for count in [7, 15, 20, 60] {
            let lengths = drawn(count).into_iter().map(|row| lengths[row as usize] as f64);
            let mean = lengths.sum::<f64>() / count as f64;
            assert!((mean / 4975.0 - 1.0).abs() < 0.15, "{count}: {mean}");
        }
        for part in 0..4 {
            let quarter = (part * 50)..(part + 1) * 50;
            assert_eq!(drawn(20).range(quarter).count(), 5, "quarter {part}");
        }
    }

    #[test]
    fn there_are_no_more_rows_than_the_file_has() {
        assert_eq!(rows(&[5, 5, 5], 10), BTreeSet::from([0, 1, 2]));
        assert!(rows(&[], 3).is_empty());
        assert_eq!(rows(&[9, 1, 5], 1), BTreeSet::from([2]));
    }
}
