//! Kernels, compiled and loaded.

use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::compiler::{CompileError, Compiler};
use crate::counters::Counters;

/// What a kernel is called by: `emulator::Kernel` of `cpp/cuda.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    entry: *const c_void,
    pub(crate) argument_bytes: usize,
    pub(crate) threads: u32,
}

/// The functions of `cpp/interface.cpp`.
pub(crate) struct Interface {
    pub(crate) new: unsafe extern "C" fn() -> *mut c_void,
    pub(crate) free: unsafe extern "C" fn(*mut c_void),
    pub(crate) allocate: unsafe extern "C" fn(*mut c_void, usize, u32) -> *mut c_void,
    pub(crate) write: unsafe extern "C" fn(*mut c_void, u64, *const c_void, usize) -> bool,
    pub(crate) read: unsafe extern "C" fn(*mut c_void, *mut c_void, u64, usize) -> usize,
    pub(crate) release: unsafe extern "C" fn(*mut c_void, u64),
    pub(crate) clear: unsafe extern "C" fn(*mut c_void),
    pub(crate) launch:
        unsafe extern "C" fn(*mut c_void, *const Kernel, *const c_void, *const u32, usize, u64) -> bool,
    pub(crate) fault: unsafe extern "C" fn(*mut c_void) -> *const c_char,
    pub(crate) fault_place: unsafe extern "C" fn(*mut c_void, *mut *const c_char, *mut u32, *mut usize),
    pub(crate) counters: unsafe extern "C" fn(*mut c_void, *mut Counters),
    pub(crate) mute: unsafe extern "C" fn(*mut c_void, *const c_char, u32),
    pub(crate) synchronisation:
        unsafe extern "C" fn(*mut c_void, usize, *mut *const c_char, *mut u32) -> bool,
}

/// Kernels and the emulator in one loaded library.
pub struct Program {
    pub(crate) interface: Interface,
    pub(crate) path: PathBuf,
    library: Library,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Program {
    /// Compiles kernels, which find their headers in `include`, and loads them. `folder` keeps what was compiled.
    ///
    /// # Errors
    /// A source that does not compile (warnings are errors), a folder that cannot be written, a library that does not
    /// load.
    pub fn compile(
        compiler: &Compiler,
        kernels: &[PathBuf],
        include: &Path,
        folder: &Path,
    ) -> Result<Self, CompileError> {
        let path = compiler.library(kernels, include, folder)?;
        // SAFETY: The library's initialisers only register the instrumentation, which does nothing outside a launch.
        let library = unsafe { Library::new(&path)? };
        // SAFETY: The types are those of `cpp/interface.cpp`, which this crate compiled. The functions live as long
        // as `library`, which stands beside them.
        let interface = unsafe {
            Interface {
                new: *library.get(b"emulator_new\0")?,
                free: *library.get(b"emulator_free\0")?,
                allocate: *library.get(b"emulator_allocate\0")?,
                write: *library.get(b"emulator_write\0")?,
                read: *library.get(b"emulator_read\0")?,
                release: *library.get(b"emulator_release\0")?,
                clear: *library.get(b"emulator_clear\0")?,
                launch: *library.get(b"emulator_launch\0")?,
                fault: *library.get(b"emulator_fault\0")?,
                fault_place: *library.get(b"emulator_fault_place\0")?,
                counters: *library.get(b"emulator_counters\0")?,
                mute: *library.get(b"emulator_mute\0")?,
                synchronisation: *library.get(b"emulator_synchronisation\0")?,
            }
        };
        Ok(Self { interface, path, library })
    }

    /// The kernel of that name.
    pub(crate) fn kernel(&self, name: &str) -> Option<&Kernel> {
        // SAFETY: `KV_KERNEL` defines the symbol as an `emulator::Kernel`; it lives as long as the library.
        unsafe { self.library.get::<*const Kernel>(name).ok()?.as_ref() }
    }
}
