//! From `snapkv@compresskv` and `--param` to something that selects: [`MethodSpec`] is a method with all
//! its parameters, [`Variant`] the same at one budget.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::context::{Context, MethodState, StateScope};
use crate::error::{MethodError, Nearest};
use crate::inputs::{InputKind, Inputs};
use crate::method::{Entry, Method};
use crate::observation::{Observation, Observations};
use crate::observe::rows_needed;
use crate::scoring::Scores;
use crate::selection::{Granularity, LayerSelection, Selection};
use crate::shape::CacheShape;
use crate::{profile, registry};

/// A method, its profile, its parameters and its granularity: everything but the budget.
#[derive(Clone, Debug)]
pub struct MethodSpec {
    entry: &'static Entry,
    label: String,
    granularity: Granularity,
    method: Arc<dyn Method>,
    interval: Option<usize>,
    resolved: Map<String, Value>,
}

/// The parameter of every method that can choose again while an answer grows: after each so many of its tokens. Runs
/// name it only where it is set.
const INTERVAL: &str = "interval";

/// What a record keeps of a variant's method, every parameter spelled out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolvedMethod {
    /// `method`, or `method@profile`.
    pub name: String,
    /// Which heads own a selection.
    pub granularity: Granularity,
    /// Every parameter.
    pub params: BTreeMap<String, Value>,
}

