//! Registers, shared memory and spills of every kernel, as NVIDIA's assembler counts them, against the committed table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cuda::{
    kernels as arguments,
    launcher::{Arguments, Geometry, Instance},
};
use crate::support::{instances, kernel_folder, kernel_sources};

/// The release that the table is of; others count differently.
const RELEASE: &str = "V13.0.88";
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_89", "sm_90"];
/// Shared memory that a block can have on the smallest of them, sm_89.
const SHARED_LIMIT: usize = 99 << 10;

/// `nvcc` of this release: `NVCC`, or the one on the path. CI asks for it where it could install it.
fn nvcc() -> Option<PathBuf> {
    let nvcc = PathBuf::from(std::env::var_os("NVCC").unwrap_or_else(|| "nvcc".into()));
    let version = Command::new(&nvcc).arg("--version").output();
    let right = version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(RELEASE));
    if !right {
        assert!(std::env::var_os("KVSWEEP_REQUIRE_NVCC").is_none(), "{} is not {RELEASE}", nvcc.display());
        eprintln!("skipped: no nvcc {RELEASE} on this machine (docs/kernels.md says how to get it)");
    }
    right.then_some(nvcc)
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {messages}");
    messages
}

/// Registers, and bytes of spills, of a kernel on one architecture.
type Figures = (u32, u32);

/// The figures in what `ptxas -v` says, by kernel.
fn figures(messages: &str) -> BTreeMap<String, Figures> {
    let number = |text: &str, before: &str, after: &str| -> u32 {
        let rest = text.split_once(before).unwrap().1;
        rest.split_once(after).unwrap().0.trim().parse().unwrap()
    };
    let entries = messages.split("Compiling entry function '").skip(1);
    entries
        .map(|entry| {
            let name = entry.split('\'').next().unwrap().to_owned();
            let stores = number(entry, "bytes stack frame,", " bytes spill stores");
            let loads = number(entry, "bytes spill stores,", " bytes spill loads");
            (name, (number(entry, "Used ", " registers"), stores + loads))
        })
        .collect()
}

/// Bytes of dynamic shared memory that each kernel is launched with.
fn shared_memory() -> BTreeMap<String, usize> {
    fn geometry<A: Arguments>(instance: Instance) -> Geometry {
        // SAFETY: Arguments are numbers, and zero is one.
        let arguments: A = unsafe { std::mem::zeroed() };
        arguments.geometry(instance)
    }
    let all: [fn(Instance) -> Geometry; 12] = [
        geometry::<arguments::Prefill>,
        geometry::<arguments::ColumnSums>,
        geometry::<arguments::WindowMoments>,
        geometry::<arguments::KeyNorms>,
        geometry::<arguments::Gather>,
        geometry::<arguments::RaggedDecode>,
        geometry::<arguments::Merge>,
        geometry::<arguments::Embedding>,
        geometry::<arguments::AddNorm>,
        geometry::<arguments::Rope>,
        geometry::<arguments::SiluTimesUp>,
        geometry::<arguments::Argmax>,
    ];
    let geometries = instances().flat_map(|instance| all.map(|geometry| geometry(instance)));
    geometries.map(|geometry| (geometry.symbol.to_string(), geometry.shared_bytes)).collect()
}

/// The PTX of a source, made once for all architectures: that of compute_80.
fn ptx(nvcc: &Path, source: &Path, folder: &Path) -> PathBuf {
    let ptx = folder.join(source.file_name().unwrap()).with_extension("ptx");
    run(Command::new(nvcc)
        .args(["-std=c++17", "-O3", "-ptx", "-arch=compute_80", "-o"])
        .arg(&ptx)
        .arg(source));
    ptx
}

#[test]
fn registers_and_spills_are_those_of_the_table() {
    let Some(nvcc) = nvcc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ptxas = nvcc.with_file_name("ptxas");
    let mut found: BTreeMap<String, Vec<Figures>> = BTreeMap::new();
    for source in kernel_sources() {
        let ptx = ptx(&nvcc, &source, folder.path());
        let text = std::fs::read_to_string(&ptx).unwrap();
        let generic = text.lines().map(str::trim).find(|line| {
            let instruction = line.split_whitespace().next().unwrap_or_default();
            let mut parts = instruction.split('.');
            matches!(parts.next(), Some("ld" | "st")) && parts.next().is_some_and(|part| part.len() < 4)
        });
        assert_eq!(
            generic,
            None,
            "{}: a load or store that does not know its memory is slow",
            source.display()
        );
        for architecture in ARCHITECTURES {
            let mut command = Command::new(&ptxas);
            command.args(["-v", "-arch", architecture, "-o"]).arg(folder.path().join("cubin")).arg(&ptx);
            for (kernel, figures) in figures(&run(&mut command)) {
                found.entry(kernel).or_default().push(figures);
            }
        }
    }
    let shared = shared_memory();
    assert!(
        found.keys().eq(shared.keys()),
        "kernels of the sources: {:?}, of the host: {shared:?}",
        found.keys()
    );
    let mut table = String::from("kernel,shared_bytes");
    for architecture in ARCHITECTURES {
        write!(table, ",{architecture}_registers,{architecture}_spilled_bytes").unwrap();
    }
    table.push('\n');
    for (kernel, figures) in &found {
        let bytes = shared[kernel];
        assert!(bytes <= SHARED_LIMIT, "{kernel} needs {bytes} bytes of shared memory");
        write!(table, "{kernel},{bytes}").unwrap();
        for (registers, spilled) in figures {
            write!(table, ",{registers},{spilled}").unwrap();
        }
        table.push('\n');
    }
    let path = kernel_folder().join("ptxas.csv");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, table, "renew it with UPDATE_DOCS=1, and look at what changed");
}
