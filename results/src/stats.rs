//! Statistics of scores: intervals by a bootstrap stratified by data set, paired differences, sign test, Holm.
//!
//! Every random draw comes from ChaCha8 seeded with the caller's seed and the stratum's name, so that a repetition
//! gives the same interval and two variants of one data set are resampled alike.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal, StudentsT};

use crate::io::hash_parts;

/// How intervals are made. Recorded beside every number that depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bootstrap {
    /// Seed of the draws.
    pub seed: u64,
    /// Number of resamples.
    pub resamples: usize,
    /// Level of the interval, such as 0.95.
    pub level: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { seed: 20_240_401, resamples: 2000, level: 0.95 }
    }
}

/// A mean with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The weighted mean of the strata's means.
    pub mean: f64,
    /// Lower and upper end; none where a stratum has fewer than two values, which say nothing about spread.
    pub interval: Option<(f64, f64)>,
    /// Number of values in all strata.
    pub n: usize,
}

/// One stratum with its resampled means.
///
/// Residuals are scaled by `sqrt(n / (n - 1))` before they are resampled: the plain bootstrap's spread is too small by
/// that factor.
#[derive(Clone, Debug)]
pub struct Stratum {
    n: usize,
    mean: f64,
    /// Estimated variance of the mean.
    variance: f64,
    /// Resampled means; empty for fewer than two values.
    resampled: Vec<f64>,
}

impl Stratum {
    /// The mean of the values (0 for none).
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Number of values.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The stratum of the paired differences `values` = these minus the other's values.
    ///
    /// Strata of one name and size are resampled with the same draws, so that the resampled means of the differences
    /// are the differences of the resampled means: all pairs of many variants cost no further draw.
    pub(crate) fn minus(&self, other: &Self, values: &[f64]) -> Self {
        let mean = self.mean - other.mean;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let n = values.len();
        let equal = values.windows(2).all(|pair| pair[0] == pair[1]);
        Self {
            n,
            mean,
            variance: if n < 2 || equal { 0.0 } else { squares / (n - 1) as f64 / n as f64 },
            resampled: self.resampled.iter().zip(&other.resampled).map(|(a, b)| a - b).collect(),
        }
    }
}

impl Bootstrap {
    /// Resamples one stratum.
    pub fn stratum(&self, name: &str, values: &[f64]) -> Stratum {
        let n = values.len();
        // A sequential sum, as the Python scorers add up.
        let mean = if n == 0 { 0.0 } else { values.iter().sum::<f64>() / n as f64 };
        if n < 2 {
            return Stratum { n, mean, variance: 0.0, resampled: Vec::new() };
        }
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let variance = squares / (n - 1) as f64 / n as f64;
        if values.iter().all(|value| *value == values[0]) {
            return Stratum { n, mean, variance: 0.0, resampled: vec![mean; self.resamples] };
        }
        let scale = (n as f64 / (n - 1) as f64).sqrt() / n as f64;
        let residuals: Vec<f64> = values.iter().map(|value| (value - mean) * scale).collect();
        let salt = hash_parts([name.as_bytes()], 16);
        let mut rng =
            ChaCha8Rng::seed_from_u64(self.seed ^ u64::from_str_radix(&salt, 16).unwrap_or_default());
        let draw = |_| mean + (0..n).map(|_| residuals[rng.random_range(0..n)]).sum::<f64>();
        Stratum { n, mean, variance, resampled: (0..self.resamples).map(draw).collect() }
    }

