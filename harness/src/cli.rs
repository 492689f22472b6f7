//! The command line: every command, every option, in one place.

use std::num::ParseIntError;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kvsweep_methods::budget::Share;
use kvsweep_tasks::{QuestionView, Suite};

/// Benchmarks KV-cache compression: one prefill serves every method and every budget.
#[derive(Debug, Parser)]
#[command(name = "kvsweep", version = crate::provenance::VERSION, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sweep methods x budgets over a suite; writes a run directory and prints the table
    Run(Box<RunArgs>),
    /// Answer one prompt with one or several variants
    Generate(Box<GenerateArgs>),
    /// Write the batch script of a sweep in parts for Slurm, and submit it; takes the options of `run`
    Slurm(Box<SlurmArgs>),
    /// How far a run is, part by part
    Status(StatusArgs),
    /// Score table of one or several runs
    Table(TableArgs),
    /// Needle heatmaps of one or several runs
    Heatmap(HeatmapArgs),
    /// Published tables: list them, or run one and print ours beside theirs
    Paper(Box<PaperArgs>),
    /// Paired differences of two runs, or of two commits in a baseline store
    Compare(CompareArgs),
    /// A baseline store's averages over commits
    History(HistoryArgs),
    /// One self-contained HTML page
    Report(ReportArgs),
    /// Score predictions that another harness wrote
    Score(ScoreArgs),
    /// Write a run's predictions in another harness's layout
    Export(ExportArgs),
    /// Compute head scores or layer errors for a model
    Calibrate(Box<CalibrateArgs>),
    /// Check this build against golden vectors
    Verify(VerifyArgs),
    /// The exact prompt of an example, its truncation, and which tokens each variant kept
    Explain(ExplainArgs),
    /// Methods, tasks, protocols, models: one line each
    List(ListArgs),
    /// Download a model or a data set once; everything afterwards works offline
    Fetch(FetchArgs),
    /// What this machine can run, what is missing, and the command that mends it
    Doctor(DoctorArgs),
}

/// Which model, on which device.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ModelArgs {
    /// `tiny` (embedded), a directory in the hub's layout, a GGUF file, or a hub id [default: tiny]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// `cpu` or `cuda[:N]` [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Compute type: f32, f16 or bf16 (f32 on the CPU) [default: f32]
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<String>,
}

/// Which methods, at which budgets.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct VariantArgs {
    /// Methods, with a profile where wanted: `full,snapkv,snapkv@compresskv` [default: the headline methods]
    #[arg(long, value_delimiter = ',', value_parser = trimmed::<String>, value_name = "METHODS")]
    pub methods: Option<Vec<String>>,
    /// One KV budget: entries per KV head, averaged over heads and layers, window included
    #[arg(long, conflicts_with = "budgets", value_parser = budget, value_name = "N")]
    pub budget: Option<usize>,
    /// Several budgets [default: 64,128,256,512,1024,2048]
    #[arg(long, value_delimiter = ',', value_parser = budget, value_name = "N,…")]
    pub budgets: Option<Vec<usize>>,
    /// Shares of every prompt's entries that are kept, instead of budgets: `0.1,0.25`
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = share,
        allow_negative_numbers = true,
        conflicts_with_all = ["budget", "budgets"],
        value_name = "SHARE,…"
    )]
    pub ratios: Option<Vec<Share>>,
    /// One selection per KV head, or per query head as the papers' code stores it
    #[arg(long, value_enum, value_name = "GRANULARITY")]
    pub granularity: Option<GranularityArg>,
    /// A method's parameter: `snapkv.window=16`; may be given several times
    #[arg(long = "param", value_name = "METHOD.KEY=VALUE")]
    pub params: Option<Vec<String>>,
    /// A calibration file (head scores, head ranking or layer scores); may be given several times
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<Vec<PathBuf>>,
}

/// Which heads own a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GranularityArg {
    /// One selection per KV head
    KvHead,
    /// One selection per query head; K and V are stored once per query head
    QueryHead,
}

