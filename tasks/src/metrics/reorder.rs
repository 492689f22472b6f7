//! LooGLE's four timeline deviations: how far a predicted order of events is from the right one.
//!
//! The official driver does not report these values (it replaces each by the largest possible), so they are reported
//! under their own names and compared with no published number.

/// The deviations of one prediction; 0 is the right order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviations {
    /// Mean squared distance of an event from its place.
    pub location_square: f64,
    /// Mean distance of an event from its place.
    pub location_mean: f64,
    /// Swaps needed: events minus cycles.
    pub swap: f64,
    /// Distance swapped over: half the summed distance.
    pub swap_distance: f64,
}

impl Deviations {
    /// The deviations of a list of places.
    fn of(places: &[usize]) -> Self {
        let n = places.len() as f64;
        let distances = || places.iter().enumerate().map(|(i, &p)| p.abs_diff(i) as f64);
        let mut seen = vec![false; places.len()];
        let mut cycles = 0;
        for start in 0..places.len() {
            let mut at = start;
            cycles += usize::from(!seen[start]);
            while !std::mem::replace(&mut seen[at], true) {
                at = places[at];
            }
        }
        Self {
            location_square: distances().map(|d| d * d).sum::<f64>() / n,
            location_mean: distances().sum::<f64>() / n,
            swap: (places.len() - cycles) as f64,
            // The official greedy search swaps two events that both move straight towards their places, which always
            // exist, so each unit swapped over takes two units off the sum.
            swap_distance: distances().sum::<f64>() / 2.0,
        }
    }

    /// The largest deviations that an order of `n` events can have: `n - 1` swaps for a rotation, the rest for the
    /// reversed order.
    pub fn largest(n: usize) -> Self {
        let reversed = Self::of(&(0..n).rev().collect::<Vec<_>>());
        Self { swap: n.saturating_sub(1) as f64, ..reversed }
    }
}

/// The deviations of `prediction` from `reference`; `None` where the official code gives the string `None`: the two
/// are not the same events, once each.
pub fn deviations<T: PartialEq>(reference: &[T], prediction: &[T]) -> Option<Deviations> {
    if reference.is_empty() || reference.len() != prediction.len() {
        return None;
    }
    let mut places = vec![None; reference.len()];
    for (i, event) in prediction.iter().enumerate() {
        let at = reference.iter().position(|other| other == event)?;
        *places.get_mut(at)? = Some(i);
    }
    Some(Deviations::of(&places.into_iter().collect::<Option<Vec<_>>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_deviations() {
        let found = deviations(&["IV", "II", "III", "I", "V"], &["III", "V", "II", "IV", "I"]).unwrap();
        assert_eq!(
            found,
            Deviations { location_square: 4.8, location_mean: 2.0, swap: 4.0, swap_distance: 5.0 }
        );
        assert_eq!(deviations(&[1, 2], &[1, 2]).unwrap().swap, 0.0);
    }

    #[test]
    fn orders_of_other_events_cannot_be_compared() {
        assert_eq!(deviations(&[1, 2], &[1]), None);
        assert_eq!(deviations(&[1, 2], &[1, 1]), None);
        assert_eq!(deviations(&[1, 2], &[1, 3]), None);
        assert_eq!(deviations::<u8>(&[], &[]), None);
    }

    #[test]
    fn largest_deviations() {
        assert_eq!(
            Deviations::largest(5),
            Deviations { location_square: 8.0, location_mean: 2.4, swap: 4.0, swap_distance: 6.0 }
        );
    }
}