    /// The weighted sum of strata means with its interval.
    ///
    /// The ends are percentiles of the resampled means, at levels widened from the normal to Student's t with the
    /// Welch-Satterthwaite degrees of freedom (Hesterberg's expanded percentile interval), so that few examples do not
    /// give too narrow an interval.
    pub fn combine(&self, parts: &[(f64, &Stratum)]) -> Estimate {
        let mean = parts.iter().map(|(weight, stratum)| weight * stratum.mean).sum();
        let n = parts.iter().map(|(_, stratum)| stratum.n).sum();
        let mut estimate = Estimate { mean, interval: None, n };
        if parts.is_empty() || self.resamples == 0 || parts.iter().any(|(_, stratum)| stratum.n < 2) {
            return estimate;
        }
        let mut totals = self.resampled(parts);
        totals.sort_by(f64::total_cmp);
        let (_, df) = spread(parts);
        let tail = match df.and_then(|df| StudentsT::new(0.0, 1.0, df).ok()) {
            Some(student) => Normal::standard().cdf(-student.inverse_cdf(0.5 + self.level / 2.0)),
            None => 0.5 - self.level / 2.0,
        };
        estimate.interval = Some((quantile(&totals, tail), quantile(&totals, 1.0 - tail)));
        estimate
    }

    /// As [`Bootstrap::combine`], for scores between 0 and 1.
    ///
    /// A stratum whose scores are all 0 or all 1 has no spread to resample, but "20 of 20 right" is not certainty: its
    /// exact binomial (Clopper-Pearson) bound is added to the interval, in squares as independent deviations are (MOVER,
    /// Zou and Donner 2008). The ends stay between 0 and 1.
    pub fn combine_scores(&self, parts: &[(f64, &Stratum)]) -> Estimate {
        let mut estimate = self.combine(parts);
        let tail = 0.5 - self.level / 2.0;
        let missing = |bound: f64| -> f64 {
            let at_bound = parts.iter().filter(|(_, s)| s.variance == 0.0 && s.n > 1 && s.mean == bound);
            at_bound.map(|(weight, s)| (weight * (1.0 - tail.powf(1.0 / s.n as f64))).powi(2)).sum()
        };
        estimate.interval = estimate.interval.map(|(low, high)| {
            let below = ((estimate.mean - low).powi(2) + missing(1.0)).sqrt();
            let above = ((high - estimate.mean).powi(2) + missing(0.0)).sqrt();
            ((estimate.mean - below).clamp(0.0, 1.0), (estimate.mean + above).clamp(0.0, 1.0))
        });
        estimate
    }

    fn resampled(&self, parts: &[(f64, &Stratum)]) -> Vec<f64> {
        let mut totals = vec![0.0; self.resamples];
        for (weight, stratum) in parts {
            for (total, value) in totals.iter_mut().zip(&stratum.resampled) {
                *total += weight * value;
            }
        }
        totals
    }

    /// Tests whether the weighted mean of paired differences (`head - base`, by named stratum) is zero.
    pub fn paired(&self, differences: &BTreeMap<String, (f64, Vec<f64>)>) -> PairedTest {
        let strata: Vec<(f64, Stratum)> = differences
            .iter()
            .map(|(name, (weight, values))| (*weight, self.stratum(name, values)))
            .collect();
        self.judge(&strata, differences.values().flat_map(|(_, values)| values))
    }

    /// Tests strata of paired differences that are resampled already; `differences` are all their values.
    pub(crate) fn judge<'a>(
        &self,
        strata: &[(f64, Stratum)],
        differences: impl Iterator<Item = &'a f64> + Clone,
    ) -> PairedTest {
        let parts: Vec<(f64, &Stratum)> = strata.iter().map(|(weight, stratum)| (*weight, stratum)).collect();
        let estimate = self.combine(&parts);
        let wins = differences.clone().filter(|d| **d > 0.0).count();
        let losses = differences.filter(|d| **d < 0.0).count();
        let p_sign = sign_test(wins, losses);
        let p = match (estimate.interval, spread(&parts)) {
            (Some(_), (variance, Some(df))) if variance > 0.0 => {
                let totals = self.resampled(&parts);
                let center = totals.iter().sum::<f64>() / totals.len() as f64;
                let squares: f64 = totals.iter().map(|total| (total - center).powi(2)).sum();
                let error = (squares / totals.len() as f64).sqrt();
                StudentsT::new(0.0, 1.0, df)
                    .map_or(1.0, |student| 2.0 * student.cdf(-(estimate.mean / error).abs()))
            }
            // No spread to resample: only the signs are left to judge by.
            _ => p_sign,
        };
        PairedTest { estimate, wins, losses, ties: estimate.n - wins - losses, p, p_sign, p_holm: p }
    }
}

