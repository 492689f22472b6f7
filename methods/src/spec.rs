//! From `snapkv@compresskv` and `--param` to something that selects: [`MethodSpec`] is a method with all
//! its parameters, [`Variant`] the same at one budget.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::budget::Budget;
use crate::context::{Context, MethodState, StateScope};
use crate::error::{MethodError, Nearest};
use crate::inputs::{InputKind, Inputs};
use crate::method::{Entry, Method};
use crate::observation::{Observation, Observations};
use crate::observe::rows_needed;
use crate::scoring::Scores;
use crate::selection::{Granularity, LayerSelection, Selection};
use crate::shape::{CacheShape, LayerShape, Reach};
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

    /// The method at a budget of `entries`, see [`Budget`]. The full cache ignores it.
    ///
    /// # Errors
    /// As [`MethodSpec::within`].
    pub fn at(&self, entries: usize) -> Result<Variant, MethodError> {
        self.within(Budget::Entries(entries))
    }

    /// The method at a budget. The full cache ignores it. Whether a share leaves room for a window is known where a prompt
    /// is: see [`Variant::room`].
    ///
    /// # Errors
    /// [`MethodError::BadBudget`] when the window or the allocation leaves nothing to select.
    pub fn within(&self, budget: Budget) -> Result<Variant, MethodError> {
        let checked = match budget {
            Budget::Entries(0) if !self.is_full() => Err("keep at least one token".to_owned()),
            Budget::Entries(entries) if u32::try_from(entries).is_err() => {
                Err(format!("no prompt is longer than {} tokens", u32::MAX))
            }
            Budget::Entries(entries) => self.method.check_budget(entries),
            Budget::Share(_) => Ok(()),
        };
        checked.map_err(|problem| MethodError::BadBudget { method: self.label.clone(), budget, problem })?;
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
    budget: Budget,
}

impl Variant {
    /// Stable name: `snapkv/128`, `snapkv@0.5` for a share; `full` has no budget.
    #[must_use]
    pub fn id(&self) -> String {
        match self.budget() {
            None => self.spec.label.clone(),
            Some(Budget::Entries(entries)) => format!("{}/{entries}", self.spec.label),
            Some(Budget::Share(share)) => format!("{}@{share}", self.spec.label),
        }
    }

    /// The method.
    #[must_use]
    pub fn spec(&self) -> &MethodSpec {
        &self.spec
    }

    /// The budget; `None` for the full cache.
    #[must_use]
    pub fn budget(&self) -> Option<Budget> {
        (!self.spec.is_full()).then_some(self.budget)
    }

    /// The entries that it keeps of `len` by its budget; all for the full cache.
    #[must_use]
    pub fn entries(&self, len: usize) -> usize {
        self.budget().map_or(len, |budget| budget.of(len).min(len))
    }

    /// Whether the budget allows of `len` entries what the method needs to choose at all: a window, sinks, a least
    /// capacity. Where a share of a short prompt does not, the last entries are kept, as many as the share allows,
    /// whatever the method: the share is what methods are compared at, and a window's newest part is what all have of it.
    ///
    /// # Errors
    /// What the method needs.
    pub fn room(&self, len: usize) -> Result<(), String> {
        self.spec.method.check_budget(self.budget.of(len))
    }