impl MethodSpec {
    /// Parses `method`, `method@profile` or a whole label such as `headkv-r[beta=1.1+temp=1]:query-head`, then
    /// applies parameter overrides (values as typed) and the granularity.
    ///
    /// ```
    /// use kvsweep_methods::MethodSpec;
    ///
    /// let theirs = MethodSpec::parse("snapkv@compresskv", &[], None)?;
    /// assert_eq!(theirs.resolved().params["group_layout"], "strided");
    ///
    /// let unknown = MethodSpec::parse("snapvk", &[], None).unwrap_err();
    /// assert!(unknown.to_string().starts_with("unknown method `snapvk`; there is `snapkv`"));
    /// # Ok::<(), kvsweep_methods::MethodError>(())
    /// ```
    ///
    /// # Errors
    /// Unknown names (with the nearest ones), values that a parameter cannot have, a granularity that the
    /// method lacks.
    pub fn parse(
        name: &str,
        overrides: &[(String, String)],
        granularity: Option<Granularity>,
    ) -> Result<Self, MethodError> {
        let (name, own_granularity) = match name.rsplit_once(':') {
            Some((name, text)) => (name, Some(parse_granularity(name, text)?)),
            None => (name, None),
        };
        let granularity = granularity.or(own_granularity);
        let (name, own) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
            Some((name, own)) => (name, own),
            None => (name, ""),
        };
        let mut all: Vec<(&str, &str)> = Vec::new();
        for pair in own.split('+').filter(|pair| !pair.is_empty()) {
            all.push(pair.split_once('=').unwrap_or((pair, "")));
        }
        all.extend(overrides.iter().map(|(key, text)| (key.as_str(), text.as_str())));
        let (method, profile_name) = match name.split_once('@') {
            Some((method, profile)) => (method, Some(profile)),
            None => (name, None),
        };
        let entry = registry::find(method)?;
        let profile = profile_name.map(|profile| profile::find(method, profile)).transpose()?;
        let mut params = profile.map(|profile| profile.params.clone()).unwrap_or_default();
        let default = profile.map(|profile| profile.granularity).or(entry.granularities.first().copied());
        let default = default.unwrap_or(Granularity::KvHead);
        let granularity = granularity.unwrap_or(default);
        if !entry.granularities.contains(&granularity) {
            return Err(MethodError::BadGranularity {
                method: method.to_owned(),
                wanted: granularity,
                has: default,
            });
        }
        let mut parsed = parse(entry, &params, "profile")?;
        let before = parsed.resolved.clone();
        for (key, text) in all {
            if key != INTERVAL && !entry.parameters.iter().any(|parameter| parameter.name == key) {
                return Err(MethodError::UnknownParameter {
                    method: method.to_owned(),
                    parameter: key.to_owned(),
                    nearest: Nearest::of(key, entry.parameters.iter().map(|parameter| parameter.name)),
                });
            }
            let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
            params.insert(key.to_owned(), value);
            parsed = parse(entry, &params, key)?;
        }
        parsed.method.check().map_err(|(parameter, problem)| MethodError::BadValue {
            method: method.to_owned(),
            parameter: parameter.to_owned(),
            value: parsed.resolved.get(parameter).map(Value::to_string).unwrap_or_default(),
            problem,
        })?;
        let mut changed: Vec<String> = parsed
            .resolved
            .iter()
            .filter(|(key, value)| before.get(*key) != Some(*value))
            .map(|(key, value)| match value {
                Value::String(text) => format!("{key}={text}"),
                other => format!("{key}={other}"),
            })
            .collect();
        changed.sort_unstable();
        let mut label = name.to_owned();
        if !changed.is_empty() {
            label = format!("{label}[{}]", changed.join("+"));
        }
        if granularity != default {
            label = format!("{label}:{granularity}");
        }
        Ok(Self {
            entry,
            label,
            granularity,
            method: parsed.method,
            interval: parsed.resolved.get(INTERVAL).and_then(Value::as_u64).map(|tokens| tokens as usize),
            resolved: parsed.resolved,
        })
    }

    /// Stable name: `snapkv`, `snapkv@compresskv`, `snapkv[window=16]`, `snapkv:query-head`.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The method's line of the registry.
    #[must_use]
    pub fn entry(&self) -> &'static Entry {
        self.entry
    }

    /// Which heads own a selection.
    #[must_use]
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Whether this is FullKV, which has no budget.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entry.name == "full"
    }

    /// What the prefill must observe, whatever the budget.
    #[must_use]
    pub fn observations(&self) -> Vec<Observation> {
        self.method.observations()
    }

    /// Positions at the end of the prompt that it always keeps.
    #[must_use]
    pub fn recent(&self) -> usize {
        self.method.recent()
    }

    /// Calibrated inputs it cannot do without.
    #[must_use]
    pub fn needs(&self) -> Vec<InputKind> {
        self.entry.needs.iter().copied().filter(|&input| !self.method.does_without(input)).collect()
    }

    /// What it remembers between prompts.
    #[must_use]
    pub fn state_scope(&self) -> StateScope {
        self.method.state_scope()
    }

    /// For records: every parameter spelled out.
    #[must_use]
    pub fn resolved(&self) -> ResolvedMethod {
        let name = self.label.split(['[', ':']).next().unwrap_or_default().to_owned();
        ResolvedMethod {
            name,
            granularity: self.granularity,
            params: self.resolved.clone().into_iter().collect(),
        }
    }

    /// The method at a budget: KV entries per KV head (per query head where the granularity stores those), averaged over
    /// heads and layers, window included. The full cache ignores it.
    ///
    /// # Errors
    /// [`MethodError::BadBudget`] when the window or the allocation leaves nothing to select.
    pub fn at(&self, budget: usize) -> Result<Variant, MethodError> {
        let bounds = match u32::try_from(budget) {
            Ok(0) if !self.is_full() => Err("keep at least one token".to_owned()),
            Ok(_) => Ok(()),
            Err(_) => Err(format!("no prompt is longer than {} tokens", u32::MAX)),
        };
        bounds.and_then(|()| self.method.check_budget(budget)).map_err(|problem| MethodError::BadBudget {
            method: self.label.clone(),
            budget,
            problem,
        })?;
        Ok(Variant { spec: self.clone(), budget })
    }
}

impl fmt::Display for MethodSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

fn parse_granularity(method: &str, text: &str) -> Result<Granularity, MethodError> {
    [Granularity::KvHead, Granularity::QueryHead]
        .into_iter()
        .find(|granularity| granularity.to_string() == text)
        .ok_or_else(|| MethodError::BadValue {
            method: method.to_owned(),
            parameter: "granularity".to_owned(),
            value: text.to_owned(),
            problem: "it is `kv-head` or `query-head`".to_owned(),
        })
}

fn parse(
    entry: &Entry,
    params: &Map<String, Value>,
    key: &str,
) -> Result<crate::method::Parsed, MethodError> {
    let bad = |problem: String| MethodError::BadValue {
        method: entry.name.to_owned(),
        parameter: key.to_owned(),
        value: params.get(key).map(Value::to_string).unwrap_or_default(),
        problem,
    };
    let mut own = params.clone();
    let interval = own.remove(INTERVAL);
    let mut parsed = (entry.parse)(own).map_err(|error| bad(error.to_string()))?;
    if let Some(interval) = interval {
        if !parsed.method.chooses_again() {
            return Err(bad("this method cannot evict while it generates".to_owned()));
        }
        let Some(tokens) = interval.as_u64().filter(|&tokens| tokens > 0 && u32::try_from(tokens).is_ok())
        else {
            return Err(bad("it is a number of tokens, at least 1".to_owned()));
        };
        let votes = votes(&*parsed.method);
        if (tokens as usize) < votes {
            return Err(bad(format!(
                "the last {votes} tokens of the answer vote, so it is at least {votes}"
            )));
        }
        parsed.resolved.insert(INTERVAL.to_owned(), interval);
    }
    Ok(parsed)
}