/// The suites by name, each with its line of help.
fn suites() -> impl TypedValueParser<Value = Suite> {
    let names = Suite::ALL.map(|suite| PossibleValue::new(suite.name()).help(suite.summary()));
    PossibleValuesParser::new(names).try_map(|name| Suite::by_name(&name).ok_or("no such suite"))
}

/// Where rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Split {
    /// The embedded suite, generated from a seed
    Mini,
    /// The official rows, from `--data` or fetched
    Full,
}

/// `seen` and `unseen`.
fn views() -> impl TypedValueParser<Value = QuestionView> {
    let names = PossibleValuesParser::new(QuestionView::ALL.map(QuestionView::name));
    names.try_map(|name| QuestionView::ALL.into_iter().find(|view| view.name() == name).ok_or("no such view"))
}

/// A part of a list, blanks around it left out: `64, 128`.
fn trimmed<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|error: T::Err| error.to_string())
}

/// A budget.
fn budget(text: &str) -> Result<usize, String> {
    let what = "a budget counts KV entries per KV head, e.g. 128";
    let text = text.trim();
    let percent = text.strip_suffix('%').map(str::trim_end);
    let number = percent.unwrap_or(text).parse::<f64>().ok().filter(|number| number.is_finite());
    text.parse().map_err(|problem: ParseIntError| match (number, percent) {
        (Some(number), _) if percent.is_some() || number.fract() != 0.0 => {
            let share = if percent.is_some() { number / 100.0 } else { number };
            let remedy =
                if share > 0.0 && share <= 1.0 { format!("--ratios {share}") } else { "--ratios".to_owned() };
            format!("{what}; a share of the prompt's entries is given with `{remedy}`")
        }
        _ if text.contains([',', ';', ' ']) => {
            let parts = text.split([',', ';', ' ']).filter(|part| !part.is_empty());
            format!("{what}; several are given with `--budgets {}`", parts.collect::<Vec<_>>().join(","))
        }
        _ if text.starts_with(|c: char| c.is_ascii_digit()) => {
            format!("{what}: a whole number without a unit")
        }
        _ => format!("{what}: {problem}"),
    })
}

/// A share that is kept.
fn share(text: &str) -> Result<Share, String> {
    let text = text.trim();
    let percent = text.strip_suffix('%').and_then(|number| number.trim_end().parse::<f64>().ok());
    let entries = text.parse::<usize>().ok().filter(|&entries| entries > 1);
    text.parse().map_err(|problem: String| {
        let what = "a share of the entries kept, e.g. 0.25, is above 0 and at most 1";
        match (percent, entries) {
            (Some(percent), _) => format!("{what}; write {}", percent / 100.0),
            (_, Some(entries)) => format!("{what}; a number of entries is given with `--budgets {entries}`"),
            _ => format!("{what}: {problem}"),
        }
    })
}

