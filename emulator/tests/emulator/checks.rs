//! What the emulator notices, and what it lets pass; its arithmetic against definitions.

use std::path::Path;
use std::sync::OnceLock;

use half::{bf16, f16};
use kvsweep_emulator::{Card, Fault, Program};

use crate::support::{Random, cache, compiler, kernel_folder};

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    out: u64,
    input: u64,
    n: i32,
}

fn program() -> Option<&'static Program> {
    static PROGRAM: OnceLock<Option<Program>> = OnceLock::new();
    let compile = || {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator/faults.cu");
        Some(Program::compile(&compiler()?, &[source], &kernel_folder(), &cache()).unwrap())
    };
    PROGRAM.get_or_init(compile).as_ref()
}

/// Runs a kernel on 128 words of input, 128 of output and 256 of shared memory, under one of the four schedules.
fn run(program: &Program, kernel: &str, blocks: u32, n: i32, schedule: u64) -> Result<(), Fault> {
    let mut card = Card::new(program, schedule);
    let arguments =
        Arguments { out: card.output::<u32>(128), input: card.constant(&(0..128).collect::<Vec<u32>>()), n };
    card.launch(&format!("fault_{kernel}"), [blocks, 1, 1], 64, 1024, &arguments)
}

#[test]
fn what_is_wrong_is_noticed_under_every_schedule() {
    let Some(program) = program() else { return };
    let cases = [
        ("lanes_exchange", 1, 0, "race: ,reads what nobody wrote"),
        ("warps_exchange", 1, 0, "race: ,reads what nobody wrote"),
        ("warps_exchange", 1, 1, "race: ,reads what nobody wrote"),
        ("overwrite_what_is_read", 1, 0, "race: "),
        ("blocks_write_the_same", 2, 0, "race: two threads write"),
        ("read_beyond", 1, 65, "out of bounds"),
        ("read_beyond", 1, -1, "out of bounds"),
        ("read_beyond", 1, 1 << 20, "out of bounds"),
        ("write_beyond", 1, 65, "out of bounds"),
        ("write_shared_beyond", 1, 193, "out of bounds"),
        ("write_input", 1, 0, "writes what is read-only"),
        ("read_unwritten", 1, 0, "reads what nobody wrote"),
        ("read_unwritten_output", 1, 0, "reads what nobody wrote"),
        ("store_unaligned", 1, 1, "a store that is not aligned"),
        ("access_unaligned", 1, 1, "an access that is not aligned"),
        ("load_what_is_written", 1, 0, "a load past the caches of what this launch writes"),
        ("copy_touched", 1, 0, "touches the target of an asynchronous copy under way"),
        (
            "copy_of_another_thread",
            1,
            0,
            "race: ,touches the target of an asynchronous copy,reads what nobody wrote",
        ),
        ("copy_left", 1, 0, "ends with an asynchronous copy under way"),
        ("copy_past_the_end", 1, 32, "out of bounds"),
        ("lanes_diverge", 1, 0, "lanes of a warp at different instructions"),
        ("leave_before_barrier", 1, 0, "a barrier after threads ended,ends while other threads wait"),
        ("half_a_warp_leaves", 1, 0, "deadlock"),
        ("different_barriers", 1, 0, "threads of a block at different barriers"),
        ("beyond_local", 1, 4, "index beyond a local array"),
        ("overflow", 1, 1 << 16, "overflow of a product"),
    ];
    for (kernel, blocks, n, expected) in cases {
        for schedule in 0..4 {
            let fault = run(program, kernel, blocks, n, schedule).expect_err(kernel);
            let found = expected.split(',').any(|expected| fault.what.starts_with(expected));
            assert!(found, "{kernel} {n}, schedule {schedule}: {fault}");
            // A thread that did nothing but end has no place.
            let site = fault.site.as_ref().map(ToString::to_string);
            let named = site.is_none_or(|site| site.starts_with("faults.cu:"));
            assert!(named && (fault.site.is_some() || kernel == "leave_before_barrier"), "{kernel}: {fault}");
        }
    }
}

#[test]
fn a_fault_names_the_line_block_and_thread() {
    let Some(program) = program() else { return };
    let source = include_str!("faults.cu");
    let line = 1 + source.lines().position(|line| line.contains("void write_input(")).unwrap();
    let fault = run(program, "write_input", 1, 0, 3).unwrap_err();
    // The first launch of a card seeded with 3 is in order.
    let expected =
        format!("fault_write_input: writes what is read-only, block (0, 0, 0) thread 0, at faults.cu:{line}");
    assert_eq!(fault.to_string(), expected);
}

