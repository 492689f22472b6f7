//! Large zeroed memory in huge pages where the system grants them: weights and caches are streamed once a step, and
//! with 4 KiB pages the address translation costs up to a fifth of that.

use std::ops::{Deref, DerefMut};

use half::{bf16, f16};
use memmap2::MmapMut;

/// From this size on, in bytes, memory is mapped for itself.
const HUGE: usize = 2 << 20;

/// A type whose every bit pattern is a value, and whose zero is all bits zero.
///
/// # Safety
/// Both hold, and its alignment is at most a page.
pub(crate) unsafe trait Plain: Copy + Default + Send + Sync {}

// SAFETY: IEEE 754 numbers.
unsafe impl Plain for f32 {}
// SAFETY: IEEE 754 numbers.
unsafe impl Plain for f16 {}
// SAFETY: the upper half of IEEE 754 numbers.
unsafe impl Plain for bf16 {}

/// A fixed number of numbers, zero at first.
#[derive(Debug)]
pub(crate) enum Buffer<T> {
    /// From the allocator.
    Heap(Vec<T>),
    /// Pages of its own.
    Pages(MmapMut),
}

impl<T: Plain> Buffer<T> {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        if bytes >= HUGE
            && let Ok(map) = MmapMut::map_anon(bytes)
        {
            // A refusal leaves the pages small.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Self::Pages(map);
        }
        Self::Heap(vec![T::default(); len])
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Self::Heap(numbers) => numbers,
            // SAFETY: a mapping starts at a page, any bytes are plain numbers, and the length is rounded down.
            Self::Pages(map) => unsafe {
                std::slice::from_raw_parts(map.as_ptr().cast(), map.len() / size_of::<T>())
            },
        }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Heap(numbers) => numbers,
            // SAFETY: as above, and the mapping is borrowed mutably.
            Self::Pages(map) => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / size_of::<T>())
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_zeroed_and_writable() {
        for len in [0, 1, 1000, HUGE / 4, HUGE / 4 + 7, 3 * HUGE] {
            let mut buffer = Buffer::zeros(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&x| x == 0.0));
            buffer.fill(2.0);
            assert!(buffer.iter().all(|&x| x == 2.0));
        }
    }
}
