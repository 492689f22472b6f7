//! The C++ compiler of this machine.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Flags of everything.
const COMMON: &[&str] = &["-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"];
/// The emulator itself is not instrumented.
const EMULATOR: &[&str] = &["-O3"];
/// Kernels call the emulator before every access. It needs no vectors: they would be split again.
const KERNEL: &[&str] = &[
    "-O1",
    "-g1",
    "-fsanitize=thread",
    "--param=tsan-instrument-func-entry-exit=0",
    "-fsanitize=bounds,shift,signed-integer-overflow,integer-divide-by-zero",
    "-ftrivial-auto-var-init=pattern",
    "-fno-tree-vectorize",
    "-fno-tree-slp-vectorize",
    "-fno-tree-loop-distribute-patterns",
    "-xc++",
];

/// Why there is no library.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler did not start, or a file could not be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The compiler refused a source.
    #[error("`{command}` failed:\n{messages}")]
    Refused {
        /// What was run.
        command: String,
        /// What it said.
        messages: String,
    },
    /// The library does not load.
    #[error("{0}")]
    Load(#[from] libloading::Error),
}

/// A C++ compiler: GCC 12 or newer.
#[derive(Clone, Debug)]
pub struct Compiler {
    program: PathBuf,
    version: String,
}

impl Compiler {
    /// `g++`, if there is one.
    #[must_use]
    pub fn find() -> Option<Self> {
        let program = PathBuf::from("g++");
        let output = Command::new(&program).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned();
        output.status.success().then_some(Self { program, version })
    }

    /// Compiles kernels and the emulator into one shared library in `folder`, on as many threads as there are
    /// processors. What was compiled before from the same text is used again.
    pub(crate) fn library(
        &self,
        kernels: &[PathBuf],
        include: &Path,
        folder: &Path,
    ) -> Result<PathBuf, CompileError> {
        fs_err::create_dir_all(folder)?;
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("cpp");
        let emulator = files(&own, "cpp")?;
        let headers: Vec<_> = files(&own, "h")?.into_iter().chain(files(include, "cuh")?).collect();
        let units: Vec<Unit> = emulator
            .iter()
            .map(|source| Unit { source, flags: EMULATOR })
            .chain(kernels.iter().map(|source| Unit { source, flags: KERNEL }))
            .collect();
        let (next, objects, failed) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()), Mutex::new(None));
        let work = || {
            while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.object(unit, &[&own, include], &headers, folder) {
                    Ok(object) => {
                        objects.lock().unwrap_or_else(PoisonError::into_inner).insert(object);
                    }
                    Err(error) => {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
            work();
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let objects = objects.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut key = DefaultHasher::new();
        objects.hash(&mut key);
        let library = folder.join(format!("{:016x}.so", key.finish()));
        made_once(&library, |part| {
            self.run(
                Command::new(&self.program)
                    .args(["-shared", "-Wl,-Bsymbolic", "-o"])
                    .arg(part)
                    .args(&objects),
            )
        })?;
        Ok(library)
    }

    fn object(
        &self,
        unit: &Unit<'_>,
        include: &[&Path],
        headers: &[PathBuf],
        folder: &Path,
    ) -> Result<PathBuf, CompileError> {
        let mut key = DefaultHasher::new();
        (&self.version, COMMON, unit.flags, unit.source).hash(&mut key);
        for file in headers.iter().chain([unit.source]) {
            fs_err::read(file)?.hash(&mut key);
        }
        let name = unit.source.file_name().unwrap_or_default().to_string_lossy();
        let object = folder.join(format!("{name}.{:016x}.o", key.finish()));
        made_once(&object, |part| {
            let mut command = Command::new(&self.program);
            command.args(COMMON).args(unit.flags);
            for folder in include {
                command.arg("-I").arg(folder);
            }
            self.run(command.arg("-c").arg(unit.source).arg("-o").arg(part))
        })?;
        Ok(object)
    }

    fn run(&self, command: &mut Command) -> Result<(), CompileError> {
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(CompileError::Refused { command: format!("{command:?}"), messages })
    }
}

/// A source and the flags that it is compiled with.
struct Unit<'a> {
    source: &'a PathBuf,
    flags: &'static [&'static str],
}

/// The files of a folder that end so, in order.
fn files(folder: &Path, extension: &str) -> Result<BTreeSet<PathBuf>, CompileError> {
    let entries = fs_err::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let paths = entries.into_iter().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect())
}

/// Makes a file unless it is there, whole or not at all, whoever else makes it at the same time.
fn made_once(path: &Path, make: impl FnOnce(&Path) -> Result<(), CompileError>) -> Result<(), CompileError> {
    if path.exists() {
        return Ok(());
    }
    let part = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?.into_temp_path();
    make(&part)?;
    part.persist(path).map_err(|error| error.error)?;
    Ok(())
}