#[test]
fn what_is_right_passes_under_every_schedule() {
    let Some(program) = program() else { return };
    let cases = [
        ("lanes_exchange", 1, 1),
        ("lanes_exchange", 1, 2),
        ("warps_exchange", 1, 2),
        ("overwrite_what_is_read", 1, 1),
        ("blocks_write_their_own", 2, 0),
        ("read_beyond", 1, 64),
        ("write_beyond", 1, 64),
        ("write_shared_beyond", 1, 192),
        ("store_unaligned", 1, 4),
        ("access_unaligned", 1, 2),
        ("load_what_is_written", 1, 1),
        ("copy_touched", 1, 1),
        ("copy_of_another_thread", 1, 1),
        ("copy_past_the_end", 1, 31),
        ("beyond_local", 1, 3),
        ("overflow", 1, 1 << 15),
    ];
    for (kernel, blocks, n) in cases {
        for schedule in 0..4 {
            run(program, kernel, blocks, n, schedule)
                .unwrap_or_else(|fault| panic!("{n}, schedule {schedule}: {fault}"));
        }
    }
}

#[test]
fn what_was_never_written_cannot_be_read() {
    let Some(program) = program() else { return };
    let mut card = Card::new(program, 0);
    let arguments = Arguments { out: card.output::<u32>(65), input: 0, n: 0 };
    card.launch("fault_write_beyond", [1, 1, 1], 64, 0, &arguments).unwrap();
    assert_eq!(card.read::<u32>(arguments.out, 64), Ok(vec![1; 64]));
    let fault = card.read::<u32>(arguments.out, 65).unwrap_err();
    assert_eq!(fault.what, "4 of 260 bytes were never written");
    assert!(card.read::<u32>(arguments.out + 4, 65).is_err(), "beyond the end");
    // A second launch may write what the first one wrote.
    card.launch("fault_write_beyond", [1, 1, 1], 64, 0, &arguments).unwrap();
}

#[test]
fn a_local_that_nobody_set_is_no_plausible_number() {
    let Some(program) = program() else { return };
    let mut card = Card::new(program, 0);
    for (n, plausible) in [(0, 0), (4, 1)] {
        let arguments = Arguments { out: card.output::<u32>(64), input: 0, n };
        card.launch("fault_unset_local", [1, 1, 1], 64, 0, &arguments).unwrap();
        assert_eq!(card.read::<u32>(arguments.out, 64).unwrap(), [plausible; 64]);
    }
}

#[test]
fn a_wrong_launch_is_refused() {
    let Some(program) = program() else { return };
    let mut card = Card::new(program, 0);
    let mut what = |name, threads| card.launch(name, [1, 1, 1], threads, 0, &[0u64; 2]).unwrap_err().what;
    assert_eq!(what("absent", 64), "no such kernel");
    assert_eq!(what("fault_overflow", 64), "takes 24 bytes of arguments, got 16");
    let mut what = |name, threads| card.launch(name, [1, 1, 1], threads, 0, &[0u64; 3]).unwrap_err().what;
    assert_eq!(what("fault_overflow", 32), "has 64 threads a block, not 32");
}

