//! The trait of a method, what it is given, and what every method file shares.

use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::budget::pyramid::CapacityFrom;
use crate::error::MethodError;
use crate::inputs::{InputKind, Inputs};
use crate::observation::{Observation, Observations, Observed};
use crate::scoring::Scores;
use crate::selection::{Granularity, LayerSelection};
use crate::shape::PromptShape;

pub mod adakv;
pub mod cake;
pub mod compresskv;
pub mod full;
pub mod h2o;
pub mod headkv;
pub mod knorm;
pub mod pyramidkv;
pub mod random;
pub mod snapkv;
pub mod streamingllm;
pub mod tova;

/// What a method sees of one prompt: no text, no answer.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The method's line of the registry.
    pub entry: &'static Entry,
    /// Sizes of the prefill.
    pub shape: &'a PromptShape,
    /// What the prefill observed.
    pub observations: &'a Observations,
    /// Calibrated or published scores of this model.
    pub inputs: &'a Inputs,
    /// Tokens per stored head, window included.
    pub budget: usize,
    /// Which heads own a selection.
    pub granularity: Granularity,
}

impl<'a> Context<'a> {
    /// `(columns, values)` of one observed layer, checked against the shape.
    ///
    /// # Errors
    /// When the layer was not observed so, or has another number of heads or positions.
    pub fn rows(
        &self,
        layer: usize,
        observation: Observation,
        heads: usize,
    ) -> Result<(usize, &'a [f32]), MethodError> {
        let columns = self.columns(observation);
        match self.observed(layer, observation)? {
            Observed::Rows { rows, columns: found, values }
                if *rows == heads && *found == columns && values.len() == heads * columns =>
            {
                Ok((columns, values))
            }
            other => Err(MethodError::Mismatch {
                what: format!("{observation:?} of layer {layer}"),
                expected: format!("{heads} heads x {columns} positions"),
                found: other.describe(),
            }),
        }
    }

    /// The raw observation of a layer.
    ///
    /// # Errors
    /// When the layer was not observed so.
    pub fn observed(&self, layer: usize, observation: Observation) -> Result<&'a Observed, MethodError> {
        self.observations
            .layers
            .get(layer)
            .and_then(|seen| seen.get(&observation))
            .ok_or(MethodError::NotObserved { layer, observation })
    }

    /// Positions that an observation covers in this prompt.
    #[must_use]
    pub fn columns(&self, observation: Observation) -> usize {
        let out = match observation {
            Observation::WindowSum { window } | Observation::WindowMoments { window } => window,
            Observation::AccumulatedSum { recent } => recent,
            Observation::KeyNorm => 0,
        };
        self.shape.prompt_len.saturating_sub(out)
    }

    /// The error for a calibrated input that is not there.
    #[must_use]
    pub fn missing(&self, input: InputKind) -> MethodError {
        MethodError::MissingInput { method: self.entry.name.to_owned(), input }
    }
}

/// What a variant remembers from one prompt to the next: nothing, except in the stateful profiles, where
/// the first prompt fixes the capacities of all. The runner owns it and says, by [`StateScope`], when to
/// start a fresh one; [`MethodState::after`] lets a shard start where the whole run would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodState {
    pub(crate) first_prompt_len: Option<usize>,
}

impl MethodState {
    /// The state after a first prompt of that length.
    #[must_use]
    pub fn after(first_prompt_len: usize) -> Self {
        Self { first_prompt_len: Some(first_prompt_len) }
    }
}

/// For how long a [`MethodState`] is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateScope {
    /// Nothing is remembered: prompts may come in any order.
    Prompt,
    /// One state per data set.
    Dataset,
    /// One state per run.
    Run,
}

impl From<CapacityFrom> for StateScope {
    fn from(capacity: CapacityFrom) -> Self {
        match capacity {
            CapacityFrom::Prompt => Self::Prompt,
            CapacityFrom::Dataset => Self::Dataset,
            CapacityFrom::Run => Self::Run,
        }
    }
}

/// A method with its parameters.
pub trait Method: Debug + Send + Sync {
    /// Names the first parameter whose value makes no sense.
    ///
    /// # Errors
    /// `(parameter, problem)`.
    fn check(&self) -> Result<(), (&'static str, String)> {
        Ok(())
    }

    /// Says why a budget does not fit the parameters, with the remedy.
    ///
    /// # Errors
    /// The problem.
    fn check_budget(&self, budget: usize) -> Result<(), String> {
        let recent = self.recent();
        if budget > recent || recent == 0 {
            return Ok(());
        }
        Err(format!("its window of {recent} tokens is inside the budget and must be below it"))
    }

    /// Positions at the end of the prompt that the method always keeps.
    fn recent(&self) -> usize {
        0
    }

