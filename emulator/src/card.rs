//! An emulated card: its memory, and launches.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt::{Display, Formatter};
use std::process::Command;

use crate::counters::Counters;
use crate::program::Program;

/// Numbers without padding or invalid bits, which may be copied byte by byte.
///
/// # Safety
/// Every pattern of bits is a value, and every byte is one of the value's.
pub unsafe trait Plain: Copy {}
// SAFETY: Every pattern of bits is a number.
unsafe impl Plain for u8 {}
// SAFETY: As above.
unsafe impl Plain for u16 {}
// SAFETY: As above.
unsafe impl Plain for u32 {}
// SAFETY: As above.
unsafe impl Plain for i32 {}
// SAFETY: As above.
unsafe impl Plain for f32 {}
// SAFETY: As above, and an array has no padding.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// `emulator::Content` of `cpp/memory.h`.
#[derive(Clone, Copy)]
enum Content {
    Constant,
    Writable,
    Sparse,
}

/// What a kernel, or its caller, did wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kernel}: {what}{}", site.as_ref().map(|site| format!(", at {site}")).unwrap_or_default())]
pub struct Fault {
    /// The kernel's name.
    pub kernel: String,
    /// In words, with the block and thread.
    pub what: String,
    /// Where in the sources.
    pub site: Option<Site>,
}

/// A line of a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// The file's name, as the compiler was given it.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
}

impl Display for Site {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let name = self.file.rsplit('/').next().unwrap_or(&self.file);
        write!(f, "{name}:{}", self.line)
    }
}

/// A card of its own: memory, and the launches on it. Schedules differ from launch to launch; `seed` chooses them.
#[derive(Debug)]
pub struct Card<'p> {
    program: &'p Program,
    machine: *mut c_void,
    seed: u64,
}

impl Drop for Card<'_> {
    fn drop(&mut self) {
        // SAFETY: `machine` came from `new`, and is freed once.
        unsafe { (self.program.interface.free)(self.machine) }
    }
}

impl<'p> Card<'p> {
    /// A card that runs the kernels of `program`.
    #[must_use]
    pub fn new(program: &'p Program, seed: u64) -> Self {
        // SAFETY: The function takes nothing.
        let machine = unsafe { (program.interface.new)() };
        Self { program, machine, seed }
    }

    /// Memory that kernels may only read, with these values. Returns its address.
    #[must_use]
    pub fn constant<T: Plain>(&mut self, values: &[T]) -> u64 {
        let at = self.allocate::<T>(values.len(), Content::Constant);
        self.write(at, values);
        at
    }

    /// Memory that nobody has written yet, for `len` values.
    #[must_use]
    pub fn output<T: Plain>(&mut self, len: usize) -> u64 {
        self.allocate::<T>(len, Content::Writable)
    }

    /// Memory of zeros that kernels may only read: only pages that [`Card::write`] writes take room.
    #[must_use]
    pub fn sparse<T: Plain>(&mut self, len: usize) -> u64 {
        self.allocate::<T>(len, Content::Sparse)
    }

    /// Memory that kernels may read and write, with these values.
    #[must_use]
    pub fn state<T: Plain>(&mut self, values: &[T]) -> u64 {
        let at = self.allocate::<T>(values.len(), Content::Writable);
        self.write(at, values);
        at
    }

    fn allocate<T: Plain>(&mut self, len: usize, content: Content) -> u64 {
        // SAFETY: `machine` is alive.
        unsafe {
            (self.program.interface.allocate)(self.machine, len * size_of::<T>(), content as u32) as u64
        }
    }

    /// Overwrites memory from `at` on. Returns whether all of it lies in one allocation.
    pub fn write<T: Plain>(&mut self, at: u64, values: &[T]) -> bool {
        // SAFETY: `values` holds that many bytes; the emulator checks the target.
        values.is_empty()
            || unsafe {
                (self.program.interface.write)(self.machine, at, values.as_ptr().cast(), size_of_val(values))
            }
    }

    /// Reads values back.
    ///
    /// # Errors
    /// Where some of them were never written, or lie outside of memory.
    pub fn read<T: Plain + Default>(&self, at: u64, len: usize) -> Result<Vec<T>, Fault> {
        let mut values = vec![T::default(); len];
        let bytes = size_of_val(values.as_slice());
        let unwritten = if len == 0 {
            0
        } else {
            // SAFETY: `values` has room for that many bytes; any bytes are values.
            unsafe { (self.program.interface.read)(self.machine, values.as_mut_ptr().cast(), at, bytes) }
        };
        if unwritten == 0 {
            return Ok(values);
        }
        let what = format!("{unwritten} of {bytes} bytes were never written");
        Err(Fault { kernel: "read".into(), what, site: None })
    }

