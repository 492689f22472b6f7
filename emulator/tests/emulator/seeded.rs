//! Bugs put into the kernels one at a time: the checks find each of them. Such a test of the tests begins with the
//! kernels as they are, which must pass.

use std::path::PathBuf;

use kvsweep_emulator::{Compiler, Program};

use crate::cuda::launcher::Element;
use crate::kernels::{argmax, column_sums, prefill, ragged_decode, window_moments};
use crate::support::{Case, Checked, cache, compiler, instance, kernel_folder};

/// Cases that a bug has to show in.
const SEEDS: std::ops::Range<u64> = 200..212;

/// The head size that mutants are compiled for.
const HEAD_DIM: usize = 80;

struct Bug {
    what: &'static str,
    /// The kernel that is checked.
    kernel: &'static str,
    check: fn(Case<'_>) -> Checked,
    /// The file that the bug is in, the right text, and the wrong one.
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
    /// What the check has to say: one of these, between bars.
    found: &'static str,
}

const fn bug(
    kernel: &'static str,
    check: fn(Case<'_>) -> Checked,
    what: &'static str,
    [file, right, wrong, found]: [&'static str; 4],
) -> Bug {
    Bug { what, kernel, check, file, right, wrong, found }
}

const BUGS: &[Bug] = &[
    bug(
        "prefill.cu",
        prefill::check,
        "the causal boundary lies one too far",
        ["prefill.cu", "key > row ||", "key > row + 1 ||", "output:"],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "the window is one too long",
        ["prefill.cu", "key <= row - a.window)", "key < row - a.window)", "output:"],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "a row that has seen nothing subtracts infinities",
        ["prefill.cu", "m == -KV_INFINITY ? 0.f : m * a.scale_log2", "m * a.scale_log2", "output:"],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "no rescaling when the maximum grows",
        ["prefill.cu", "fast_exp2(top[h][r] * a.scale_log2 - shift);", "1.f;", "output:"],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "the maximum of another row",
        ["prefill.cu", "m = larger(m, s[h][i][e]);", "m = larger(m, s[h][i][e ^ 2]);", "output:"],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "one row of values too many",
        [
            "prefill.cu",
            "size_t(at) * D, D, end - at);",
            "size_t(at) * D, D, end - at + 1);",
            "out of bounds|output:",
        ],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "the barrier before the wait",
        [
            "prefill.cu",
            "wait_copies<1>();\n        __syncthreads();  // this tile's values",
            "__syncthreads();\n        wait_copies<1>();  // this tile's values",
            "asynchronous copy under way",
        ],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "a barrier in some warps only",
        [
            "prefill.cu",
            "__syncthreads();  // nobody reads these values",
            "if (warp > 0) __syncthreads();  // nobody reads these values",
            "race: writes what another thread reads|threads of a block at different barriers",
        ],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "rows beyond the end are stored",
        ["prefill.cu", "if (row >= rows) continue;", "if (row >= ROWS) continue;", "out of bounds"],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "log-sums are forgotten",
        ["prefill.cu", "if (t == 0)", "if (t == 4)", "never written"],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "an index beyond a local array",
        [
            "prefill.cu",
            "o[h][i][2 * r] *= shrink;",
            "o[h][i + 1][2 * r] *= shrink;",
            "index beyond a local array",
        ],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "keys' fragments in the wrong order",
        ["tile.cuh", "q[h], k[0], k[1]);", "q[h], k[0], k[2]);", "output:"],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "queries' registers swapped",
        [
            "tile.cuh",
            "(h * 16 + lane % 16) * ROW<D> + d + lane / 16 * 8",
            "(h * 16 + lane % 8 + lane / 16 * 8) * ROW<D> + d + lane / 8 % 2 * 8",
            "output:",
        ],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "no zeros beyond the end of a tile",
        ["tile.cuh", "there = row < valid;", "there = row < valid || true;", "out of bounds"],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "rows that share banks",
        ["tile.cuh", "ROW = D + 8;", "ROW = D;", "bank conflicts"],
    ),
    bug(
        "prefill.cu",
        prefill::check,
        "rows that are not aligned",
        ["tile.cuh", "ROW = D + 8;", "ROW = D + 4;", "not aligned"],
    ),
    bug(
        "column_sums.cu",
        column_sums::check,
        "one warp's sums are forgotten",
        ["column_sums.cu", "if (g == 0) parts", "if (g == 0 && warp < 3) parts", "reads what nobody wrote"],
    ),
    bug(
        "column_sums.cu",
        column_sums::check,
        "the wait is one group too late",
        ["column_sums.cu", "wait_copies<1>();", "wait_copies<2>();", "asynchronous copy under way"],
    ),
    bug(
        "column_sums.cu",
        column_sums::check,
        "a chunk replaces the sums before it",
        ["column_sums.cu", "a.accumulate ? *out + sum : sum", "sum", "sums:"],
    ),
    bug(
        "window_moments.cu",
        window_moments::check,
        "the variance's divisor is the number of rows",
        ["window_moments.cu", "most(1, rows - 1)", "rows", "variances:"],
    ),
    bug(
        "ragged_decode.cu",
        ragged_decode::check,
        "the last piece is one entry too long",
        ["ragged_decode.cu", "e % 2 >= len)", "e % 2 > len)", "output:"],
    ),
    bug(
        "ragged_decode.cu",
        ragged_decode::check,
        "an entry beyond the list is read, and hidden afterwards",
        [
            "ragged_decode.cu",
            "least(at + n * 8 + g, len - 1)",
            "least(at + n * 8 + g, len)",
            "out of bounds|output:",
        ],
    ),
    bug(
        "ragged_decode.cu",
        ragged_decode::check,
        "values' columns in another order than the output's",
        ["ragged_decode.cu", "+ i % 2] = o[i]", "+ 1 - i % 2] = o[i]", "output:"],
    ),
    bug(
        "merge.cu",
        ragged_decode::check,
        "the maximum starts at zero",
        ["merge.cu", "float m = -KV_INFINITY;", "float m = 0.f;", "output:"],
    ),
    bug(
        "argmax.cu",
        argmax::check,
        "the last of the largest",
        ["argmax.cu", "b.index < a.index", "b.index > a.index", "is not the first of the largest"],
    ),
];

/// The kernels that a check launches, with one instance each, from a folder of their own.
fn compile(compiler: &Compiler, name: &str, bug: &Bug, seeded: bool) -> Program {
    let folder = cache().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.join(file), text).unwrap();
    let read = |file: &str| std::fs::read_to_string(kernel_folder().join(file)).unwrap();
    write("device.cuh", &read("device.cuh"));
    write("tile.cuh", &read("tile.cuh"));
    let instances = format!(
        "#define KV_EACH_ELEMENT_AND_HEAD_SIZE(INSTANCE) INSTANCE(Bf16, bf16, {HEAD_DIM})\n\
         #define KV_EACH_ELEMENT(INSTANCE) INSTANCE(Bf16, bf16)\n"
    );
    write("instances.cuh", &instances);
    let kernels = match bug.kernel {
        "ragged_decode.cu" | "merge.cu" => vec!["ragged_decode.cu", "merge.cu"],
        kernel => vec![kernel],
    };
    for kernel in &kernels {
        write(kernel, &read(kernel));
    }
    if seeded {
        let right = read(bug.file);
        assert_eq!(right.matches(bug.right).count(), 1, "{}: `{}`", bug.file, bug.right);
        write(bug.file, &right.replace(bug.right, bug.wrong));
    }
    let sources: Vec<PathBuf> = kernels.iter().map(|kernel| folder.join(kernel)).collect();
    Program::compile(compiler, &sources, &folder, &cache()).unwrap()
}

/// What the check says in the first case that shows it.
fn first_wrong(program: &Program, bug: &Bug) -> Option<String> {
    let instance = instance(Element::Bf16, HEAD_DIM);
    SEEDS.filter_map(|seed| (bug.check)(Case { program, instance, seed, muted: None }).err()).next()
}

#[test]
fn every_seeded_bug_is_found() {
    let Some(compiler) = compiler() else { return };
    let mut missed = Vec::new();
    for (index, bug) in BUGS.iter().enumerate() {
        let program = compile(&compiler, &format!("seeded-{index}"), bug, true);
        match first_wrong(&program, bug) {
            Some(wrong) if bug.found.split('|').any(|found| wrong.contains(found)) => {
                println!("{}: {wrong}", bug.what)
            }
            other => missed.push((bug.what, other)),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn without_a_bug_nothing_is_found() {
    let Some(compiler) = compiler() else { return };
    let mut seen = Vec::new();
    for (index, bug) in BUGS.iter().enumerate() {
        if !seen.contains(&bug.kernel) {
            seen.push(bug.kernel);
            let program = compile(&compiler, &format!("honest-{index}"), bug, false);
            assert_eq!(first_wrong(&program, bug), None, "{}", bug.kernel);
        }
    }
}