    /// What the prefill must observe.
    fn observations(&self) -> Vec<Observation> {
        Vec::new()
    }

    /// Whether these parameters do without an input that [`Entry::needs`] names.
    fn does_without(&self, _input: InputKind) -> bool {
        false
    }

    /// What it remembers between prompts.
    fn state_scope(&self) -> StateScope {
        StateScope::Prompt
    }

    /// Prompts longer than this must lose something; keeping all of one is an error.
    fn evicts_above(&self, budget: usize) -> usize {
        budget
    }

    /// The scores on which layer `layer` is cut; `None` for methods that do not score.
    ///
    /// # Errors
    /// When an observation or input is missing.
    fn scores(&self, _ctx: &Context<'_>, _layer: usize) -> Result<Option<Scores>, MethodError> {
        Ok(None)
    }

    /// Chooses, for each layer. The prompt is longer than [`Method::recent`].
    ///
    /// # Errors
    /// When an observation or input is missing.
    fn select(&self, ctx: &Context<'_>, state: &MethodState) -> Result<Vec<LayerSelection>, MethodError>;
}

/// One parameter of a method, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// As in `--param method.name=value`.
    pub name: &'static str,
    /// One sentence.
    pub meaning: &'static str,
}

/// One line of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// As on the command line.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Paper.
    pub paper: &'static str,
    /// Reference code: repository, file, commit.
    pub source: &'static str,
    /// Where this default differs from the reference code, and why.
    pub deviations: &'static str,
    /// The granularities it has; the first is the default.
    pub granularities: &'static [Granularity],
    /// Calibrated inputs it reads.
    pub needs: &'static [InputKind],
    /// Its parameters, in order.
    pub parameters: &'static [Parameter],
    /// Parses parameters, those left out taking their defaults.
    pub(crate) parse: fn(Map<String, Value>) -> Result<Parsed, serde_json::Error>,
}

impl Entry {
    /// Every parameter with its default.
    #[must_use]
    pub fn defaults(&self) -> Map<String, Value> {
        (self.parse)(Map::new()).map(|parsed| parsed.resolved).unwrap_or_default()
    }
}

/// A method with its parameters, and all of them spelled out.
pub(crate) struct Parsed {
    pub(crate) method: Arc<dyn Method>,
    pub(crate) resolved: Map<String, Value>,
}

/// [`Entry::parse`] of a parameter struct.
pub(crate) fn parse<P>(given: Map<String, Value>) -> Result<Parsed, serde_json::Error>
where
    P: Method + Serialize + DeserializeOwned + 'static,
{
    let params: P = serde_json::from_value(Value::Object(given))?;
    let Value::Object(resolved) = serde_json::to_value(&params)? else {
        return Err(serde::de::Error::custom("parameters are not a table"));
    };
    Ok(Parsed { method: Arc::new(params), resolved })
}

/// Declares a parameter struct: its fields, their documentation (also kept for listings) and defaults.
macro_rules! params {
    // With the parameters that all methods share whose last prompt tokens vote by attention, and their `scoring`.
    ($(#[$outer:meta])* $name:ident, voted for by a window of $window:literal { $($own:tt)* }) => {
        $crate::method::params! {
            $(#[$outer])*
            $name {
                /// Last prompt tokens: they vote, and are always kept.
                window: usize = $window,
                /// Pooling size, odd.
                kernel: usize = 7,
                /// `avgpool` or `maxpool`.
                pooling: $crate::pooling::Pooling = $crate::pooling::Pooling::Max,
                /// Which query heads score a KV head: `contiguous` or `strided`.
                group_layout: $crate::group::GroupLayout = $crate::group::GroupLayout::Contiguous,
                /// How they become one row: `mean`, `max` or `sum`.
                group_reduce: $crate::group::GroupReduce = $crate::group::GroupReduce::Mean,
                /// `before-pooling` or `after-pooling`.
                group_order: $crate::group::GroupOrder = $crate::group::GroupOrder::BeforePooling,
                $($own)*
            }
        }

        impl $name {
            fn scoring(&self) -> $crate::scoring::Scoring {
                $crate::scoring::Scoring {
                    window: self.window,
                    kernel: self.kernel,
                    pooling: self.pooling,
                    layout: self.group_layout,
                    reduce: self.group_reduce,
                    order: self.group_order,
                }
            }
        }
    };
    ($(#[$outer:meta])* $name:ident { $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[doc = $doc])+ pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            /// The fields, for listings.
            pub(crate) const PARAMETERS: &'static [$crate::method::Parameter] = &[
                $($crate::method::Parameter { name: stringify!($field), meaning: concat!($($doc),+) },)*
            ];
        }
    };
}
pub(crate) use params;
