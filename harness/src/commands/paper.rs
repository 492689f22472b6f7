//! `kvsweep paper list|ID`: the published tables; one of them run here, ours beside theirs.

use std::collections::BTreeMap;

use kvsweep_engine::model::known;
use kvsweep_methods::budget::Budget;
use kvsweep_results::paper::{Original, PaperComparison};
use kvsweep_results::published::{self, PaperTable};
use kvsweep_results::{Bootstrap, Group, Merged, Run};
use kvsweep_tasks::datasets::{self, DatasetInfo, Language, mini};
use kvsweep_tasks::needle::variants;
use kvsweep_tasks::{QuestionView, Suite, averages, protocol};
use serde_json::json;

use crate::cli::{PaperArgs, RunArgs, Split, VariantArgs};
use crate::exit::{Exit, usage};
use crate::model::known_shape;
use crate::output;
use crate::plan::Plan;
use crate::questions::{MINI, NEEDLE};

/// Runs the command.
pub(crate) fn run(args: &PaperArgs) -> anyhow::Result<Exit> {
    if args.id == "list" {
        return list(args.json);
    }
    let paper = published::find(&args.id).map_err(usage)?;
    if let Some(why) = paper.not_runnable() {
        anyhow::bail!("table `{}` cannot be run: {why}", paper.id);
    }
    let plans = plans(paper, args)?;
    if args.dry_run {
        let mut loads = plans.iter().map(super::run::load);
        let Some(mut load) = loads.next().transpose()? else { anyhow::bail!("nothing to run") };
        for other in loads {
            load.add(other?);
        }
        return super::run::print_load(&load, args.json);
    }
    let mut runs = Vec::new();
    for run_args in plans {
        let (plan, session) = Plan::of(&run_args)?;
        let exit = super::run::execute(&plan, &session, None)?;
        if exit != Exit::Done {
            return Ok(exit);
        }
        runs.push(Run::load(&plan.out)?);
    }
    let merged = Merged::of(&runs, false)?;
    let Some(group) = merged.groups.first() else { anyhow::bail!("nothing was run") };
    let comparison = compare(paper, group);
    if args.json {
        output::json_text(&comparison.to_json()?)?;
    } else {
        output::data(&comparison.text())?;
    }
    let paths: Vec<String> = runs.iter().map(|run| format!("`{}`", run.path.display())).collect();
    output::note(&format!(
        "run directories: {}; `kvsweep report RUN… --paper {}` puts them on a page",
        paths.join(", "),
        paper.id
    ));
    Ok(Exit::Done)
}

/// Ours beside theirs. On the mini split, mini data sets of the same category (and metric) stand in for
/// the paper's.
pub(crate) fn compare(paper: &PaperTable, group: &Group) -> PaperComparison {
    let hub = paper.hub.as_deref().unwrap_or_default();
    let grid = needle_grid(paper, hub);
    let original = Original {
        shape: known_shape(hub),
        examples: &|name| match name {
            NEEDLE => grid,
            name => datasets::by_name(name).ok().map(|info| info.rows as u64),
        },
        mean: averages::mean_of_printed,
    };
    let bootstrap = Bootstrap::default();
    if group.manifest.split != MINI {
        return PaperComparison::new(paper, group, &original, &bootstrap);
    }
    let names = paper.datasets();
    let rehearsed = paper.with_stand_ins(&|name| {
        if name == NEEDLE {
            return Some(name.to_owned());
        }
        let of = datasets::by_name(name).ok().filter(|info| info.language != Language::Chinese)?;
        // Of the same metric where there is one, and in turn where there are several.
        let same = |info: &DatasetInfo| info.category == of.category && info.metric == of.metric;
        let strict = mini::all().iter().any(same);
        let alike = |info: &DatasetInfo| if strict { same(info) } else { info.category == of.category };
        let mut replaced = names.iter().filter(|other| datasets::by_name(other).is_ok_and(alike));
        let place = replaced.position(|other| other == name)?;
        let stand_ins: Vec<_> = mini::all().iter().filter(|info| alike(info)).collect();
        stand_ins.get(place % stand_ins.len().max(1)).map(|info| info.name.to_owned())
    });
    PaperComparison::new(&rehearsed, group, &original, &bootstrap)
}

