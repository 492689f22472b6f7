//! What kernels did.

/// What launches did, summed over all of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Tensor core products of 16 x 8 x 16.
    pub products: u64,
    /// Loads of four matrices of 8 x 8 from shared memory.
    pub matrix_loads: u64,
    /// Rows of such a matrix that share a bank with another one.
    pub bank_conflicts: u64,
    /// Asynchronous copies of 16 bytes.
    pub copies: u64,
    /// Threads that arrived at a barrier of their block.
    pub barriers: u64,
    /// Bytes read from device memory.
    pub read_bytes: u64,
    /// Bytes written to device memory.
    pub written_bytes: u64,
}