/// The largest window that a method observes.
fn votes(method: &dyn Method) -> usize {
    rows_needed(&method.observations(), usize::MAX)
}

/// A method at one budget, applied to prefills.
#[derive(Clone, Debug)]
pub struct Variant {
    spec: MethodSpec,
    budget: usize,
}

impl Variant {
    /// Stable name: `snapkv/128`; `full` has no budget.
    #[must_use]
    pub fn id(&self) -> String {
        if self.spec.is_full() {
            self.spec.label.clone()
        } else {
            format!("{}/{}", self.spec.label, self.budget)
        }
    }

    /// The method.
    #[must_use]
    pub fn spec(&self) -> &MethodSpec {
        &self.spec
    }

    /// The budget, see [`MethodSpec::at`]; `None` for the full cache.
    #[must_use]
    pub fn budget(&self) -> Option<usize> {
        (!self.spec.is_full()).then_some(self.budget)
    }

    /// What the prefill must observe.
    #[must_use]
    pub fn observations(&self) -> Vec<Observation> {
        self.spec.observations()
    }

    /// Chooses what to keep of one prefill. `state` is this variant's own; without a stateful profile it
    /// is neither read nor written.
    ///
    /// # Errors
    /// A missing observation or input, an impossible shape, or a prompt that should have lost something
    /// and did not.
    pub fn select(
        &self,
        shape: &CacheShape,
        observations: &Observations,
        inputs: &Inputs,
        state: &mut MethodState,
    ) -> Result<Selection, MethodError> {
        let selection = self.choose(shape, observations, inputs, state)?;
        let kept_all = selection.layers.iter().all(|layer| layer.keeps_everything(shape.len));
        if kept_all && shape.len > self.spec.method.evicts_above(self.budget) {
            return Err(MethodError::NothingEvicted { variant: self.id(), prompt_len: shape.len });
        }
        Ok(selection)
    }

    /// [`Variant::select`] without the demand that a long prompt loses something: what the reference code
    /// does with it, for parity checks.
    pub fn choose(
        &self,
        shape: &CacheShape,
        observations: &Observations,
        inputs: &Inputs,
        state: &mut MethodState,
    ) -> Result<Selection, MethodError> {
        shape.check()?;
        if self.spec.state_scope() != StateScope::Prompt {
            state.first_prompt_len.get_or_insert(shape.len);
        }
        let ctx = self.context(shape, observations, inputs);
        let method = &self.spec.method;
        let layers = if shape.len <= method.recent() {
            vec![LayerSelection::All; shape.layers.len()]
        } else {
            method.select(&ctx, state)?
        };
        Ok(Selection { granularity: self.spec.granularity, layers })
    }

    /// After how many tokens of an answer it evicts again, each time; `None` where it chooses once.
    #[must_use]
    pub fn interval(&self) -> Option<usize> {
        self.spec.interval
    }

    /// Whether what is kept gets contiguous positions, and the answer goes on behind it.
    #[must_use]
    pub fn renumbers(&self) -> bool {
        self.spec.method.renumbers()
    }

    /// How many of the tokens read last vote when it chooses.
    #[must_use]
    pub fn votes(&self) -> usize {
        votes(&*self.spec.method)
    }

    /// Chooses again while an answer grows: `shape.len` is the number of entries that every head holds now, those of the
    /// prompt first, and the selection counts them from 0.
    ///
    /// # Errors
    /// A missing observation, or an impossible shape.
    pub fn select_again(
        &self,
        shape: &CacheShape,
        observations: &Observations,
    ) -> Result<Selection, MethodError> {
        self.choose(shape, observations, &Inputs::default(), &mut MethodState::default())
    }

    /// The scores on which one layer is cut; `None` for methods that do not score.
    ///
    /// # Errors
    /// A missing observation or input.
    pub fn scores(
        &self,
        shape: &CacheShape,
        observations: &Observations,
        inputs: &Inputs,
        layer: usize,
    ) -> Result<Option<Scores>, MethodError> {
        shape.check()?;
        self.spec.method.scores(&self.context(shape, observations, inputs), layer)
    }

