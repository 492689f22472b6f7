//! `kvsweep list`: methods, tasks, protocols, models, one line each.

use kvsweep_methods::{profile, registry};
use kvsweep_tasks::{Suite, datasets, mini, protocol};
use serde_json::{Value, json};

use crate::cli::{ListArgs, ListWhat};
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
    for (id, path) in kvsweep_engine::source::cached_models() {
        items.push(Item {
            name: id.clone(),
            text: format!("fetched, in `{}`", path.display()),
            json: json!({"name": id, "place": path}),
        });
    }
    items
}
