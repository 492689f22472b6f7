//! The instruction set that the CPU's kernels run on, here and in the engine: chosen once, when it is first asked for.

use std::sync::OnceLock;

use crate::error::MethodError;

/// Names a narrower instruction set than the machine's widest, for tests and measurements: one of
/// [`InstructionSet::name`].
pub const VARIABLE: &str = "KVSWEEP_INSTRUCTION_SET";

/// Vectors with fused multiply-add that the kernels are written for. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// x86-64: 512 bits.
    Avx512,
    /// x86-64: 256 bits, with FMA.
    Avx2,
    /// ARM: 128 bits.
    Neon,
    /// None of these: each multiply-add is a call.
    Portable,
}

impl InstructionSet {
    /// Every set of this machine, widest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                sets.push(Self::Avx512);
            }
            if avx2 {
                sets.push(Self::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(Self::Neon);
        sets.push(Self::Portable);
        sets
    }

    /// What [`VARIABLE`] asks for, if anything.
    ///
    /// # Errors
    /// A name that is no set of this machine.
    pub fn asked_for() -> Result<Option<Self>, MethodError> {
        let Some(name) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let available = Self::available();
        match available.iter().find(|set| name == set.name()) {
            Some(&set) => Ok(Some(set)),
            None => Err(MethodError::Mismatch {
                what: format!("the environment variable {VARIABLE}"),
                expected: available.iter().map(|set| set.name()).collect::<Vec<_>>().join(" or "),
                found: format!("`{}`", name.display()),
            }),
        }
    }

    /// The one in use: the widest, unless another one was asked for.
    #[must_use]
    pub fn in_use() -> Self {
        static IN_USE: OnceLock<InstructionSet> = OnceLock::new();
        *IN_USE.get_or_init(|| Self::asked_for().ok().flatten().unwrap_or(Self::available()[0]))
    }

    /// `avx512`, `avx2`, `neon` or `portable`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }
}