    /// Frees the memory at an address that was handed out.
    pub fn release(&mut self, at: u64) {
        // SAFETY: `machine` is alive; an address that is not the start of memory frees nothing.
        unsafe { (self.program.interface.release)(self.machine, at) }
    }

    /// Frees all memory.
    pub fn clear(&mut self) {
        // SAFETY: `machine` is alive.
        unsafe { (self.program.interface.clear)(self.machine) }
    }

    /// Runs a kernel on `grid` blocks with that many bytes of shared memory. `threads` is what the caller believes a
    /// block to have.
    ///
    /// # Errors
    /// A kernel that does not exist, or has other arguments or threads; anything that the kernel does wrong.
    pub fn launch<A: Copy>(
        &mut self,
        name: &str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: usize,
        arguments: &A,
    ) -> Result<(), Fault> {
        let fault = |what: String, site| Err(Fault { kernel: name.to_owned(), what, site });
        let Some(kernel) = self.program.kernel(name) else {
            return fault("no such kernel".into(), None);
        };
        let (size, expected) = (size_of::<A>(), kernel.argument_bytes);
        if size != expected {
            return fault(format!("takes {expected} bytes of arguments, got {size}"), None);
        }
        if threads != kernel.threads {
            return fault(format!("has {} threads a block, not {threads}", kernel.threads), None);
        }
        self.seed += 1;
        let arguments = std::ptr::from_ref(arguments).cast();
        // SAFETY: The arguments have the kernel's size. What the kernel does with the addresses in them is checked
        // before it happens.
        let fine = unsafe {
            (self.program.interface.launch)(
                self.machine,
                kernel,
                arguments,
                grid.as_ptr(),
                shared_bytes,
                self.seed,
            )
        };
        if fine {
            return Ok(());
        }
        // SAFETY: The emulator keeps the text until the next launch.
        let what = unsafe { CStr::from_ptr((self.program.interface.fault)(self.machine)) };
        fault(what.to_string_lossy().into_owned(), self.fault_site())
    }

    fn fault_site(&self) -> Option<Site> {
        let (mut file, mut line, mut offset) = (std::ptr::null(), 0, 0);
        // SAFETY: The three outlive the call.
        unsafe {
            (self.program.interface.fault_place)(self.machine, &raw mut file, &raw mut line, &raw mut offset);
        }
        if line > 0 {
            return site(file, line);
        }
        let mut command = Command::new("addr2line");
        command.arg("-e").arg(&self.program.path).arg(format!("{offset:#x}"));
        let output = command.output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (file, rest) = text.trim().rsplit_once(':')?;
        let line = rest.split(' ').next()?.parse().ok()?;
        (line > 0).then(|| Site { file: file.to_owned(), line })
    }

    /// What the launches of this card did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        // SAFETY: The layout is that of `emulator::Counters`.
        unsafe { (self.program.interface.counters)(self.machine, &raw mut counters) }
        counters
    }

    /// From now on the barrier, wait or commit at this site does nothing: would anybody notice?
    pub fn mute(&mut self, site: &Site) {
        let file = CString::new(site.file.as_str()).unwrap_or_default();
        // SAFETY: The emulator copies the name.
        unsafe { (self.program.interface.mute)(self.machine, file.as_ptr(), site.line) }
    }

    /// The barriers, waits and commits that launches of this card came to.
    #[must_use]
    pub fn synchronisations(&self) -> Vec<Site> {
        let one = |index| {
            let (mut file, mut line) = (std::ptr::null(), 0);
            // SAFETY: The two outlive the call.
            let there = unsafe {
                (self.program.interface.synchronisation)(self.machine, index, &raw mut file, &raw mut line)
            };
            there.then(|| site(file, line)).flatten()
        };
        (0..).map_while(one).collect()
    }
}

/// A site as the emulator names it.
fn site(file: *const c_char, line: u32) -> Option<Site> {
    // SAFETY: The compiler put the name into the library, which is loaded as long as there is a card.
    let file = unsafe { file.as_ref().map(|_| CStr::from_ptr(file)) }?;
    Some(Site { file: file.to_string_lossy().into_owned(), line })
}