/// Cells of the needle's grid that the paper's repository runs with its model.
fn needle_grid(paper: &PaperTable, hub: &str) -> Option<u64> {
    let protocol = protocol::by_name(paper.protocol.as_deref()?).ok()?;
    let variant = variants::by_name(&protocol.needle.variant).ok()?;
    let positions = known::config(hub).ok().flatten()?.max_positions;
    Some((variant.lengths(hub, positions).len() * variant.depths.len()) as u64)
}

fn list(as_json: bool) -> anyhow::Result<Exit> {
    let tables = published::tables()?;
    if as_json {
        let items: Vec<_> = tables
            .iter()
            .map(|t| {
                json!({
                    "id": t.id, "title": t.title, "paper": t.paper, "arxiv": t.arxiv, "model": t.model, "hub": t.hub,
                    "suite": t.suite, "protocol": t.protocol,
                    "question": if t.question_is_unseen { "unseen" } else { "seen" }, "budgets": t.budgets(), "datasets": t.datasets(),
                    "not_runnable": t.not_runnable(), "note": t.note,
                })
            })
            .collect();
        output::json(&items)?;
        return Ok(Exit::Done);
    }
    let width = tables.iter().map(|t| t.id.len()).max().unwrap_or(0);
    for table in tables {
        let runs = table.not_runnable().map_or_else(String::new, |why| format!(" (shown only: {why})"));
        output::line(&format!("{:width$}  {}, {}{runs}", table.id, table.title, table.model))?;
    }
    Ok(Exit::Done)
}

/// The sweeps that fill the table: rows with the same parameters run together.
fn plans(paper: &PaperTable, args: &PaperArgs) -> anyhow::Result<Vec<RunArgs>> {
    let suite = Suite::by_name(&paper.suite).ok_or_else(|| {
        usage(format!("table `{}` belongs to the unknown suite `{}`", paper.id, paper.suite))
    })?;
    let mut model = args.model.clone();
    if model.model.is_none() && args.split != Some(Split::Mini) {
        model.model = paper.hub.clone();
    }
    // A sweep is methods x budgets: rows with other budgets (HeadKV's beta goes with the budget) run apart.
    let mut sweeps: BTreeMap<Vec<Budget>, Vec<String>> = BTreeMap::new();
    for variant in paper.variants() {
        let wanted = |budget: &Budget| match budget {
            Budget::Entries(entries) if args.ratios.is_none() => {
                args.budgets.as_ref().is_none_or(|only| only.contains(entries))
            }
            Budget::Share(share) if args.budgets.is_none() => {
                args.ratios.as_ref().is_none_or(|only| only.contains(share))
            }
            _ => false,
        };
        let budgets: Vec<Budget> = variant.budgets.iter().filter_map(planned).filter(wanted).collect();
        if budgets.is_empty() && !variant.budgets.is_empty() {
            continue;
        }
        let params: Vec<String> =
            variant.params.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut label = variant.spec;
        if !params.is_empty() {
            label.push_str(&format!("[{}]", params.join("+")));
        }
        if let Some(granularity) = variant.granularity {
            label.push_str(&format!(":{granularity}"));
        }
        sweeps.entry(budgets).or_default().push(label);
    }
    if sweeps.keys().all(Vec::is_empty) && !paper.budgets().is_empty() {
        let budgets: Vec<String> = paper.budgets().iter().map(ToString::to_string).collect();
        return Err(usage(format!(
            "table `{}` is printed at {}, none of which is asked for",
            paper.id,
            budgets.join(", ")
        )));
    }
    // The full cache has no budgets of its own: it joins the first sweep.
    if let Some(full) = sweeps.remove(&Vec::new()) {
        match sweeps.values_mut().next() {
            Some(methods) => methods.splice(0..0, full).for_each(drop),
            None => drop(sweeps.insert(Vec::new(), full)),
        }
    }
    // A table may take data sets of several suites.
    let suites: Vec<(Suite, Option<Vec<String>>)> =
        if args.split == Some(Split::Mini) || suite == Suite::Needle {
            vec![(suite, None)]
        } else {
            let mut by_suite: BTreeMap<Suite, Vec<String>> = BTreeMap::new();
            for name in paper.datasets() {
                let of = datasets::by_name(&name).map(|info| info.suite.name())?;
                let suite = Suite::by_name(of).unwrap_or(suite);
                by_suite.entry(suite).or_default().push(name);
            }
            by_suite.into_iter().map(|(suite, names)| (suite, Some(names))).collect()
        };
    let mut plans = Vec::new();
    for (suite, names) in suites {
        for (budgets, methods) in &sweeps {
            let part = format!("part-{}", plans.len() + 1);
            plans.push(RunArgs {
                suite: Some(suite),
                model: model.clone(),
                variants: VariantArgs {
                    methods: Some(methods.clone()),
                    budgets: listed(budgets, |budget| match budget {
                        Budget::Entries(entries) => Some(entries),
                        Budget::Share(_) => None,
                    }),
                    ratios: listed(budgets, |budget| match budget {
                        Budget::Entries(_) => None,
                        Budget::Share(share) => Some(share),
                    }),
                    ..VariantArgs::default()
                },
                question: Some(if paper.question_is_unseen {
                    QuestionView::Unseen
                } else {
                    QuestionView::Seen
                }),
                split: args.split,
                data: args.data.clone(),
                datasets: names.clone(),
                limit: args.limit,
                lengths: (suite == Suite::Ruler
                    && args.split != Some(Split::Mini)
                    && !paper.lengths.is_empty())
                .then(|| paper.lengths.iter().map(|&length| length as usize).collect()),
                protocol: paper.protocol.clone(),
                out: args.out.as_ref().map(|out| out.join(part)),
                ..RunArgs::default()
            });
        }
    }
    Ok(plans)
}