/// Options of `run`; a `--config` file has the same names, and the command line wins.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunArgs {
    /// longbench, longbench-e, loogle, needle or ruler
    #[arg(value_parser = suites(), value_name = "SUITE")]
    pub suite: Option<Suite>,
    /// Model options.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Variant options.
    #[command(flatten)]
    pub variants: VariantArgs,
    /// mini (embedded) or full (official rows) [default: mini with the model tiny, else full]
    #[arg(long, value_enum, value_name = "SPLIT")]
    pub split: Option<Split>,
    /// A directory with rows (.jsonl, .jsonl.gz, .jsonl.zst, data.zip) or essays
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Data sets of the suite [default: all that are there]
    #[arg(long, value_delimiter = ',', value_parser = trimmed::<String>, value_name = "NAMES")]
    pub datasets: Option<Vec<String>>,
    /// N rows of each data set, spread over their lengths (of the mini split the first, which have all lengths in turn);
    /// for needle, N trials a cell of the embedded test, or N cells in essays; for RULER but the embedded tasks, N rows of
    /// each length
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Seed of the mini split's rows; other seeds give fresh rows of the same kind [default: 0, the suite]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Leave the context out of every prompt: what the model answers without reading (contamination control)
    #[arg(long)]
    pub without_context: bool,
    /// Whether methods see the question before they compress: `seen`, or `unseen`: the context alone is compressed, and the
    /// question read behind it [default: the protocol's, mostly seen]
    #[arg(long, value_parser = views(), value_name = "VIEW")]
    pub question: Option<QuestionView>,
    /// Needle and RULER: prompt lengths in tokens
    #[arg(long, value_delimiter = ',', value_parser = trimmed::<usize>, value_name = "N,…")]
    pub lengths: Option<Vec<usize>>,
    /// Needle: depths in percent
    #[arg(long, value_delimiter = ',', value_parser = trimmed::<f64>, value_name = "P,…")]
    pub depths: Option<Vec<f64>>,
    /// Needle: mask the top heads of a ranking in decode, `semantic:8`, `retrieval:8` or `random:8[:SEED]`
    #[arg(long, value_name = "KIND:N")]
    pub mask_heads: Option<String>,
    /// The evaluation protocol [default: kvsweep-1]
    #[arg(long, value_name = "NAME")]
    pub protocol: Option<String>,
    /// The run directory [default: under runs/, named after the configuration]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Part I of N of the examples (1-based); merge by giving all runs to `table`
    #[arg(long, value_name = "I/N")]
    pub shard: Option<String>,
    /// Memory for prompts in flight and their variants, in GiB [default: four fifths of what is free]
    #[arg(long, value_name = "GIB")]
    pub memory: Option<f64>,
    /// Print cells, prompts, tokens, operations and memory needed, and stop; needs no weights and no rows
    #[arg(long)]
    pub dry_run: bool,
    /// Also store this run as the baseline of the current commit
    #[arg(long)]
    pub record_baseline: bool,
    /// A TOML file with these same names
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Print the table as JSON
    #[arg(long)]
    pub json: bool,
    /// All columns of the table on a terminal too, however wide
    #[arg(long)]
    pub wide: bool,
}

/// Options of `slurm`.
#[derive(Args, Debug)]
pub(crate) struct SlurmArgs {
    /// The sweep.
    #[command(flatten)]
    pub run: RunArgs,
    /// How it is spread.
    #[command(flatten)]
    pub own: SlurmOptions,
}

/// How Slurm runs a sweep.
#[derive(Args, Debug)]
pub(crate) struct SlurmOptions {
    /// Parts, each a task of one job array
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub tasks: u32,
    /// GPUs of a task: 1 with `--device cuda`, else 0
    #[arg(long, value_name = "N")]
    pub gpus_per_task: Option<u32>,
    /// Processors of a task [default: the partition's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub cpus_per_task: Option<u32>,
    /// The most that a task may take, as sbatch reads it: `4:00:00`
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// The partition
    #[arg(long, value_name = "NAME")]
    pub partition: Option<String>,
    /// Any other option of sbatch, `--sbatch=--account=lab`; may be given several times
    #[arg(long, allow_hyphen_values = true, value_name = "OPTION")]
    pub sbatch: Option<Vec<String>>,
    /// The script [default: kvsweep.sh in the folder of the parts]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Submit it, and print the jobs' numbers
    #[arg(long)]
    pub submit: bool,
}

/// Options of `status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// A run directory, or a folder whose folders are the parts of one run
    #[arg(value_name = "DIR")]
    pub run: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `generate`.
