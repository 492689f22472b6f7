//! The trait of a method, and what every method file shares.

use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use crate::context::{Context, MethodState, StateScope};
use crate::error::MethodError;
use crate::inputs::InputKind;
use crate::observation::Observation;
use crate::scoring::Scores;
use crate::selection::{Granularity, LayerSelection};

pub mod ada_criticalkv;
pub mod ada_expected_attention;
pub mod adakv;
pub mod cake;
pub mod chunkkv;
pub mod compresskv;
pub mod criticalkv;
pub mod defensivekv;
pub mod duoattention;
pub mod expected_attention;
pub mod finch;
pub mod full;
pub mod h2o;
pub mod headkv;
pub mod keydiff;
pub mod knorm;
pub mod kvzip;
pub mod lagkv;
pub mod layer_defensivekv;
pub mod pyramidkv;
pub mod random;
pub mod snapkv;
pub mod streamingllm;
pub mod tova;

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

    /// Whether it can choose again while an answer grows, by [`Method::select`] on the cache of that moment: its entries
    /// are the positions then, the same number in every head. Nothing may be remembered from the prompt but they.
    fn chooses_again(&self) -> bool {
        false
    }

    /// Whether what is kept gets the positions 0, 1, … in its order, and the answer goes on behind it. Every head keeps as
    /// many entries then.
    fn renumbers(&self) -> bool {
        false
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

/// The question that a method was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// One that the prompt ends with: its tokens vote.
    Seen,
    /// One that comes after the context was compressed.
    Unseen,
    /// Any: its tokens count no more than others.
    Either,
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Seen => "seen",
            Self::Unseen => "unseen",
            Self::Either => "either",
        })
    }
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
    /// The question that it was made for.
    pub question: Question,
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

    /// What the default observes.
    #[must_use]
    pub fn observations(&self) -> Vec<Observation> {
        (self.parse)(Map::new()).map(|parsed| parsed.method.observations()).unwrap_or_default()
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
