//! The answers to one example, of all runs.

use crate::record::{VariantKey, VariantRecord};

/// The answers to one example, by variant: a list in their order, since a map takes more memory than the answers.
#[derive(Clone, Debug)]
pub struct Answers(Vec<MergedVariant>);

impl Answers {
    /// The answers of one run.
    pub(crate) fn new(mut answers: Vec<MergedVariant>) -> Self {
        answers.sort_unstable_by(|a, b| a.record.variant.cmp(&b.record.variant));
        Self(answers)
    }

    /// Adds another run's answer; the same variant's counts once.
    ///
    /// # Errors
    /// The known answer of the variant, where it is another one.
    pub(crate) fn add(&mut self, answer: MergedVariant) -> Result<(), &MergedVariant> {
        match self.place(&answer.record.variant) {
            Err(place) => self.0.insert(place, answer),
            Ok(place) => {
                let known = &self.0[place];
                if known.record != answer.record {
                    return Err(known);
                }
            }
        }
        Ok(())
    }

    /// The answer of a variant, where there is one.
    pub fn get(&self, variant: &VariantKey) -> Option<&MergedVariant> {
        self.0.get(self.place(variant).ok()?)
    }

    /// All of them, ordered by variant.
    pub fn iter(&self) -> std::slice::Iter<'_, MergedVariant> {
        self.0.iter()
    }

    #[cfg(test)]
    pub(crate) fn remove(&mut self, variant: &VariantKey) {
        self.0.retain(|answer| answer.record.variant != *variant);
    }

    /// Where a variant's answer is, or where it would be.
    fn place(&self, variant: &VariantKey) -> Result<usize, usize> {
        self.0.binary_search_by(|answer| answer.record.variant.cmp(variant))
    }
}

/// One answer, with where it was read.
#[derive(Clone, Debug)]
pub struct MergedVariant {
    /// The record.
    pub record: VariantRecord,
    /// Seconds of its decode, where known.
    pub decode_s: Option<f64>,
    pub(crate) source: usize,
}