    /// The variant whose budget is the entries that this one's allows of a prompt of `len`: what the cache is cut to again
    /// while an answer grows behind it.
    #[must_use]
    pub fn of_prompt(&self, len: usize) -> Self {
        Self { budget: Budget::Entries(self.budget.of(len)), ..self.clone() }
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
        let seen = shape.seen().len();
        let mut contested = shape.contested().into_iter().map(|layer| &selection.layers[layer]);
        if seen > self.spec.method.evicts_above(self.budget.of(seen))
            && contested.all(|layer| layer.keeps_everything(seen))
        {
            return Err(MethodError::NothingEvicted { variant: self.id(), prompt_len: seen });
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
        let Some(seen) = Seen::of(shape, observations, inputs) else {
            let layers = self.select_layers(shape, observations, inputs, state)?;
            return Ok(Selection { granularity: self.spec.granularity, layers });
        };
        // The state holds the length of a prompt, of which the layers may see less.
        let first = state.first_prompt_len.map(|len| CacheShape { len, ..shape.clone() }.seen().len());
        let state = MethodState { first_prompt_len: first };
        let chosen = self.select_layers(&seen.shape, &seen.observations, &seen.inputs, &state)?;
        let mut layers = vec![LayerSelection::All; shape.layers.len()];
        for (layer, chosen) in seen.layers.into_iter().zip(chosen) {
            layers[layer] = chosen.shifted(seen.first);
        }
        Ok(Selection { granularity: self.spec.granularity, layers })
    }

    fn select_layers(
        &self,
        shape: &CacheShape,
        observations: &Observations,
        inputs: &Inputs,
        state: &MethodState,
    ) -> Result<Vec<LayerSelection>, MethodError> {
        let method = &self.spec.method;
        if self.room(shape.len).is_err() {
            return Ok(self.last(shape));
        }
        if shape.len <= method.recent() {
            return Ok(vec![LayerSelection::All; shape.layers.len()]);
        }
        method.select(&self.context(shape, observations, inputs), state)
    }

    /// The last entries, as many as the budget allows.
    fn last(&self, shape: &CacheShape) -> Vec<LayerSelection> {
        let entries = self.entries(shape.len);
        if entries == shape.len {
            return vec![LayerSelection::All; shape.layers.len()];
        }
        let kept: Vec<u32> = (0..shape.len as u32).skip(shape.len - entries).collect();
        let layer = |layer| LayerSelection::Heads(vec![kept.clone(); self.spec.granularity.heads(layer)]);
        shape.layers.iter().map(layer).collect()
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

    /// The scores on which one layer is cut, of the positions that it still looks at; `None` for methods that do not
    /// score, and for layers that they [do not choose from](CacheShape::contested).
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
        let method = &self.spec.method;
        let Some(seen) = Seen::of(shape, observations, inputs) else {
            return method.scores(&self.context(shape, observations, inputs), layer);
        };
        match seen.layers.iter().position(|&contested| contested == layer) {
            Some(place) => method.scores(&self.context(&seen.shape, &seen.observations, &seen.inputs), place),
            None => Ok(None),
        }
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
            budget: self.budget.of(shape.len),
            granularity: self.spec.granularity,
        }
    }
}

/// What methods see of a cache some of whose layers look through windows: the layers that they choose from, and the
/// positions that those still look at, as if nothing else were there.
struct Seen {
    layers: Vec<usize>,
    /// Position of the first that is seen.
    first: usize,
    shape: CacheShape,
    observations: Observations,
    inputs: Inputs,
}

