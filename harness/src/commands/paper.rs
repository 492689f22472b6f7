//! `kvsweep paper list|ID`: the published tables; one of them run here, ours beside theirs.

use std::collections::BTreeMap;

use kvsweep_results::paper::PaperComparison;
use kvsweep_results::published::{self, PaperTable};
use kvsweep_results::{Bootstrap, Merged, Run};
use serde_json::json;

use crate::cli::{GranularityArg, PaperArgs, RunArgs, Split, Suite, VariantArgs};
use crate::exit::{Exit, usage};
use crate::output;

/// Runs the command.
pub fn run(args: &PaperArgs) -> anyhow::Result<Exit> {
    if args.id == "list" {
        return list(args.json);
    }
    let paper = published::find(&args.id).map_err(usage)?;
    if let Some(why) = paper.not_runnable() {
        anyhow::bail!("table `{}` cannot be run: {why}", paper.id);
    }
    let mut notes = Vec::new();
    let mut runs = Vec::new();
    for run_args in plans(paper, args, &mut notes)? {
        let plan = super::run::plan(&run_args)?;
        let exit = super::run::execute(&plan, None)?;
        if exit != Exit::Done {
            return Ok(exit);
        }
        runs.push(Run::load(&plan.out)?);
    }
    let merged = Merged::of(&runs, false)?;
    let Some(group) = merged.groups.first() else { anyhow::bail!("nothing was run") };
    let mut comparison = PaperComparison::new(paper, group, &Bootstrap::default());
    comparison.notes.extend(notes);
    if args.json {
        output::line(&comparison.to_json()?)?;
    } else {
        output::data(&comparison.render(false))?;
    }
    Ok(Exit::Done)
}

fn list(as_json: bool) -> anyhow::Result<Exit> {
    let tables = published::tables()?;
    if as_json {
        let items: Vec<_> = tables
            .iter()
            .map(|t| {
                json!({
                    "id": t.id, "title": t.title, "paper": t.paper, "arxiv": t.arxiv, "model": t.model, "hub": t.hub,
                    "suite": t.suite, "protocol": t.protocol, "budgets": t.budgets(), "datasets": t.datasets(),
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
fn plans(paper: &PaperTable, args: &PaperArgs, notes: &mut Vec<String>) -> anyhow::Result<Vec<RunArgs>> {
    let suite = [Suite::Longbench, Suite::LongbenchE, Suite::Loogle, Suite::Needle]
        .into_iter()
        .find(|suite| suite.name() == paper.suite)
        .ok_or_else(|| {
            usage(format!("table `{}` belongs to the unknown suite `{}`", paper.id, paper.suite))
        })?;
    let mut model = args.model.clone();
    let own_model = model.model.is_none();
    if own_model {
        model.model = if args.split == Some(Split::Mini) { None } else { paper.hub.clone() };
    }
    let rehearsal = args.split == Some(Split::Mini) || args.limit.is_some() || !own_model;
    if rehearsal {
        notes.push(
            "a rehearsal: not the paper's model or data, or not all of it; nothing here reproduces the table"
                .to_owned(),
        );
    }
    // Methods that need other parameters at other budgets (HeadKV's beta) run apart.
    let mut sweeps: BTreeMap<Vec<(String, String)>, (Vec<String>, Vec<usize>)> = BTreeMap::new();
    for row in &paper.rows {
        let Some(method) = paper.method(&row.method) else { continue };
        let wanted = row.budget.map(|budget| budget as usize);
        if let (Some(only), Some(budget)) = (&args.budgets, wanted)
            && !only.contains(&budget)
        {
            continue;
        }
        let base = method.spec.split('@').next().unwrap_or_default();
        let params = method
            .params
            .iter()
            .chain(&row.params)
            .map(|(key, value)| (format!("{base}.{key}"), value.clone()));
        let (methods, budgets) = sweeps.entry(params.collect()).or_default();
        if !methods.contains(&method.spec) {
            methods.push(method.spec.clone());
        }
        if let Some(budget) = wanted
            && !budgets.contains(&budget)
        {
            budgets.push(budget);
        }
    }
    let granularity = match paper.granularity.as_deref() {
        Some("query-head") => Some(GranularityArg::QueryHead),
        Some("kv-head") => Some(GranularityArg::KvHead),
        _ => None,
    };
    let mini = args.split == Some(Split::Mini);
    Ok(sweeps
        .into_iter()
        .enumerate()
        .map(|(index, (params, (methods, budgets)))| RunArgs {
            suite: Some(suite),
            model: model.clone(),
            variants: VariantArgs {
                methods: Some(methods),
                budgets: (!budgets.is_empty()).then_some(budgets),
                params: Some(params.iter().map(|(key, value)| format!("{key}={value}")).collect()),
                granularity,
                ..VariantArgs::default()
            },
            split: args.split,
            data: args.data.clone(),
            datasets: (!mini && suite != Suite::Needle).then(|| paper.datasets()),
            limit: args.limit,
            protocol: paper.protocol.clone(),
            out: args.out.as_ref().map(|out| out.join(format!("part-{}", index + 1))),
            ..RunArgs::default()
        })
        .collect())
}