#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// Model options.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Variant options.
    #[command(flatten)]
    pub variants: VariantArgs,
    /// The prompt's text
    #[arg(long, value_name = "TEXT", group = "source")]
    pub prompt: Option<String>,
    /// A file with the prompt's text
    #[arg(long, value_name = "FILE", group = "source")]
    pub prompt_file: Option<PathBuf>,
    /// A JSON list of token ids, used as they are; or {"context": [..], "question": [..]}: methods see the context only
    #[arg(long, value_name = "FILE", group = "source")]
    pub ids: Option<PathBuf>,
    /// A JSON list of token ids: a question about `--ids`, read behind it
    #[arg(long, requires = "ids", conflicts_with_all = ["prompt", "prompt_file", "chat"], value_name = "FILE")]
    pub question_ids: Option<PathBuf>,
    /// Whether methods see the question before they compress: `seen`, all but its last token, or `unseen`: the ids alone are
    /// compressed [default: unseen]
    #[arg(long, requires = "question_ids", value_parser = views(), value_name = "VIEW")]
    pub question: Option<QuestionView>,
    /// Wrap the prompt in the model's chat template
    #[arg(long, conflicts_with = "ids")]
    pub chat: bool,
    /// New tokens at most
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub max_new: usize,
    /// Do not stop at an end-of-sequence token
    #[arg(long)]
    pub ignore_eos: bool,
    /// Keep logits: `prompt` f32 [S, vocab] and `<variant>` f32 [steps, vocab]
    #[arg(long, value_name = "FILE.safetensors")]
    pub logits: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Output forms of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    /// Aligned text
    #[default]
    Text,
    /// Markdown
    Md,
    /// Comma-separated values
    Csv,
    /// booktabs
    Latex,
    /// Documented, versioned JSON
    Json,
}

/// Options of `table`.
#[derive(Args, Debug)]
pub(crate) struct TableArgs {
    /// Run directories; shards and runs of one configuration merge
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Output form
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: TableFormat,
    /// Average as this protocol's paper does [default: the runs' protocol]
    #[arg(long, value_name = "NAME")]
    pub protocol: Option<String>,
    /// Allow runs of different models or protocols in one table
    #[arg(long)]
    pub mixed: bool,
    /// Method against method on the same examples instead: paired differences, Holm-corrected
    #[arg(long)]
    pub pairs: bool,
    /// All columns on a terminal too, however wide
    #[arg(long)]
    pub wide: bool,
    /// Also draw the average against budget or share kept, a panel a model, protocol or view of the question, .png or .svg
    #[arg(short, long, conflicts_with = "pairs", value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Options of `heatmap`.
#[derive(Args, Debug)]
pub(crate) struct HeatmapArgs {
    /// Needle runs
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The picture, .png or .svg [default: heatmap.png in the first run]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Options of `paper`.
#[derive(Args, Debug)]
pub(crate) struct PaperArgs {
    /// `list`, or the id of a published table
    #[arg(value_name = "list|ID")]
    pub id: String,
    /// What to run differently from the paper; labels the output as a rehearsal
    #[command(flatten)]
    pub model: ModelArgs,
    /// mini (a rehearsal on the embedded suite) or full
    #[arg(long, value_enum, value_name = "SPLIT")]
    pub split: Option<Split>,
    /// A directory with rows
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// N rows of each data set, as `run` takes them (a part: its cells bear no verdict)
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Budgets of the table to run [default: all of them]
    #[arg(long, value_delimiter = ',', value_parser = budget, value_name = "N,…")]
    pub budgets: Option<Vec<usize>>,
    /// Shares kept of the table to run [default: all of them]
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = share,
        allow_negative_numbers = true,
        conflicts_with = "budgets",
        value_name = "SHARE,…"
    )]
    pub ratios: Option<Vec<Share>>,
    /// Print what the table would take, on this machine and on one H200-class GPU, and stop; needs no weights
    #[arg(long)]
    pub dry_run: bool,
    /// The run directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `compare`.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// A run directory (or those of its parts: A,B,…), a commit, a branch, or `stored`: the newest stored commit with the
    /// head's configuration
    pub base: String,
    /// A run directory (or those of its parts: A,B,…), a commit or a branch
    pub head: String,
    /// Exit 3 on a significant loss
    #[arg(long)]
    pub gate: bool,
    /// The baseline store [default: baselines/ of the repository one stands in]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `history`.
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// The baseline store [default: baselines/ of the repository one stands in]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Also draw the curve, .png or .svg
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `report`.
#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// Run directories, of one suite or several
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Published tables to put beside ours; labelled as a rehearsal where the runs are not the paper's [default: those
    /// of the runs' own model and protocol]
    #[arg(long, value_delimiter = ',', value_parser = trimmed::<String>, value_name = "ID,…")]
    pub paper: Vec<String>,
    /// The rows the runs were made from, where they read local ones; shows which tokens were kept
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The runs' models, where they are not found by the names that the runs have; may be given several times
    #[arg(long, value_name = "MODEL")]
    pub model: Vec<String>,
    /// The page
    #[arg(short, long, value_name = "FILE.html")]
    pub output: PathBuf,
}