/// A printed budget as the methods take it.
fn planned(printed: &kvsweep_results::Budget) -> Option<Budget> {
    Some(match printed {
        kvsweep_results::Budget::Entries(entries) => Budget::Entries(*entries as usize),
        kvsweep_results::Budget::Share(share) => Budget::Share(share.to_string().parse().ok()?),
    })
}

/// The budgets of one kind; none where there is none.
fn listed<T>(budgets: &[Budget], kind: impl Fn(Budget) -> Option<T>) -> Option<Vec<T>> {
    let listed: Vec<T> = budgets.iter().copied().filter_map(kind).collect();
    (!listed.is_empty()).then_some(listed)
}

#[cfg(test)]
mod tests {
    use kvsweep_methods::spec::MethodSpec;

    use super::*;

    #[test]
    fn what_a_table_needs_is_known_here() {
        let mut shaped = 0;
        for paper in published::tables().unwrap().iter().filter(|paper| paper.not_runnable().is_none()) {
            let protocol = protocol::by_name(paper.protocol.as_deref().unwrap()).unwrap();
            for name in paper.datasets() {
                assert!(name == NEEDLE || datasets::by_name(&name).is_ok(), "{}: {name}", paper.id);
            }
            for method in &paper.methods {
                assert!(MethodSpec::parse(&method.spec, &[], None).is_ok(), "{}: {method:?}", paper.id);
            }
            let hub = paper.hub.as_deref().unwrap();
            shaped += usize::from(known_shape(hub).is_some());
            if paper.suite == Suite::Needle.name() {
                let expected = match (protocol.name.as_str(), hub.contains("istral")) {
                    ("headkv", _) => 321 * 10,
                    (_, true) => 80 * 10,
                    (_, false) => 71 * 10,
                };
                assert_eq!(needle_grid(paper, hub), Some(expected), "{}", paper.id);
            }
        }
        assert!(shaped > 15, "{shaped} tables whose model's shape is known");
    }
}
