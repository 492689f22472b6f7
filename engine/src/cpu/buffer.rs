//! Large zeroed memory in huge pages where the system grants them: weights and caches are streamed once a step, and
//! with 4 KiB pages the address translation costs up to a fifth of that.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// From this size on, in bytes, memory is mapped for itself.
const HUGE: usize = 2 << 20;

/// A fixed number of floats, zero at first.
#[derive(Debug)]
pub(crate) enum Buffer {
    /// From the allocator.
    Heap(Vec<f32>),
    /// Pages of its own.
    Pages(MmapMut),
}

impl Buffer {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let bytes = len * size_of::<f32>();
        if bytes >= HUGE
            && let Ok(map) = MmapMut::map_anon(bytes)
        {
            // A refusal leaves the pages small.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Self::Pages(map);
        }
        Self::Heap(vec![0.0; len])
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Self::Heap(floats) => floats,
            // SAFETY: a mapping starts at a page, any bytes are floats, and the length is rounded down.
            Self::Pages(map) => unsafe {
                std::slice::from_raw_parts(map.as_ptr().cast(), map.len() / size_of::<f32>())
            },
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Heap(floats) => floats,
            // SAFETY: as above, and the mapping is borrowed mutably.
            Self::Pages(map) => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / size_of::<f32>())
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
