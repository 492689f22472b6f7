//! Statistics of scores: intervals by a bootstrap stratified by data set, paired differences, sign test, Holm.
//!
//! The units that are resampled are contexts: questions about one document rise and fall together, and count once. An
//! example whose context is its own, or is not known, is a unit of its own.
//!
//! Every random draw comes from ChaCha8 seeded with the caller's seed and the stratum's name, so that a repetition
//! gives the same interval and two variants of one data set are resampled alike.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal, StudentsT};

use crate::io::hash_parts;

/// Scores that differ by no more are the same, and a difference no larger is a tie: a hundredth of the last digit that is
/// printed. A perfect ROUGE is 0.999999995, and equal differences of decimal fractions differ in their last bit.
pub(crate) const SAME: f64 = 1e-6;

/// The probability that a comparison, or a table of pairs, without any real difference reports one.
pub(crate) const ALPHA: f64 = 0.05;

/// Sums over a context of differences that are ties or larger than [`SAME`], weighted: less than this is rounding.
const NO_SUM: f64 = 1e-12;

/// A score or a difference, and the context that its example is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample<'a> {
    /// The score (0 to 1) or the difference of two.
    pub(crate) value: f64,
    /// Names the context; none where it is the example's own or not known.
    pub(crate) context: Option<&'a str>,
}

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
    /// Lower and upper end; none where a stratum has fewer than two contexts, which say nothing about spread.
    pub interval: Option<(f64, f64)>,
    /// Number of values in all strata.
    pub n: usize,
    /// Number of contexts in all strata, those in several counted once.
    pub contexts: usize,
}

/// What one context adds to a stratum's mean.
#[derive(Clone, Copy, Debug)]
struct Unit {
    /// Names the context; none where it is one example's own.
    context: Option<u64>,
    /// Sum of its values' deviations from the stratum's mean, over the number of all values.
    residual: f64,
    /// Sum of its values, ties left out, over the number of all values.
    sum: f64,
}

/// One stratum with its resampled means.
///
/// Residuals are scaled by `sqrt(units / (units - 1))` before they are resampled: the plain bootstrap's spread is too
/// small by that factor.
#[derive(Clone, Debug)]
pub(crate) struct Stratum {
    n: usize,
    mean: f64,
    units: Vec<Unit>,
    /// Estimated variance of the mean; exactly 0 where all contexts have the same mean.
    variance: f64,
    /// Values above and below 0, ties left out.
    signs: (usize, usize),
    /// Resampled means; empty for fewer than two contexts.
    resampled: Vec<f64>,
}