    fn context<'a>(
        &self,
        shape: &'a CacheShape,
        observations: &'a Observations,
        inputs: &'a Inputs,
    ) -> Context<'a> {
        Context {
            method: self.spec.entry.name,
            needs: self.spec.entry.needs,
            shape,
            observations,
            inputs,
            budget: self.budget,
            granularity: self.spec.granularity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::shape;

    fn fail(name: &str, overrides: &[(&str, &str)]) -> String {
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        MethodSpec::parse(name, &overrides, None).unwrap_err().to_string()
    }

    #[test]
    fn labels_are_stable_and_tell_what_differs() {
        let spec = MethodSpec::parse("snapkv", &[], None).unwrap();
        assert_eq!(spec.at(128).unwrap().id(), "snapkv/128");
        let overrides = [("window".to_owned(), "16".to_owned()), ("kernel".to_owned(), "7".to_owned())];
        let spec = MethodSpec::parse("snapkv@compresskv", &overrides, Some(Granularity::QueryHead)).unwrap();
        assert_eq!(spec.at(64).unwrap().id(), "snapkv@compresskv[kernel=7+window=16]:query-head/64");
        let again = MethodSpec::parse(spec.label(), &[], None).unwrap();
        assert_eq!((again.label(), again.resolved()), (spec.label(), spec.resolved()));
        assert_eq!(spec.resolved().name, "snapkv@compresskv");
        assert_eq!(spec.resolved().params["group_layout"], "strided");
        assert_eq!(MethodSpec::parse("full", &[], None).unwrap().at(0).unwrap().id(), "full");
    }

    /// Stored runs keep their meaning: what chooses once names no interval.
    #[test]
    fn an_interval_is_named_only_where_it_is_set() {
        let spec = MethodSpec::parse("streamingllm", &[], None).unwrap();
        assert!(!spec.resolved().params.contains_key("interval"));
        assert_eq!(spec.at(64).unwrap().interval(), None);
        let spec = MethodSpec::parse("streamingllm[interval=16]", &[], None).unwrap();
        assert_eq!(spec.at(64).unwrap().id(), "streamingllm[interval=16]/64");
        assert_eq!(spec.resolved().params["interval"], 16);
        let variant = spec.at(8).unwrap();
        assert_eq!(variant.interval(), Some(16));
        let kept = variant.select_again(&shape(1, 2, 2, 4, 24), &Observations::default()).unwrap();
        let expected = vec![0, 1, 2, 3, 20, 21, 22, 23];
        assert_eq!(kept.layers, [LayerSelection::Heads(vec![expected; 2])]);
        assert_eq!(
            fail("streamingllm", &[("interval", "0")]),
            "parameter `streamingllm.interval` cannot be `0`: it is a number of tokens, at least 1"
        );
        assert_eq!(
            fail("snapkv", &[("interval", "16")]),
            "parameter `snapkv.interval` cannot be `16`: the last 32 tokens of the answer vote, so it is at least 32"
        );
        assert_eq!(
            fail("cake", &[("interval", "16")]),
            "parameter `cake.interval` cannot be `16`: this method cannot evict while it generates"
        );
    }

    #[test]
    fn bad_input_is_named_with_the_remedy() {
        // Methods and profiles to come may be near, too.
        assert!(fail("snapkb", &[]).starts_with("unknown method `snapkb`; there is `snapkv`"));
        assert!(
            fail("snapkv@headkb", &[])
                .starts_with("method `snapkv` has no profile `headkb`; there is `headkv`")
        );
        assert_eq!(
            fail("snapkv", &[("windoe", "8")]),
            "method `snapkv` has no parameter `windoe`; there is `window`"
        );
        assert_eq!(
            fail("snapkv", &[("kernel", "4")]),
            "parameter `snapkv.kernel` cannot be `4`: the pooling size must be odd"
        );
        assert!(
            fail("snapkv", &[("window", "many")])
                .starts_with("parameter `snapkv.window` cannot be `\"many\"`: ")
        );
        let error = MethodSpec::parse("snapkv", &[], None).unwrap().at(32).unwrap_err().to_string();
        assert_eq!(
            error,
            "budget 32 does not suit method `snapkv`: its window of 32 tokens is inside the budget and must be below it"
        );
        let error = MethodSpec::parse("full", &[], Some(Granularity::QueryHead)).unwrap_err().to_string();
        assert_eq!(error, "method `full` has no granularity query-head; it has kv-head");
    }
}
