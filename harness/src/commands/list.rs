//! `kvsweep list`: methods, tasks, protocols, models, one line each.

use kvsweep_engine::memory::Planner;
use kvsweep_engine::model::config::ModelConfig;
use kvsweep_engine::model::known;
use kvsweep_methods::{profile, registry};
use kvsweep_tasks::{Suite, datasets, mini, protocol};
use serde_json::{Value, json};

use crate::cli::{ListArgs, ListWhat};
use crate::cost::human;
use crate::exit::Exit;
use crate::output;
use crate::questions::mini_sets;

/// Runs the command.
pub(crate) fn run(args: &ListArgs) -> anyhow::Result<Exit> {
    let items = match args.what {
        ListWhat::Methods => methods(),
        ListWhat::Tasks => tasks(),
        ListWhat::Protocols => protocols(),
        ListWhat::Models => models(),
    };
    if args.json {
        output::json(&items.iter().map(|item| &item.json).collect::<Vec<_>>())?;
        return Ok(Exit::Done);
    }
    let width = items.iter().map(|item| item.name.chars().count()).max().unwrap_or(0);
    for item in &items {
        output::line(&format!("{:width$}  {}", item.name, item.text))?;
    }
    Ok(Exit::Done)
}

struct Item {
    name: String,
    text: String,
    json: Value,
}

