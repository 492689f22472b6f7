//! Every barrier, wait and commit of every kernel is needed: without it some case goes wrong. No kernel is compiled
//! again, the emulator passes over the one site.

use std::collections::BTreeSet;

use crate::cuda::launcher::Element;
use crate::kernels::{add_norm, argmax, column_sums, prefill, ragged_decode, window_moments};
use crate::support::{Case, Checked, instance, program};

/// Cases that a missing barrier has to show in.
const SEEDS: std::ops::Range<u64> = 100..112;

fn every_site_is_missed(check: fn(Case<'_>) -> Checked, head_dim: usize, sites: usize) {
    let Some(program) = program() else { return };
    let case = |seed, muted| Case { program, instance: instance(Element::Bf16, head_dim), seed, muted };
    let reached: BTreeSet<_> = SEEDS
        .flat_map(|seed| check(case(seed, None)).unwrap_or_else(|wrong| panic!("{seed}: {wrong}")))
        .collect();
    assert_eq!(reached.len(), sites, "{reached:?}");
    for site in &reached {
        let wrong = SEEDS.filter_map(|seed| check(case(seed, Some(site))).err()).next();
        let Some(wrong) = wrong else { panic!("nobody misses {site}") };
        println!("without {site}: {wrong}");
    }
}

#[test]
fn of_prefill() {
    every_site_is_missed(prefill::check, 64, 9);
    every_site_is_missed(prefill::check, 256, 9);
}

#[test]
fn of_column_sums() {
    every_site_is_missed(column_sums::check, 64, 6);
}

#[test]
fn of_window_moments() {
    every_site_is_missed(window_moments::check, 64, 7);
}

#[test]
fn of_decode() {
    every_site_is_missed(ragged_decode::check, 64, 1);
}

#[test]
fn of_norms_and_argmax() {
    every_site_is_missed(add_norm::check, 64, 1);
    every_site_is_missed(argmax::check, 64, 1);
}
