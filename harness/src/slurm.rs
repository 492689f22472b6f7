//! The batch script of a sweep in parts, for Slurm: a job array over the parts, and a job behind it that puts them
//! together.

use std::fmt;

use kvsweep_results::shell_word;

/// What a script runs, and with what.
pub(crate) struct Script {
    /// The program.
    pub program: String,
    /// Where relative paths begin.
    pub folder: String,
    /// The folder of the parts.
    pub out: String,
    /// The arguments of `run`, without where it writes.
    pub run: Vec<String>,
    /// Parts, one a task.
    pub tasks: u32,
    /// Options of `sbatch` for both jobs.
    pub site: Vec<String>,
    /// Options of `sbatch` for the tasks alone.
    pub task: Vec<String>,
}

fn words(arguments: &[String]) -> String {
    arguments.iter().map(|argument| shell_word(argument)).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, folder, out, run, tasks, site, task } = self;
        writeln!(f, "#!/usr/bin/env bash")?;
        writeln!(
            f,
            "# One sweep in {tasks} parts, one a task of a job array, and a job behind it: table and report."
        )?;
        writeln!(f, "#   bash SCRIPT    submits both, and prints their numbers")?;
        writeln!(
            f,
            "# A task that is stopped and queued again continues its part, and so does everything if this is submitted"
        )?;
        writeln!(f, "# again. `kvsweep status` on the folder below says how far every part is.")?;
        writeln!(f, "#SBATCH --job-name=kvsweep")?;
        writeln!(f, "#SBATCH --nodes=1 --ntasks=1")?;
        writeln!(f, "#SBATCH --requeue --open-mode=append")?;
        for option in site {
            match option.split_once('=') {
                Some((name, value)) => writeln!(f, "#SBATCH {name}={}", shell_word(value))?,
                None => writeln!(f, "#SBATCH {option}")?,
            }
        }
        writeln!(f, "set -euo pipefail")?;
        writeln!(f, "cd {}", shell_word(folder))?;
        writeln!(f, "kvsweep={}", shell_word(program))?;
        writeln!(f, "out={}", shell_word(out))?;
        writeln!(f)?;
        writeln!(f, "case \"${{1:-}}\" in")?;
        writeln!(f, "part)")?;
        writeln!(f, "  part=$SLURM_ARRAY_TASK_ID")?;
        writeln!(f, "  exec \"$kvsweep\" run {} \\", words(run))?;
        writeln!(f, "    --shard \"$part/{tasks}\" --out \"$out/part-$part-of-{tasks}\"")?;
        writeln!(f, "  ;;")?;
        writeln!(f, "together)")?;
        writeln!(f, "  found=$(ls -d \"$out\"/part-*-of-{tasks} | wc -l)")?;
        writeln!(f, "  [ \"$found\" = {tasks} ] ||")?;
        writeln!(f, "    echo \"$found of {tasks} parts are in $out: do all nodes share it?\" >&2")?;
        writeln!(f, "  \"$kvsweep\" report \"$out\"/part-*-of-{tasks} -o \"$out/report.html\"")?;
        writeln!(f, "  \"$kvsweep\" table --wide \"$out\"/part-*-of-{tasks} | tee \"$out/table.txt\"")?;
        writeln!(f, "  ;;")?;
        writeln!(f, "*)")?;
        let task = if task.is_empty() { String::new() } else { format!(" {}", words(task)) };
        writeln!(
            f,
            "  parts=$(sbatch --parsable --array=1-{tasks}{task} --output=\"$out/part-%a.log\" \"$0\" part)"
        )?;
        writeln!(f, "  parts=${{parts%%;*}}")?;
        writeln!(f, "  # Also behind a part that failed: the table then names it.")?;
        writeln!(
            f,
            "  together=$(sbatch --parsable --dependency=\"afterany:$parts\" --output=\"$out/together.log\" \"$0\" together)"
        )?;
        writeln!(f, "  echo \"parts: job $parts, tasks 1 to {tasks}\"")?;
        writeln!(f, "  echo \"table and report: job ${{together%%;*}}\"")?;
        writeln!(f, "  ;;")?;
        writeln!(f, "esac")
    }
}
