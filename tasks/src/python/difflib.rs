//! `difflib.SequenceMatcher(None, a, b).ratio()` on strings, autojunk included.

use std::collections::HashMap;

/// `2 * M / (len(a) + len(b))` in code points, `M` the total size of the matching blocks; 1.0 for two empty strings.
///
/// Not symmetric: `b` is the indexed side. When it has 200 characters or more, those that occur more often than in 1 %
/// of its positions (plus one) are left out of the index ("autojunk"), so long repetitive lines lose matches. A block
/// found through other characters is still extended over them.
pub(crate) fn ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let total = a.len() + b.len();
    if total == 0 {
        return 1.0;
    }
    2.0 * matching_size(&a, &b) as f64 / total as f64
}

/// Total size of the matching blocks: the longest block, then recursively what lies left and right of it.
fn matching_size(a: &[char], b: &[char]) -> usize {
    let mut positions: HashMap<char, Vec<usize>> = HashMap::new();
    for (j, &c) in b.iter().enumerate() {
        positions.entry(c).or_default().push(j);
    }
    if b.len() >= 200 {
        let limit = b.len() / 100 + 1;
        positions.retain(|_, at| at.len() <= limit);
    }
    // Where each character of `a` occurs in `b`; shared by all the calls below.
    let found: Vec<&[usize]> = a.iter().map(|c| positions.get(c).map_or(&[][..], Vec::as_slice)).collect();

    let mut finder = Finder { a, b, found: &found, run: vec![0; b.len() + 1], next: vec![0; b.len() + 1] };
    let mut total = 0;
    let mut queue = vec![(0, a.len(), 0, b.len())];
    while let Some((alo, ahi, blo, bhi)) = queue.pop() {
        let (i, j, size) = finder.longest(alo, ahi, blo, bhi);
        if size == 0 {
            continue;
        }
        total += size;
        if alo < i && blo < j {
            queue.push((alo, i, blo, j));
        }
        if i + size < ahi && j + size < bhi {
            queue.push((i + size, ahi, j + size, bhi));
        }
    }
    total
}

struct Finder<'a> {
    a: &'a [char],
    b: &'a [char],
    found: &'a [&'a [usize]],
    /// `run[j + 1]`: length of the common run that ends at the previous `i` and at `j`. All zero between calls.
    run: Vec<usize>,
    next: Vec<usize>,
}

impl Finder<'_> {
    /// Start in `a`, start in `b` and size of the longest common block inside the window; ties go to the smallest `i`,
    /// then to the smallest `j`.
    fn longest(&mut self, alo: usize, ahi: usize, blo: usize, bhi: usize) -> (usize, usize, usize) {
        let (mut besti, mut bestj, mut size) = (alo, blo, 0);
        let window = |at: &'_ [usize]| {
            let (from, to) = (at.partition_point(|&j| j < blo), at.partition_point(|&j| j < bhi));
            from..to
        };
        let mut previous: &[usize] = &[];
        for i in alo..ahi {
            let at = &self.found[i][window(self.found[i])];
            for &j in at {
                let k = self.run[j] + 1;
                self.next[j + 1] = k;
                if k > size {
                    (besti, bestj, size) = (i + 1 - k, j + 1 - k, k);
                }
            }
            for &j in previous {
                self.run[j + 1] = 0;
            }
            std::mem::swap(&mut self.run, &mut self.next);
            previous = at;
        }
        for &j in previous {
            self.run[j + 1] = 0;
        }
        while besti > alo && bestj > blo && self.a[besti - 1] == self.b[bestj - 1] {
            (besti, bestj, size) = (besti - 1, bestj - 1, size + 1);
        }
        while besti + size < ahi && bestj + size < bhi && self.a[besti + size] == self.b[bestj + size] {
            size += 1;
        }
        (besti, bestj, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ratios() {
        assert_eq!(ratio("", ""), 1.0);
        assert_eq!(ratio("abcd", "bcde"), 0.75);
        assert_eq!(
            ratio("private Thread currentThread;", "private volatile Thread currentThread;"),
            58.0 / 67.0
        );
        // Not symmetric.
        assert_eq!((ratio("tide", "diet"), ratio("diet", "tide")), (0.25, 0.5));
    }

    #[test]
    fn autojunk_starts_at_200_characters_of_b() {
        let (a, b) = ("xy".repeat(99), "xy".repeat(100));
        assert!(ratio(&a, &b[..198]) == 1.0);
        // Every character of b is popular; only the extension from the start of the window is left.
        assert_eq!(ratio(&a, &b), 2.0 * 198.0 / 398.0);
        assert_eq!(ratio(&format!("q{a}"), &b), 0.0);
    }
}