/// Options of `score`.
#[derive(Args, Debug)]
pub(crate) struct ScoreArgs {
    /// A folder with one layout's prediction files
    pub dir: PathBuf,
    /// Who wrote it: longbench, longbench-e, compresskv, kvcache-factory, headkv, adakv, kvpress, needle-…
    #[arg(long, value_name = "NAME")]
    pub layout: String,
    /// Override the code metric: code-sim/difflib or code-sim/levenshtein
    #[arg(long, value_name = "METRIC")]
    pub metric: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `export`.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// A run directory
    pub run: PathBuf,
    /// The layout to write
    #[arg(long, value_name = "NAME")]
    pub layout: String,
    /// The folder to write into
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
}

/// What to calibrate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CalibrateWhat {
    /// Head scores (`--kind`)
    Heads,
    /// Layer eviction errors (CompressKV)
    Layers,
}

/// How heads are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HeadKindArg {
    /// Traditional retrieval heads (HeadKV-R)
    Retrieval,
    /// Retrieval-reasoning heads (HeadKV-R2)
    Reasoning,
    /// Semantic retrieval heads (CompressKV)
    Semantic,
}

/// Options of `calibrate`.
#[derive(Args, Debug)]
pub(crate) struct CalibrateArgs {
    /// heads or layers
    #[arg(value_enum)]
    pub what: CalibrateWhat,
    /// How heads are scored
    #[arg(long, value_enum, required_if_eq("what", "heads"), value_name = "KIND")]
    pub kind: Option<HeadKindArg>,
    /// Model options.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The head-detection texts (needles.jsonl and part*/) [default: the mini haystack]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Prompt lengths: count and range, `20:1000..4000` [default: by kind and model]
    #[arg(long, value_name = "N:FROM..TO")]
    pub lengths: Option<String>,
    /// Depths, evenly from 0 to 100
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub depths: usize,
    /// The first N samples (layers only)
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// The seed of the mini haystack
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// The calibration file; the papers' own format is written beside it
    #[arg(short, long, value_name = "FILE.json")]
    pub output: Option<PathBuf>,
    /// Also draw the layers x heads map, .png or .svg
    #[arg(long, value_name = "FILE")]
    pub map: Option<PathBuf>,
}

/// What to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyWhat {
    /// Selections, budgets and head identification
    Methods,
    /// Metrics
    Metrics,
}

/// Options of `verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// methods or metrics
    #[arg(value_enum)]
    pub what: VerifyWhat,
    /// Golden vectors
    #[arg(long, value_name = "DIR")]
    pub golden: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `explain`.
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// A run directory
    pub run: PathBuf,
    /// An example's key, or the start of one
    pub example: String,
    /// The rows the run was made from, where it read local ones
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The run's model, where it is not found by the name that the run has
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListWhat {
    /// Methods and their profiles
    Methods,
    /// Suites and data sets
    Tasks,
    /// Protocols and their oddities
    Protocols,
    /// Models in place
    Models,
}

/// Options of `list`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// methods, tasks, protocols or models
    #[arg(value_enum)]
    pub what: ListWhat,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FetchWhat {
    /// A model's weights, configuration and tokenizer
    Model,
    /// A suite's rows
    Data,
}

/// Options of `fetch`.
#[derive(Args, Debug)]
pub(crate) struct FetchArgs {
    /// model or data
    #[arg(value_enum)]
    pub what: FetchWhat,
    /// A hub id (model), or a suite's or data set's name (data); @REVISION may follow
    pub name: String,
}

/// Options of `doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