impl Seen {
    /// `None` where every layer looks at everything.
    fn of(shape: &CacheShape, observations: &Observations, inputs: &Inputs) -> Option<Self> {
        let (layers, seen) = (shape.contested(), shape.seen());
        if layers.len() == shape.layers.len() && seen.start == 0 {
            return None;
        }
        let observed = layers.iter().filter_map(|&layer| observations.layers.get(layer).cloned());
        let sizes = layers.iter().map(|&layer| LayerShape { reach: Reach::All, ..shape.layers[layer] });
        Some(Self {
            first: seen.start,
            shape: CacheShape { layers: sizes.collect(), len: seen.len() },
            observations: Observations { layers: observed.collect() },
            inputs: inputs.of_layers(&layers),
            layers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{observe, shape};

    fn windowed(window: usize, layers: &[bool], len: usize) -> CacheShape {
        let all = crate::testing::layer_shape(4, 2, 8);
        let layer = |&windowed: &bool| {
            if windowed { LayerShape { reach: Reach::Window(window), ..all } } else { all }
        };
        CacheShape { layers: layers.iter().map(layer).collect(), len }
    }

    /// A layer that looks through a window takes no part beside layers that look at everything, and a model of such layers
    /// alone is cut inside its windows: in every method.
    #[test]
    fn no_budget_is_spent_on_what_a_layer_no_longer_sees() {
        let inputs = Inputs {
            retrieval: Some(vec![vec![0.5; 4]; 3]),
            reasoning: Some(vec![vec![0.5; 4]; 3]),
            ranking: Some(vec![vec![0, 1, 2, 3]; 3]),
            layers: Some(vec![0.25, 0.5, 0.25]),
            full_heads: Some(vec![vec![0.5; 2]; 3]),
            model: None,
        };
        for entry in registry::METHODS.iter().filter(|entry| entry.name != "full") {
            let short = entry.parameters.iter().any(|parameter| parameter.name == "lag");
            let overrides = if short { vec![("lag".to_owned(), "16".to_owned())] } else { vec![] };
            let variant = MethodSpec::parse(entry.name, &overrides, None).unwrap().at(80).unwrap();
            let choose = |shape: &CacheShape| {
                let seen = observe(&variant, shape, 5);
                variant.select(shape, &seen, &inputs, &mut MethodState::default()).unwrap()
            };
            let mixed = choose(&windowed(120, &[true, false, true], 300));
            assert_eq!(mixed.layers[0], LayerSelection::All, "{}", entry.name);
            assert_eq!(mixed.layers[2], LayerSelection::All, "{}", entry.name);
            let LayerSelection::Heads(heads) = &mixed.layers[1] else { panic!("{}", entry.name) };
            let kept: usize = heads.iter().map(Vec::len).sum();
            assert!(kept.abs_diff(80 * heads.len()) <= heads.len(), "{}: {kept} in one layer", entry.name);

            let narrow = choose(&windowed(120, &[true; 3], 300));
            let kept: Vec<_> = narrow
                .layers
                .iter()
                .flat_map(|layer| match layer {
                    LayerSelection::All => panic!("{}: 119 positions and a budget of 80", entry.name),
                    LayerSelection::Heads(heads) => heads.clone(),
                })
                .collect();
            let entries: usize = kept.iter().map(Vec::len).sum();
            assert!(entries <= 80 * kept.len(), "{}: {entries}", entry.name);
            assert!(kept.iter().flatten().all(|position| (181..300).contains(position)), "{}", entry.name);
        }
    }

    #[test]
    fn a_window_that_nothing_leaves_changes_nothing() {
        let variant = MethodSpec::parse("snapkv", &[], None).unwrap().at(40).unwrap();
        let choose = |shape: &CacheShape| {
            let seen = observe(&variant, shape, 5);
            variant.select(shape, &seen, &Inputs::default(), &mut MethodState::default()).unwrap()
        };
        assert_eq!(choose(&windowed(201, &[true; 2], 200)), choose(&windowed(1, &[false; 2], 200)));
        let unlike = CacheShape {
            layers: windowed(9, &[true], 20)
                .layers
                .iter()
                .chain(&*windowed(8, &[true], 20).layers)
                .copied()
                .collect(),
            len: 20,
        };
        let error = variant.choose(
            &unlike,
            &Observations::default(),
            &Inputs::default(),
            &mut MethodState::default(),
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "impossible prompt shape: windows of unlike size, and no layer that looks at everything"
        );
    }

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
    fn a_share_is_of_every_prompts_own_length() {
        let spec = MethodSpec::parse("streamingllm", &[], None).unwrap();
        let half = spec.within(Budget::Share("0.5".parse().unwrap())).unwrap();
        assert_eq!((half.id().as_str(), half.entries(401)), ("streamingllm@0.5", 200));
        for len in [40, 401] {
            let entries = spec.at(len / 2).unwrap();
            let keep = |variant: &Variant| {
                let (shape, inputs) = (shape(2, 2, 2, 4, len), Inputs::default());
                variant
                    .select(&shape, &Observations::default(), &inputs, &mut MethodState::default())
                    .unwrap()
            };
            assert_eq!(keep(&half), keep(&entries), "{len}");
            assert_eq!(half.of_prompt(len).id(), entries.id());
        }
        let all = MethodSpec::parse("full", &[], None).unwrap();
        assert_eq!(all.within(Budget::Share("0.5".parse().unwrap())).unwrap().entries(10), 10);
    }

    /// Every method, every profile: a share that leaves its window no room is still the share that is kept.
    #[test]
    fn a_share_without_room_for_a_window_keeps_the_last_entries() {
        let share = Budget::Share("0.05".parse().unwrap());
        let (shape, inputs) = (shape(3, 4, 2, 8, 100), Inputs::default());
        let mut without_room = 0;
        for name in registry::METHODS.iter().map(|entry| entry.name).filter(|&name| name != "full") {
            let variant = MethodSpec::parse(name, &[], None).unwrap().within(share).unwrap();
            let Err(needs) = variant.room(shape.len) else { continue };
            assert!(!needs.is_empty());
            let seen = Observations::default();
            let kept = variant.select(&shape, &seen, &inputs, &mut MethodState::default()).unwrap();
            let heads = variant.spec().granularity().heads(&shape.layers[0]);
            let last = LayerSelection::Heads(vec![vec![95, 96, 97, 98, 99]; heads]);
            assert_eq!(kept.layers, vec![last; 3], "{name}");
            without_room += 1;
        }
        assert!(without_room >= 5, "{without_room}");
        let snapkv = MethodSpec::parse("snapkv", &[], None).unwrap().within(share).unwrap();
        assert_eq!(
            snapkv.room(100).unwrap_err(),
            "its window of 32 tokens is inside the budget and must be below it"
        );
        assert!(snapkv.room(1000).is_ok());
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