fn methods() -> Vec<Item> {
    let mut items = Vec::new();
    for entry in registry::METHODS {
        let defaults = entry.defaults();
        let parameters: Vec<String> =
            defaults.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
        let settings =
            if parameters.is_empty() { String::new() } else { format!(" [{}]", parameters.join(" ")) };
        items.push(Item {
            name: entry.name.to_owned(),
            text: format!("{}{settings}", entry.summary),
            json: json!({
                "name": entry.name,
                "summary": entry.summary,
                "paper": entry.paper,
                "source": entry.source,
                "deviations": entry.deviations,
                "question": entry.question,
                "granularities": entry.granularities.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "parameters": entry.parameters.iter().map(|p| json!({
                    "name": p.name, "meaning": p.meaning, "default": defaults.get(p.name),
                })).collect::<Vec<_>>(),
            }),
        });
        for (name, profile) in profile::of(entry.name) {
            let changes: Vec<String> =
                profile.params.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
            items.push(Item {
                name: format!("{}@{name}", entry.name),
                text: format!("{} [{} {}]", profile.changes, profile.granularity, changes.join(" ")),
                json: json!({
                    "name": format!("{}@{name}", entry.name),
                    "changes": profile.changes,
                    "granularity": profile.granularity.to_string(),
                    "parameters": profile.params,
                }),
            });
        }
    }
    items
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn tasks() -> Vec<Item> {
    let official = datasets::all().iter().map(|info| Item {
        name: info.name.to_owned(),
        text: format!(
            "{}, {}, {}, {} new tokens, {}",
            info.suite.name(),
            info.category.name(),
            info.language.name(),
            info.max_new_tokens,
            info.metric
        ),
        json: json!({
            "name": info.name,
            "suite": info.suite.name(),
            "split": "full",
            "category": info.category.name(),
            "language": info.language.name(),
            "metric": info.metric,
            "max_new_tokens": info.max_new_tokens,
            "rows": info.rows,
        }),
    });
    let of =
        |suite: Suite, rows: usize| mini_sets(suite).into_iter().map(move |set| (suite.name(), rows, set));
    let mini = of(Suite::LongBench, mini::ROWS).chain(of(Suite::Ruler, mini::ruler::RULER_ROWS));
    let mini = mini.map(|(suite, rows, set)| Item {
        name: set.name.to_owned(),
        text: format!(
            "{suite} mini (embedded), {}, en, {} new tokens, {}",
            set.category, set.max_new_tokens, set.metric
        ),
        json: json!({
            "name": set.name,
            "suite": suite,
            "split": "mini",
            "category": set.category,
            "language": "en",
            "metric": set.metric,
            "max_new_tokens": set.max_new_tokens,
            "rows": rows,
        }),
    });
    let needle = kvsweep_tasks::needle::variants::VARIANTS.iter().map(|variant| Item {
        name: format!("needle ({})", variant.name),
        text: format!(
            "needle, {} new tokens, {} depths; {}",
            variant.max_new_tokens,
            variant.depths.len(),
            variant.source
        ),
        json: json!({
            "name": variant.name,
            "suite": "needle",
            "max_new_tokens": variant.max_new_tokens,
            "depths": variant.depths,
            "question": variant.question,
            "oddities": variant.oddities,
            "source": variant.source,
        }),
    });
    official.chain(mini).chain(needle).collect()
}

fn protocols() -> Vec<Item> {
    protocol::all()
        .iter()
        .map(|p| Item {
            name: format!("{} v{}", p.name, p.version),
            text: std::iter::once(p.summary.clone())
                .chain(p.oddities.iter().map(|oddity| format!("\n    - {oddity}")))
                .collect(),
            json: json!({
                "name": p.name,
                "version": p.version,
                "summary": p.summary,
                "source": p.source,
                "oddities": p.oddities,
                "averages": p.averages,
                "methods": p.methods,
                "needle": p.needle.variant,
            }),
        })
        .collect()
}

fn models() -> Vec<Item> {
    let mut items = vec![Item {
        name: crate::model::TINY.to_owned(),
        text: "embedded in the program; 4096 positions".to_owned(),
        json: json!({"name": crate::model::TINY, "place": "embedded"}),
    }];
    let fetched: Vec<_> = kvsweep_engine::source::cached_models();
    let known = known::ids().filter(|id| fetched.iter().all(|(fetched, _)| fetched != id));
    for (id, path) in &fetched {
        let shape = known::config(id).ok().flatten();
        items.push(Item {
            name: id.clone(),
            text: format!("fetched, in `{}`", path.display()),
            json: with_shape(json!({"name": id, "place": path}), shape.as_ref()),
        });
    }
    for id in known {
        let Ok(Some(config)) = known::config(id) else { continue };
        items.push(Item {
            name: id.to_owned(),
            text: sizes(&config),
            json: with_shape(json!({"name": id, "place": null}), Some(&config)),
        });
    }
    items
}

/// Lengths at which a full cache is stated, in tokens.
const LENGTHS: [usize; 3] = [8 << 10, 32 << 10, 128 << 10];

/// Plans for a model in the type of its files, caches too: what a GPU holds. Lengths that it has positions for.
fn planned(config: &ModelConfig) -> (Planner<'_>, impl Iterator<Item = usize>) {
    let most = config.max_positions;
    (Planner::new(config, config.weight_bytes), LENGTHS.into_iter().filter(move |&len| len <= most))
}

/// Bytes by which a long prompt's cache grows with each token.
fn a_token(planner: &Planner<'_>, config: &ModelConfig) -> u64 {
    planner.cache_bytes(config.max_positions) - planner.cache_bytes(config.max_positions - 1)
}

/// What a model is, and what it takes.
fn sizes(config: &ModelConfig) -> String {
    let (planner, lengths) = planned(config);
    let layers = match config.cache_shape(0).contested().len() {
        all if all == config.layers => format!("{all} layers"),
        some => format!("{} layers, {some} of which see everything", config.layers),
    };
    let caches: Vec<String> =
        lengths.map(|len| format!("{} {}k", human(planner.cache_bytes(len)), len >> 10)).collect();
    format!(
        "{:.2} billion weights in {}; {layers}, {} query and {} KV heads of {}; {} a token, caches of {}",
        planner.parameters() as f64 / 1e9,
        human(planner.weight_bytes()),
        config.query_heads,
        config.kv_heads,
        config.head_dim,
        human(a_token(&planner, config)),
        if caches.is_empty() { "less than 8k".to_owned() } else { caches.join(", ") },
    )
}

fn with_shape(mut item: Value, config: Option<&ModelConfig>) -> Value {
    if let (Some(fields), Some(config)) = (item.as_object_mut(), config) {
        let (planner, lengths) = planned(config);
        let caches: serde_json::Map<String, Value> =
            lengths.map(|len| (len.to_string(), json!(planner.cache_bytes(len)))).collect();
        fields.extend([
            ("parameters".to_owned(), json!(planner.parameters())),
            ("weight_bytes".to_owned(), json!(planner.weight_bytes())),
            ("layers".to_owned(), json!(config.layers)),
            ("global_layers".to_owned(), json!(config.cache_shape(0).contested().len())),
            ("query_heads".to_owned(), json!(config.query_heads)),
            ("kv_heads".to_owned(), json!(config.kv_heads)),
            ("head_dim".to_owned(), json!(config.head_dim)),
            ("positions".to_owned(), json!(config.max_positions)),
            ("kv_bytes_a_token".to_owned(), json!(a_token(&planner, config))),
            ("cache_bytes".to_owned(), Value::Object(caches)),
        ]);
    }
    item
}