/// Variance of the weighted mean, and its degrees of freedom (none for no variance).
fn spread(parts: &[(f64, &Stratum)]) -> (f64, Option<f64>) {
    let terms = || parts.iter().map(|(weight, stratum)| (weight * weight * stratum.variance, stratum.n));
    let variance: f64 = terms().map(|(term, _)| term).sum();
    let fourth: f64 = terms().filter(|(_, n)| *n > 1).map(|(term, n)| term * term / (n - 1) as f64).sum();
    (variance, (fourth > 0.0).then(|| variance * variance / fourth))
}

/// The quantile of ascending values, interpolated.
fn quantile(sorted: &[f64], level: f64) -> f64 {
    let place = level.clamp(0.0, 1.0) * (sorted.len().saturating_sub(1)) as f64;
    let low = sorted.get(place.floor() as usize).copied().unwrap_or(f64::NAN);
    let high = sorted.get(place.ceil() as usize).copied().unwrap_or(low);
    low + (high - low) * place.fract()
}

/// The outcome of a paired comparison on the same examples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairedTest {
    /// Mean difference `head - base` with its interval.
    pub estimate: Estimate,
    /// Examples with a higher score.
    pub wins: usize,
    /// Examples with a lower score.
    pub losses: usize,
    /// Examples with the same score.
    pub ties: usize,
    /// Two-sided p of the paired bootstrap (studentised). Where no difference varies it is the sign test's.
    pub p: f64,
    /// Two-sided p of the exact sign test, ties left out.
    pub p_sign: f64,
    /// `p` after Holm's correction over the family it was tested in; `p` itself before [`holm`] is applied.
    pub p_holm: f64,
}

/// The exact two-sided sign test: the probability of so uneven a split of `wins + losses` fair coins.
pub fn sign_test(wins: usize, losses: usize) -> f64 {
    let n = (wins + losses) as u64;
    Binomial::new(0.5, n).map_or(1.0, |coins| (2.0 * coins.cdf(wins.min(losses) as u64)).min(1.0))
}

