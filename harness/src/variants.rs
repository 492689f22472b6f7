//! From `--methods`, `--budgets`, `--param` to the variants of a sweep and their inputs.

use kvsweep_methods::budget::Budget;
use kvsweep_methods::registry;
use kvsweep_methods::selection::Granularity;
use kvsweep_methods::spec::{MethodSpec, Variant};

use crate::cli::{GranularityArg, VariantArgs};
use crate::exit::usage;
use crate::nearest;

/// The budgets of a sweep unless told otherwise, in entries.
pub(crate) const BUDGETS: [usize; 6] = [64, 128, 256, 512, 1024, 2048];

/// The methods and budgets of a sweep.
#[derive(Clone, Debug)]
pub(crate) struct Variants {
    /// Methods, in the order of the table's rows.
    pub specs: Vec<MethodSpec>,
    /// Budgets of every budgeted method, ascending.
    pub budgets: Vec<Budget>,
    /// Method by method, and inside a method budget by budget; `full` once.
    pub all: Vec<Variant>,
}

impl VariantArgs {
    /// Resolves names, parameters and budgets. `profile` names, for a method typed without one, the profile that the
    /// protocol chooses.
    ///
    /// # Errors
    /// Unknown methods, profiles and parameters (nearest names), values out of range, a budget not above a window.
    pub(crate) fn resolve(&self, profile: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Variants> {
        let mut overrides = Vec::new();
        for text in self.params.iter().flatten() {
            let parts = text.split_once('=').and_then(|(name, value)| Some((name.split_once('.')?, value)));
            let Some(((method, key), value)) = parts else {
                return Err(usage(format!(
                    "`--param {text}`: expected METHOD.KEY=VALUE, e.g. snapkv.window=16"
                )));
            };
            overrides.push((method, key, value));
        }
        let granularity = self.granularity.map(|granularity| match granularity {
            GranularityArg::KvHead => Granularity::KvHead,
            GranularityArg::QueryHead => Granularity::QueryHead,
        });
        let names: Vec<String> = match &self.methods {
            Some(names) => names.iter().map(|name| name.trim().to_owned()).collect(),
            None => registry::HEADLINE.iter().map(|&name| name.to_owned()).collect(),
        };
        for (method, ..) in &overrides {
            let known = names.iter().map(|name| base(name));
            if !known.clone().any(|name| name == *method) {
                let hint = nearest::hint(method, known);
                return Err(usage(format!("`--param`: method `{method}` is not in this sweep{hint}")));
            }
        }
        let mut specs = Vec::new();
        for name in &names {
            let mut full_name = name.clone();
            if !name.contains('@')
                && let Some(profile) = profile(name)
            {
                full_name = format!("{name}@{profile}");
            }
            let own: Vec<(String, String)> = overrides
                .iter()
                .filter(|(method, ..)| *method == base(name))
                .map(|(_, key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            // A granularity that a method lacks is only an error where the method was named.
            let wanted = granularity.filter(|wanted| {
                self.methods.is_some() && base(name) != "full"
                    || registry::find(base(name)).is_ok_and(|entry| entry.granularities.contains(wanted))
            });
            let spec = MethodSpec::parse(&full_name, &own, wanted).map_err(usage)?;
            if specs.iter().any(|known: &MethodSpec| known.label() == spec.label()) {
                return Err(usage(format!("method `{}` is listed twice", spec.label())));
            }
            specs.push(spec);
        }
        let budgets = self.budgets()?;
        if specs.is_empty() || budgets.is_empty() {
            return Err(usage("no methods or no budgets given"));
        }
        let mut all = Vec::new();
        for spec in &specs {
            if spec.is_full() {
                all.push(spec.at(0).map_err(usage)?);
            } else {
                for &budget in &budgets {
                    all.push(spec.within(budget).map_err(usage)?);
                }
            }
        }
        Ok(Variants { specs, budgets, all })
    }

    /// The budgets, ascending.
    fn budgets(&self) -> anyhow::Result<Vec<Budget>> {
        if let Some(ratios) = &self.ratios {
            let mut ratios = ratios.clone();
            ratios.sort_unstable();
            if let Some([twice, _]) = ratios.array_windows().find(|[a, b]| a == b) {
                return Err(usage(format!("`--ratios`: {twice} is listed twice")));
            }
            return Ok(ratios.into_iter().map(Budget::Share).collect());
        }
        let mut budgets = match (&self.budgets, self.budget) {
            (Some(budgets), _) => budgets.clone(),
            (None, Some(budget)) => vec![budget],
            (None, None) => BUDGETS.to_vec(),
        };
        budgets.sort_unstable();
        budgets.dedup();
        Ok(budgets.into_iter().map(Budget::Entries).collect())
    }
}

/// The method's name without its profile, parameters and granularity.
pub(crate) fn base(name: &str) -> &str {
    name.split(['@', '[', ':']).next().unwrap_or(name)
}
