//! What runs kernels.

/// An address in a card's memory.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    /// Where a kernel's argument may be left out.
    pub const NONE: Self = Self(0);

    /// The address of the `index`-th value of `bytes` each from here.
    #[must_use]
    pub fn at(self, index: usize, bytes: usize) -> Self {
        Self(self.0 + (index * bytes) as u64)
    }
}

/// The two types that K, V, weights and activations may have. Everything is added up in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Element {
    /// Bytes of one.
    pub const BYTES: usize = 2;

    fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// A head size that there are kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadDim(usize);

impl HeadDim {
    /// All of them.
    pub const ALL: [Self; 6] = [Self(32), Self(64), Self(80), Self(96), Self(128), Self(256)];

    /// None where no kernel has that size.
    #[must_use]
    pub fn new(size: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.0 == size)
    }

    /// Elements of a head.
    #[must_use]
    pub fn get(self) -> usize {
        self.0
    }
}

/// Which instance of every kernel a model needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    /// The type of K, V, weights and activations.
    pub element: Element,
    /// Elements of a head.
    pub head_dim: HeadDim,
}

/// The name that a kernel is found by, such as `prefill_bf16_128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Symbol {
    kernel: &'static str,
    element: Option<Element>,
    head_dim: Option<HeadDim>,
}

impl Symbol {
    pub(super) fn new(kernel: &'static str) -> Self {
        Self { kernel, element: None, head_dim: None }
    }

    pub(super) fn of(self, element: Element) -> Self {
        Self { element: Some(element), ..self }
    }

    pub(super) fn sized(self, head_dim: HeadDim) -> Self {
        Self { head_dim: Some(head_dim), ..self }
    }
}

impl std::fmt::Display for Symbol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kernel)?;
        if let Some(element) = self.element {
            write!(f, "_{}", element.name())?;
        }
        if let Some(head_dim) = self.head_dim {
            write!(f, "_{}", head_dim.get())?;
        }
        Ok(())
    }
}

/// What is launched, and on how many threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The kernel.
    pub symbol: Symbol,
    /// Blocks; none where there is nothing to do.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: usize,
}

/// A kernel's arguments, laid out as the kernel reads them.
pub trait Arguments: Copy {
    /// The launch that they are for.
    fn geometry(&self, instance: Instance) -> Geometry;
}

/// What may be copied to a card byte by byte, and back.
///
/// # Safety
/// No padding, and every pattern of bits is a value.
pub unsafe trait Words: Copy + Default {}
// SAFETY: A number.
unsafe impl Words for u16 {}
// SAFETY: A number.
unsafe impl Words for u32 {}
// SAFETY: A number.
unsafe impl Words for i32 {}
// SAFETY: A number.
unsafe impl Words for f32 {}

fn bytes_of<T: Words>(values: &[T]) -> &[u8] {
    // SAFETY: `Words` has no padding, and the length is that of the values.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The numbers that a product writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// The model's own type, rounded once.
    Element,
    /// f32: logits in the model's type would tie too often.
    F32,
}

/// A matrix product, added up in f32: `out[row][o] = sum over i of x[row][i] * weight[o][i]`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// `[rows][input]`, in the model's type.
    pub x: Address,
    /// `[output][input]`, in the model's type.
    pub weight: Address,
    /// `[rows][output]`.
    pub out: Address,
    /// Rows. A decode step always has the same number, so that a row's bits do not depend on its batch.
    pub rows: usize,
    /// Columns of `x`.
    pub input: usize,
    /// Columns of `out`.
    pub output: usize,
    /// The type of `out`.
    pub precision: Precision,
}

/// A GPU, or the emulator. Everything happens in the order of the calls.
pub trait Launcher {
    /// Why something failed.
    type Error;

    /// Reserves memory. What it holds is undefined.
    ///
    /// # Errors
    /// Where there is not enough.
    fn allocate(&mut self, bytes: usize) -> Result<Address, Self::Error>;

    /// Gives memory back that [`Launcher::allocate`] reserved.
    fn release(&mut self, address: Address);

    /// Copies bytes into memory.
    ///
    /// # Errors
    /// Of the device.
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Copies bytes out of memory, after everything that was launched before.
    ///
    /// # Errors
    /// Of the device, those of earlier launches included.
    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), Self::Error>;

    /// Runs a kernel.
    ///
    /// # Errors
    /// Of the device. A GPU may report them later.
    fn launch<A: Arguments>(&mut self, instance: Instance, arguments: &A) -> Result<(), Self::Error>;

    /// Multiplies matrices.
    ///
    /// # Errors
    /// Of the device.
    fn multiply(&mut self, element: Element, product: &Product) -> Result<(), Self::Error>;

    /// New memory with these values.
    ///
    /// # Errors
    /// Where there is not enough.
    fn store<T: Words>(&mut self, values: &[T]) -> Result<Address, Self::Error> {
        let address = self.allocate(size_of_val(values))?;
        self.write(address, values)?;
        Ok(address)
    }

    /// Overwrites memory with values.
    ///
    /// # Errors
    /// Of the device.
    fn write<T: Words>(&mut self, to: Address, values: &[T]) -> Result<(), Self::Error> {
        self.upload(to, bytes_of(values))
    }

    /// Reads `len` values.
    ///
    /// # Errors
    /// As [`Launcher::download`].
    fn read<T: Words>(&mut self, from: Address, len: usize) -> Result<Vec<T>, Self::Error> {
        let mut values = vec![T::default(); len];
        let bytes = size_of_val(values.as_slice());
        // SAFETY: `Words` has no padding and takes any bits, and the length is that of the values.
        let bytes = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), bytes) };
        self.download(from, bytes)?;
        Ok(values)
    }
}