/// Holm's step-down correction of a family of p values, in their order.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut floor = 0.0_f64;
    for (rank, index) in order.into_iter().enumerate() {
        floor = floor.max((p_values.len() - rank) as f64 * p_values[index]).min(1.0);
        adjusted[index] = floor;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, tolerance: f64) -> bool {
        (a - b).abs() <= tolerance
    }

    #[test]
    fn sign_test_against_binomial_tables() {
        // 2 * sum_{k<=min} C(n,k) / 2^n
        assert!(close(sign_test(9, 1), 2.0 * 11.0 / 1024.0, 1e-12));
        assert!(close(sign_test(0, 5), 2.0 / 32.0, 1e-12));
        assert!(close(sign_test(15, 5), 0.041_389_465_332, 1e-9));
        assert_eq!(sign_test(5, 5), 1.0);
        assert_eq!(sign_test(0, 0), 1.0);
        assert_eq!(sign_test(3, 8), sign_test(8, 3));
    }

    #[test]
    fn holm_against_a_worked_example() {
        // statsmodels.stats.multitest.multipletests(method="holm") on the same values.
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (got, want) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!(close(*got, want, 1e-12), "{adjusted:?}");
        }
        assert_eq!(holm(&[]), Vec::<f64>::new());
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }

    #[test]
    fn an_interval_against_student() {
        // 0..99: mean 49.5, s / sqrt(n) = 2.9011, t(99) = 1.9842; the bootstrap adds Monte Carlo noise.
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        let bootstrap = Bootstrap { resamples: 20_000, ..Bootstrap::default() };
        let stratum = bootstrap.stratum("x", &values);
        let estimate = bootstrap.combine(&[(1.0, &stratum)]);
        let (low, high) = estimate.interval.unwrap();
        assert!(close(estimate.mean, 49.5, 1e-9) && estimate.n == 100);
        assert!(close(low, 49.5 - 5.756, 0.2) && close(high, 49.5 + 5.756, 0.2), "{low} {high}");
    }

    #[test]
    fn strata_are_weighted_and_keep_apart() {
        let bootstrap = Bootstrap::default();
        // All the spread is between the strata: inside there is none, so the interval has no width.
        let (a, b) = (bootstrap.stratum("a", &[0.0; 50]), bootstrap.stratum("b", &[1.0; 5]));
        let estimate = bootstrap.combine(&[(0.5, &a), (0.5, &b)]);
        assert_eq!((estimate.mean, estimate.interval, estimate.n), (0.5, Some((0.5, 0.5)), 55));
    }

    #[test]
    fn one_example_has_no_interval() {
        let bootstrap = Bootstrap::default();
        let (one, two) = (bootstrap.stratum("a", &[1.0]), bootstrap.stratum("b", &[0.0, 1.0]));
        assert_eq!(bootstrap.combine(&[(0.5, &one), (0.5, &two)]).interval, None);
        assert!(bootstrap.combine(&[(1.0, &two)]).interval.is_some());
        assert_eq!(bootstrap.combine(&[]).interval, None);
    }

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let values = [0.1, 0.9, 0.4, 0.7, 0.2];
        let interval = |seed| {
            let bootstrap = Bootstrap { seed, ..Bootstrap::default() };
            bootstrap.combine(&[(1.0, &bootstrap.stratum("a", &values))]).interval
        };
        assert_eq!(interval(1), interval(1));
        assert_ne!(interval(1), interval(2));
    }

    /// Draws `n` scores of a kind met in practice: right or wrong, or an F1 that is often 0 and else spread.
    fn draw(rng: &mut ChaCha8Rng, kind: usize, n: usize) -> Vec<f64> {
        let one = |_| match kind {
            0 => f64::from(u8::from(rng.random_bool(0.3))),
            1 => f64::from(u8::from(rng.random_bool(0.75))),
            _ if rng.random_bool(0.4) => 0.0,
            _ => rng.random::<f64>(),
        };
        (0..n).map(one).collect()
    }
    const TRUE_MEANS: [f64; 3] = [0.3, 0.75, 0.3];

    #[test]
    fn intervals_cover_the_truth_at_their_nominal_rate() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for sizes in [[30, 30, 30], [12, 60, 25]] {
            for level in [0.8, 0.95] {
                let trials = 500;
                let mut covered = 0;
                for trial in 0..trials {
                    let bootstrap = Bootstrap { seed: trial, resamples: 400, level };
                    let strata: Vec<Stratum> = (0..3)
                        .map(|kind| bootstrap.stratum(&kind.to_string(), &draw(&mut rng, kind, sizes[kind])))
                        .collect();
                    let parts: Vec<(f64, &Stratum)> = strata.iter().map(|s| (1.0 / 3.0, s)).collect();
                    let (low, high) = bootstrap.combine(&parts).interval.unwrap();
                    let truth = TRUE_MEANS.iter().sum::<f64>() / 3.0;
                    covered += u32::from(low <= truth && truth <= high);
                }
                let rate = f64::from(covered) / trials as f64;
                // Three standard errors of the simulation, and one point for the bootstrap's own error.
                let margin = 3.0 * (level * (1.0 - level) / trials as f64).sqrt() + 0.01;
                assert!(close(rate, level, margin), "{sizes:?} at {level}: covered {rate}");
            }
        }
    }

    #[test]
    fn all_right_is_not_certainty() {
        let bootstrap = Bootstrap::default();
        let all = bootstrap.stratum("a", &[1.0; 20]);
        let (low, high) = bootstrap.combine_scores(&[(1.0, &all)]).interval.unwrap();
        // Clopper-Pearson for 20 of 20.
        assert!(close(low, 0.831_6, 1e-4) && high == 1.0, "{low}");
        let none = bootstrap.stratum("b", &[0.0; 20]);
        let (low, high) = bootstrap.combine_scores(&[(0.5, &all), (0.5, &none)]).interval.unwrap();
        assert!(close(low, 0.5 - 0.084_2, 1e-4) && close(high, 0.5 + 0.084_2, 1e-4), "{low} {high}");
        let equal = bootstrap.stratum("c", &[0.5; 20]);
        assert_eq!(bootstrap.combine_scores(&[(1.0, &equal)]).interval, Some((0.5, 0.5)));
    }

    #[test]
    fn intervals_cover_near_the_ends_of_the_scale() {
        let mut rng = ChaCha8Rng::seed_from_u64(13);
        // Needles that are nearly always found, alone and beside a data set that is nearly always wrong.
        for truths in [vec![0.97], vec![0.99, 0.02], vec![0.9, 0.5]] {
            let (trials, mut covered) = (600, 0);
            for trial in 0..trials {
                let bootstrap = Bootstrap { seed: trial, resamples: 400, ..Bootstrap::default() };
                let strata: Vec<Stratum> = truths
                    .iter()
                    .map(|p| {
                        let values: Vec<f64> =
                            (0..20).map(|_| f64::from(u8::from(rng.random_bool(*p)))).collect();
                        bootstrap.stratum(&p.to_string(), &values)
                    })
                    .collect();
                let weight = 1.0 / truths.len() as f64;
                let parts: Vec<(f64, &Stratum)> = strata.iter().map(|s| (weight, s)).collect();
                let (low, high) = bootstrap.combine_scores(&parts).interval.unwrap();
                let truth = truths.iter().sum::<f64>() * weight;
                covered += u32::from(low <= truth && truth <= high);
            }
            let rate = f64::from(covered) / trials as f64;
            assert!(rate > 0.92, "{truths:?}: covered {rate}");
        }
    }

    #[test]
    fn the_paired_test_errs_at_its_nominal_rate_and_sees_a_real_loss() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let (trials, mut false_alarms, mut found) = (400, 0, 0);
        for trial in 0..trials {
            let bootstrap = Bootstrap { seed: trial, resamples: 300, ..Bootstrap::default() };
            let mut none: BTreeMap<String, (f64, Vec<f64>)> = BTreeMap::new();
            let mut loss = none.clone();
            for kind in 0..2 {
                let base = draw(&mut rng, 2, 40);
                let head = draw(&mut rng, 2, 40);
                let differences: Vec<f64> = base.iter().zip(&head).map(|(base, head)| head - base).collect();
                loss.insert(kind.to_string(), (0.5, differences.iter().map(|d| d - 0.25).collect()));
                none.insert(kind.to_string(), (0.5, differences));
            }
            false_alarms += u32::from(bootstrap.paired(&none).p < 0.05);
            found += u32::from(bootstrap.paired(&loss).p < 0.05);
        }
        let rate = f64::from(false_alarms) / trials as f64;
        assert!(close(rate, 0.05, 0.03), "false alarms {rate}");
        assert!(f64::from(found) / trials as f64 > 0.95, "found {found}");
    }

    #[test]
    fn differences_of_strata_are_strata_of_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let (a, b) = (draw(&mut rng, 2, 30), draw(&mut rng, 0, 30));
        let values: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let bootstrap = Bootstrap::default();
        let direct = bootstrap.stratum("x", &values);
        let other = bootstrap.stratum("x", &a).minus(&bootstrap.stratum("x", &b), &values);
        assert!(close(direct.mean, other.mean, 1e-12) && close(direct.variance, other.variance, 1e-12));
        assert!(direct.resampled.iter().zip(&other.resampled).all(|(a, b)| close(*a, *b, 1e-12)));
    }

    #[test]
    fn differences_without_spread_are_judged_by_their_signs() {
        let test = |values: Vec<f64>| Bootstrap::default().paired(&[("a".to_owned(), (1.0, values))].into());
        let all_lost = test(vec![-1.0; 8]);
        assert_eq!(all_lost.p, sign_test(0, 8));
        assert!(all_lost.p < 0.05 && all_lost.losses == 8);
        assert!(test(vec![-1.0; 3]).p > 0.05, "three examples prove nothing");
        let none = test(vec![0.0; 8]);
        assert_eq!((none.p, none.ties, none.estimate.interval), (1.0, 8, Some((0.0, 0.0))));
        assert!(close(test(vec![-1.0]).p, 1.0, 1e-9));
    }
}