/// Element (row, column) of A and of B, and where PTX's fragments have it: "Matrix Fragments for mma.m16n8k16 with
/// floating point type".
#[test]
fn a_product_takes_the_fragments_of_the_ptx_isa() {
    let Some(program) = program() else { return };
    for half in [false, true] {
        let round = |x: f32| if half { f16::from_f32(x).to_bits() } else { bf16::from_f32(x).to_bits() };
        let a = |row: usize, k: usize| ((row * 16 + k) * 37 % 64) as f32 / 8.0 - 4.0;
        let b = |k: usize, column: usize| ((k * 8 + column) * 53 % 64) as f32 / 16.0 - 2.0;
        let mut fragments = vec![0u32; 32 * 6];
        for lane in 0..32 {
            let (group, thread) = (lane / 4, lane % 4);
            let mut put = |word: usize, i: usize, x: f32| {
                fragments[lane * 6 + word] |= u32::from(round(x)) << (16 * (i % 2));
            };
            for i in 0..8 {
                let row = group + if matches!(i, 2 | 3 | 6 | 7) { 8 } else { 0 };
                put(i / 2, i, a(row, thread * 2 + i % 2 + if i >= 4 { 8 } else { 0 }));
            }
            for i in 0..4 {
                put(4 + i / 2, i, b(thread * 2 + i % 2 + if i >= 2 { 8 } else { 0 }, group));
            }
        }
        let mut card = Card::new(program, 2);
        let arguments =
            Arguments { out: card.output::<f32>(128), input: card.constant(&fragments), n: i32::from(half) };
        card.launch("fault_product", [1, 1, 1], 32, 0, &arguments).unwrap();
        for (at, d) in card.read::<f32>(arguments.out, 128).unwrap().into_iter().enumerate() {
            let (lane, i) = (at / 4, at % 4);
            let (row, column) = (lane / 4 + if i >= 2 { 8 } else { 0 }, lane % 4 * 2 + i % 2);
            let exact: f32 = (0..16).map(|k| a(row, k) * b(k, column)).sum();
            assert_eq!(d, exact, "row {row}, column {column}");
        }
        assert_eq!(card.counters().products, 1);
    }
}

#[test]
fn a_matrix_load_hands_out_rows_or_columns() {
    let Some(program) = program() else { return };
    // Element (row, column) of the four matrices is row * 8 + column, with 32 rows in all.
    let words: Vec<u32> = (0..128).map(|i| (2 * i) | ((2 * i + 1) << 16)).collect();
    for transposed in [false, true] {
        let mut card = Card::new(program, 1);
        let arguments = Arguments {
            out: card.output::<u32>(128),
            input: card.constant(&words),
            n: i32::from(transposed),
        };
        card.launch("fault_load_matrices", [1, 1, 1], 32, 512, &arguments).unwrap();
        for (at, word) in card.read::<u32>(arguments.out, 128).unwrap().into_iter().enumerate() {
            let (lane, matrix) = (at / 4, at % 4);
            let element = |i: usize| {
                let (row, column) = (lane / 4, lane % 4 * 2 + i);
                let (row, column) = if transposed { (column, row) } else { (row, column) };
                ((matrix * 8 + row) * 8 + column) as u32
            };
            assert_eq!(word, element(0) | element(1) << 16, "lane {lane}, matrix {matrix}");
        }
        assert_eq!(card.counters().bank_conflicts, 0, "rows of 16 bytes side by side");
    }
}

#[test]
fn halves_are_rounded_as_the_half_crate_rounds() {
    let Some(program) = program() else { return };
    for half in [false, true] {
        let mut card = Card::new(program, 0);
        let blocks = 1 << 10;
        let mut arguments = Arguments { out: card.output::<u32>(1 << 16), input: 0, n: i32::from(half) };
        card.launch("fault_round_trip", [blocks, 1, 1], 64, 0, &arguments).unwrap();
        let is_nan = |x: u16| if half { f16::from_bits(x).is_nan() } else { bf16::from_bits(x).is_nan() };
        for (bits, pair) in (0..=u16::MAX).zip(card.read::<u32>(arguments.out, 1 << 16).unwrap()) {
            for (bits, back) in [(bits, pair as u16), (bits ^ 0xffff, (pair >> 16) as u16)] {
                assert!(back == bits || is_nan(bits) && is_nan(back), "{bits:#x} {back:#x}");
            }
        }
        let mut random = Random::new(5);
        let mut numbers: Vec<f32> =
            (0..1 << 16).map(|i: u32| random.number() * 2f32.powi(i as i32 % 60 - 30)).collect();
        numbers[..4].copy_from_slice(&[65519.9, 65520.0, f32::INFINITY, 1e30]);
        arguments.input = card.constant(&numbers);
        arguments.out = card.output::<u32>(1 << 16);
        card.launch("fault_round_floats", [blocks, 1, 1], 64, 0, &arguments).unwrap();
        for (x, pair) in numbers.iter().zip(card.read::<u32>(arguments.out, 1 << 16).unwrap()) {
            let bits = if half { f16::from_f32(*x).to_bits() } else { bf16::from_f32(*x).to_bits() };
            assert_eq!(pair, u32::from(bits) * 0x1_0001, "{x}");
        }
    }
}