impl Stratum {
    /// The stratum of `samples`, not resampled yet.
    fn of(samples: &[Sample<'_>]) -> Self {
        let n = samples.len();
        // A sequential sum, as the Python scorers add up.
        let mean = if n == 0 { 0.0 } else { samples.iter().map(|s| s.value).sum::<f64>() / n as f64 };
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        // Sum of deviations, sum of values, number of values.
        let mut sums: Vec<(Option<&str>, f64, f64, usize)> = Vec::new();
        for sample in samples {
            let place = sample.context.map_or(sums.len(), |name| *places.entry(name).or_insert(sums.len()));
            if place == sums.len() {
                sums.push((sample.context, 0.0, 0.0, 0));
            }
            let (_, deviation, sum, count) = &mut sums[place];
            *deviation += sample.value - mean;
            *sum += if sample.value.abs() > SAME { sample.value } else { 0.0 };
            *count += 1;
        }
        let flat = sums.iter().all(|(_, deviation, _, count)| deviation.abs() <= SAME * *count as f64);
        let id = |name: &str| u64::from_str_radix(&hash_parts([name.as_bytes()], 16), 16).unwrap_or_default();
        let units: Vec<Unit> = sums
            .into_iter()
            .map(|(context, deviation, sum, _)| Unit {
                context: context.map(id),
                residual: deviation / n as f64,
                sum: sum / n as f64,
            })
            .collect();
        let variance = if flat { 0.0 } else { variance(units.iter().map(|unit| unit.residual)) };
        let count = |above: &dyn Fn(f64) -> bool| samples.iter().filter(|s| above(s.value)).count();
        let signs = (count(&|value| value > SAME), count(&|value| value < -SAME));
        Self { n, mean, units, variance, signs, resampled: Vec::new() }
    }

    /// The stratum of the paired differences `samples` = these minus the other's values.
    ///
    /// Strata of one name and the same contexts are resampled with the same draws, so that the resampled means of the
    /// differences are the differences of the resampled means: all pairs of many variants cost no further draw.
    pub(crate) fn minus(&self, other: &Self, samples: &[Sample<'_>]) -> Self {
        let resampled = self.resampled.iter().zip(&other.resampled).map(|(a, b)| a - b).collect();
        Self { resampled, ..Self::of(samples) }
    }
}

/// Variance of a sum of independent residuals, estimated from themselves.
fn variance(residuals: impl ExactSizeIterator<Item = f64>) -> f64 {
    let units = residuals.len() as f64;
    residuals.map(|residual| residual * residual).sum::<f64>() * units / (units - 1.0)
}

/// Strata added up.
struct Sum {
    /// The resampled weighted means.
    resampled: Vec<f64>,
    variance: f64,
    /// Welch-Satterthwaite degrees of freedom; none where nothing varies.
    df: Option<f64>,
}

/// The contexts of all strata with their weighted residuals and sums, one that is in several strata once.
fn units(parts: &[(f64, &Stratum)]) -> Vec<Unit> {
    let mut all: Vec<Unit> = Vec::new();
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    for (weight, stratum) in parts {
        for unit in &stratum.units {
            let (residual, sum) = (weight * unit.residual, weight * unit.sum);
            let place = unit.context.map_or(all.len(), |id| *places.entry(id).or_insert(all.len()));
            match all.get_mut(place) {
                Some(known) => {
                    known.residual += residual;
                    known.sum += sum;
                }
                None => all.push(Unit { residual, sum, ..*unit }),
            }
        }
    }
    all
}

impl Bootstrap {
    /// Resamples one stratum.
    pub(crate) fn stratum(&self, name: &str, samples: &[Sample<'_>]) -> Stratum {
        let mut stratum = Stratum::of(samples);
        if stratum.units.len() < 2 {
            return stratum;
        }
        stratum.resampled = if stratum.variance == 0.0 {
            vec![stratum.mean; self.resamples]
        } else {
            self.draw(name, stratum.mean, stratum.units.iter().map(|unit| unit.residual))
        };
        stratum
    }

    /// Resampled sums of `mean` and as many residuals as there are.
    fn draw(&self, name: &str, mean: f64, residuals: impl ExactSizeIterator<Item = f64>) -> Vec<f64> {
        let units = residuals.len();
        let scale = (units as f64 / (units - 1) as f64).sqrt();
        let residuals: Vec<f64> = residuals.map(|residual| residual * scale).collect();
        let salt = hash_parts([name.as_bytes()], 16);
        let mut rng =
            ChaCha8Rng::seed_from_u64(self.seed ^ u64::from_str_radix(&salt, 16).unwrap_or_default());
        let draw = |_| mean + (0..units).map(|_| residuals[rng.random_range(0..units)]).sum::<f64>();
        (0..self.resamples).map(draw).collect()
    }

    /// The weighted sum of strata means with its interval.
    ///
    /// The ends are percentiles of the resampled means, at levels widened from the normal to Student's t with the
    /// Welch-Satterthwaite degrees of freedom (Hesterberg's expanded percentile interval), so that few examples do not
    /// give too narrow an interval.
    pub(crate) fn combine(&self, parts: &[(f64, &Stratum)]) -> Estimate {
        self.add(parts).0
    }

    fn add(&self, parts: &[(f64, &Stratum)]) -> (Estimate, Option<Sum>) {
        let mut estimate = Estimate {
            mean: parts.iter().map(|(weight, stratum)| weight * stratum.mean).sum(),
            interval: None,
            n: parts.iter().map(|(_, stratum)| stratum.n).sum(),
            contexts: 0,
        };
        let units = units(parts);
        estimate.contexts = units.len();
        if parts.is_empty() || self.resamples == 0 || parts.iter().any(|(_, s)| s.units.len() < 2) {
            return (estimate, None);
        }
        let apart: usize = parts.iter().map(|(_, stratum)| stratum.units.len()).sum();
        let sum =
            if units.len() == apart { self.add_apart(parts) } else { self.add_joined(estimate.mean, &units) };
        let mut totals = sum.resampled.clone();
        totals.sort_by(f64::total_cmp);
        let tail = match sum.df.and_then(|df| StudentsT::new(0.0, 1.0, df).ok()) {
            Some(student) => Normal::standard().cdf(-student.inverse_cdf(0.5 + self.level / 2.0)),
            None => 0.5 - self.level / 2.0,
        };
        estimate.interval = Some((quantile(&totals, tail), quantile(&totals, 1.0 - tail)));
        (estimate, Some(sum))
    }

    /// Strata without a context in common are independent.
    fn add_apart(&self, parts: &[(f64, &Stratum)]) -> Sum {
        let mut resampled = vec![0.0; self.resamples];
        for (weight, stratum) in parts {
            for (total, value) in resampled.iter_mut().zip(&stratum.resampled) {
                *total += weight * value;
            }
        }
        let terms = || parts.iter().map(|(weight, s)| (weight * weight * s.variance, s.units.len() - 1));
        let variance: f64 = terms().map(|(term, _)| term).sum();
        let fourth: f64 = terms().map(|(term, df)| term * term / df as f64).sum();
        Sum { resampled, variance, df: (fourth > 0.0).then(|| variance * variance / fourth) }
    }

    /// Data sets that ask about the same contexts (HeadKV's four of LooGLE) rise and fall together: the contexts of all
    /// are resampled as one stratum.
    fn add_joined(&self, mean: f64, units: &[Unit]) -> Sum {
        let residuals = || units.iter().map(|unit| unit.residual);
        if residuals().all(|residual| residual.abs() * units.len() as f64 <= SAME) {
            return Sum { resampled: vec![mean; self.resamples], variance: 0.0, df: None };
        }
        let resampled = self.draw("contexts of several data sets", mean, residuals());
        Sum { resampled, variance: variance(residuals()), df: Some((units.len() - 1) as f64) }
    }

    /// As [`Bootstrap::combine`], for scores between 0 and 1.
    ///
    /// A stratum whose contexts all score the same has no spread to resample, but "20 of 20 right" is not certainty: with
    /// the interval's confidence, what was not seen is at most the share `1 - tail^(1/20)` of the population (the exact
    /// binomial bound, Clopper-Pearson, for scores of all 0 or all 1) and may score anything from 0 to 1. That is added
    /// to the interval, in squares as independent deviations are (MOVER, Zou and Donner 2008). The ends stay between 0
    /// and 1.
    pub(crate) fn combine_scores(&self, parts: &[(f64, &Stratum)]) -> Estimate {
        let mut estimate = self.combine(parts);
        let tail = 0.5 - self.level / 2.0;
        let unseen = |room: &dyn Fn(f64) -> f64| -> f64 {
            let flat = parts.iter().filter(|(_, s)| s.variance == 0.0 && s.units.len() > 1);
            flat.map(|(weight, s)| {
                (weight * (1.0 - tail.powf(1.0 / s.units.len() as f64)) * room(s.mean)).powi(2)
            })
            .sum()
        };
        estimate.interval = estimate.interval.map(|(low, high)| {
            let below = ((estimate.mean - low).powi(2) + unseen(&|mean| mean)).sqrt();
            let above = ((high - estimate.mean).powi(2) + unseen(&|mean| 1.0 - mean)).sqrt();
            ((estimate.mean - below).clamp(0.0, 1.0), (estimate.mean + above).clamp(0.0, 1.0))
        });
        estimate
    }

    /// Tests whether the weighted mean of paired differences (`head - base`, by named stratum) is zero.
    pub(crate) fn paired(&self, differences: &BTreeMap<String, (f64, Vec<Sample<'_>>)>) -> PairedTest {
        let strata: Vec<(f64, Stratum)> = differences
            .iter()
            .map(|(name, (weight, samples))| (*weight, self.stratum(name, samples)))
            .collect();
        self.judge(&strata)
    }

    /// Tests strata of paired differences that are resampled already.
    pub(crate) fn judge(&self, strata: &[(f64, Stratum)]) -> PairedTest {
        let parts: Vec<(f64, &Stratum)> = strata.iter().map(|(weight, stratum)| (*weight, stratum)).collect();
        let (estimate, sum) = self.add(&parts);
        let wins: usize = strata.iter().map(|(_, stratum)| stratum.signs.0).sum();
        let losses: usize = strata.iter().map(|(_, stratum)| stratum.signs.1).sum();
        let units = units(&parts);
        let up = units.iter().filter(|unit| unit.sum > NO_SUM).count();
        let down = units.iter().filter(|unit| unit.sum < -NO_SUM).count();
        let p_sign = sign_test(up, down);
        let p = match sum {
            Some(Sum { resampled, variance, df: Some(df) }) if variance > 0.0 => {
                let center = resampled.iter().sum::<f64>() / resampled.len() as f64;
                let squares: f64 = resampled.iter().map(|total| (total - center).powi(2)).sum();
                let error = (squares / resampled.len() as f64).sqrt();
                let p = StudentsT::new(0.0, 1.0, df)
                    .map_or(1.0, |student| 2.0 * student.cdf(-(estimate.mean / error).abs()));
                // However little they vary: no test can get below the chance that all signs fall alike.
                p.max(0.5_f64.powi(i32::try_from(up + down).unwrap_or(i32::MAX) - 1)).min(1.0)
            }
            // No spread to resample: only the signs are left to judge by.
            _ => p_sign,
        };
        PairedTest { estimate, wins, losses, ties: estimate.n - wins - losses, p, p_sign, p_holm: p }
    }
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
    /// Examples with a higher score, by more than rounding (a millionth).
    pub wins: usize,
    /// Examples with a lower score.
    pub losses: usize,
    /// Examples with the same score.
    pub ties: usize,
    /// Two-sided p of the paired bootstrap over contexts (studentised), never below the chance that all contexts' signs
    /// fall alike. Where no difference varies it is the sign test's.
    pub p: f64,
    /// Two-sided p of the exact sign test over contexts, ties left out.
    pub p_sign: f64,
    /// `p` after Holm's correction over the family it was tested in; `p` itself before.
    pub p_holm: f64,
}

/// The exact two-sided sign test: the probability of so uneven a split of `wins + losses` fair coins.
pub(crate) fn sign_test(wins: usize, losses: usize) -> f64 {
    let n = (wins + losses) as u64;
    Binomial::new(0.5, n).map_or(1.0, |coins| (2.0 * coins.cdf(wins.min(losses) as u64)).min(1.0))
}

/// Holm's step-down correction of a family of p values, in their order.
pub(crate) fn holm(p_values: &[f64]) -> Vec<f64> {
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

    /// Every value a context of its own.
    fn samples(values: &[f64]) -> Vec<Sample<'static>> {
        values.iter().map(|&value| Sample { value, context: None }).collect()
    }

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
        let stratum = bootstrap.stratum("x", &samples(&values));
        let estimate = bootstrap.combine(&[(1.0, &stratum)]);
        let (low, high) = estimate.interval.unwrap();
        assert!(close(estimate.mean, 49.5, 1e-9) && estimate.n == 100);
        assert!(close(low, 49.5 - 5.756, 0.2) && close(high, 49.5 + 5.756, 0.2), "{low} {high}");
    }

    #[test]
    fn strata_are_weighted_and_keep_apart() {
        let bootstrap = Bootstrap::default();
        // All the spread is between the strata: inside there is none, so the interval has no width.
        let (a, b) =
            (bootstrap.stratum("a", &samples(&[0.0; 50])), bootstrap.stratum("b", &samples(&[1.0; 5])));
        let estimate = bootstrap.combine(&[(0.5, &a), (0.5, &b)]);
        assert_eq!((estimate.mean, estimate.interval), (0.5, Some((0.5, 0.5))));
        assert_eq!((estimate.n, estimate.contexts), (55, 55));
    }

    #[test]
    fn one_example_has_no_interval() {
        let bootstrap = Bootstrap::default();
        let (one, two) =
            (bootstrap.stratum("a", &samples(&[1.0])), bootstrap.stratum("b", &samples(&[0.0, 1.0])));
        assert_eq!(bootstrap.combine(&[(0.5, &one), (0.5, &two)]).interval, None);
        assert!(bootstrap.combine(&[(1.0, &two)]).interval.is_some());
        assert_eq!(bootstrap.combine(&[]).interval, None);
    }

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let values = [0.1, 0.9, 0.4, 0.7, 0.2];
        let interval = |seed| {
            let bootstrap = Bootstrap { seed, ..Bootstrap::default() };
            bootstrap.combine(&[(1.0, &bootstrap.stratum("a", &samples(&values)))]).interval
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
                        .map(|kind| {
                            bootstrap.stratum(&kind.to_string(), &samples(&draw(&mut rng, kind, sizes[kind])))
                        })
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
        let all = bootstrap.stratum("a", &samples(&[1.0; 20]));
        let (low, high) = bootstrap.combine_scores(&[(1.0, &all)]).interval.unwrap();
        // Clopper-Pearson for 20 of 20.
        assert!(close(low, 0.831_6, 1e-4) && high == 1.0, "{low}");
        let none = bootstrap.stratum("b", &samples(&[0.0; 20]));
        let (low, high) = bootstrap.combine_scores(&[(0.5, &all), (0.5, &none)]).interval.unwrap();
        assert!(close(low, 0.5 - 0.084_2, 1e-4) && close(high, 0.5 + 0.084_2, 1e-4), "{low} {high}");
        // A perfect ROUGE is no exact 1; scores that are all 0.5 leave room on both sides; two rows say nearly nothing.
        for (score, n, expected) in [
            (0.999_999_995, 20, (0.831_6, 1.0)),
            (0.5, 20, (0.415_8, 0.584_2)),
            (0.96, 2, (0.151_8, 0.993_7)),
        ] {
            let equal = bootstrap.stratum("c", &samples(&vec![score; n]));
            let (low, high) = bootstrap.combine_scores(&[(1.0, &equal)]).interval.unwrap();
            assert!(close(low, expected.0, 1e-4) && close(high, expected.1, 1e-4), "{score}: {low} {high}");
        }
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
                        bootstrap.stratum(&p.to_string(), &samples(&values))
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
            let mut none: BTreeMap<String, (f64, Vec<Sample<'_>>)> = BTreeMap::new();
            let mut loss = none.clone();
            for kind in 0..2 {
                let base = draw(&mut rng, 2, 40);
                let head = draw(&mut rng, 2, 40);
                let differences: Vec<f64> = base.iter().zip(&head).map(|(base, head)| head - base).collect();
                let lower: Vec<f64> = differences.iter().map(|d| d - 0.25).collect();
                loss.insert(kind.to_string(), (0.5, samples(&lower)));
                none.insert(kind.to_string(), (0.5, samples(&differences)));
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
        let direct = bootstrap.stratum("x", &samples(&values));
        let other = bootstrap
            .stratum("x", &samples(&a))
            .minus(&bootstrap.stratum("x", &samples(&b)), &samples(&values));
        assert!(close(direct.mean, other.mean, 1e-12) && close(direct.variance, other.variance, 1e-12));
        assert!(direct.resampled.iter().zip(&other.resampled).all(|(a, b)| close(*a, *b, 1e-12)));
    }

    #[test]
    fn differences_without_spread_are_judged_by_their_signs() {
        let test = |values: Vec<f64>| {
            Bootstrap::default().paired(&[("a".to_owned(), (1.0, samples(&values)))].into())
        };
        let all_lost = test(vec![-1.0; 8]);
        assert_eq!(all_lost.p, sign_test(0, 8));
        assert!(all_lost.p < 0.05 && all_lost.losses == 8);
        assert!(test(vec![-1.0; 3]).p > 0.05, "three examples prove nothing");
        let none = test(vec![0.0; 8]);
        assert_eq!((none.p, none.ties, none.estimate.interval), (1.0, 8, Some((0.0, 0.0))));
        assert!(close(test(vec![-1.0]).p, 1.0, 1e-9));
    }

    #[test]
    fn differences_that_differ_by_a_bit_prove_no_more_than_equal_ones() {
        let test =
            |values: &[f64]| Bootstrap::default().paired(&[("a".to_owned(), (1.0, samples(values)))].into());
        let bits = test(&[0.3 - 0.1, 0.5 - 0.3, 0.5 - 0.3]);
        assert!(close(bits.p, 0.25, 1e-9) && bits.wins == 3, "{bits:?}");
        // The same with a spread that is small but real, and with a last bit that is no win at all.
        assert!(close(test(&[0.2, 0.2, 0.200_1]).p, 0.25, 1e-9));
        let ties = test(&[f64::EPSILON; 12]);
        assert_eq!((ties.p, ties.p_sign, ties.ties), (1.0, 1.0, 12), "{ties:?}");
        assert!(test(&[0.2, 0.21, 0.19, 0.2, 0.22, 0.18, 0.2, 0.21, 0.2, 0.19, 0.2, 0.2]).p < 0.001);
    }

    /// Questions of one document share what makes the document easy or hard: an effect of its own, and noise.
    fn documents(rng: &mut ChaCha8Rng, documents: usize, questions: usize) -> Vec<(String, f64)> {
        let mut all = Vec::new();
        for document in 0..documents {
            let effect = rng.random::<f64>() - 0.5;
            all.extend(
                (0..questions).map(|_| (document.to_string(), effect + 0.2 * (rng.random::<f64>() - 0.5))),
            );
        }
        all
    }

    fn of_documents(values: &[(String, f64)]) -> Vec<Sample<'_>> {
        values.iter().map(|(name, value)| Sample { value: *value, context: Some(name) }).collect()
    }

    #[test]
    fn questions_of_one_document_are_not_independent() {
        let mut rng = ChaCha8Rng::seed_from_u64(17);
        // No true difference: questions counted one by one raise a false alarm in half of the comparisons.
        let (trials, mut by_document, mut by_question, mut across) = (400, 0, 0, 0);
        for seed in 0..trials {
            let bootstrap = Bootstrap { seed, resamples: 300, ..Bootstrap::default() };
            let values = documents(&mut rng, 8, 10);
            let alone: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
            let p = |samples| bootstrap.paired(&[("a".to_owned(), (1.0, samples))].into()).p;
            by_document += u32::from(p(of_documents(&values)) < 0.05);
            by_question += u32::from(p(samples(&alone)) < 0.05);
            // The same documents asked by two data sets.
            let (first, second): (Vec<_>, Vec<_>) = of_documents(&values).chunks(5).enumerate().fold(
                (Vec::new(), Vec::new()),
                |(mut a, mut b), (place, chunk)| {
                    if place % 2 == 0 {
                        a.extend_from_slice(chunk)
                    } else {
                        b.extend_from_slice(chunk)
                    }
                    (a, b)
                },
            );
            let both = [("a".to_owned(), (0.5, first)), ("b".to_owned(), (0.5, second))].into();
            let test = bootstrap.paired(&both);
            assert_eq!((test.estimate.n, test.estimate.contexts), (80, 8));
            across += u32::from(test.p < 0.05);
        }
        let rate = |count: u32| f64::from(count) / trials as f64;
        assert!(close(rate(by_document), 0.05, 0.035), "{}", rate(by_document));
        assert!(close(rate(across), 0.05, 0.035), "{}", rate(across));
        assert!(rate(by_question) > 0.3, "{}", rate(by_question));
    }

    #[test]
    fn contexts_of_one_question_each_are_what_examples_were() {
        let mut rng = ChaCha8Rng::seed_from_u64(23);
        let (a, b) = (draw(&mut rng, 2, 40), draw(&mut rng, 1, 25));
        let named = |name: &str, values: &[f64]| -> Vec<(String, f64)> {
            values.iter().enumerate().map(|(place, value)| (format!("{name}{place}"), *value)).collect()
        };
        let (own_a, own_b) = (named("a", &a), named("b", &b));
        let all = |first: Vec<Sample<'_>>, second: Vec<Sample<'_>>| {
            let bootstrap = Bootstrap::default();
            let strata = [bootstrap.stratum("a", &first), bootstrap.stratum("b", &second)];
            let parts: Vec<(f64, &Stratum)> = strata.iter().map(|stratum| (0.5, stratum)).collect();
            let test =
                bootstrap.paired(&[("a".to_owned(), (0.5, first)), ("b".to_owned(), (0.5, second))].into());
            (bootstrap.combine_scores(&parts), test)
        };
        assert_eq!(all(of_documents(&own_a), of_documents(&own_b)), all(samples(&a), samples(&b)));
    }

    #[test]
    fn one_document_has_no_interval_however_many_its_questions() {
        let bootstrap = Bootstrap::default();
        let values: Vec<(String, f64)> = (0..8).map(|n| ("one".to_owned(), f64::from(n) / 8.0)).collect();
        let estimate = bootstrap.combine(&[(1.0, &bootstrap.stratum("a", &of_documents(&values)))]);
        assert_eq!((estimate.interval, estimate.n, estimate.contexts), (None, 8, 1));
    }
}
