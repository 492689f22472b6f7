//! The suites: what `kvsweep run` runs and averages together.

/// A family of data sets, or the needle test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// LongBench v1.
    LongBench,
    /// LongBench-E.
    LongBenchE,
    /// LooGLE, with HeadKV's four long-dependency sets.
    LooGle,
    /// A needle in a haystack: length x depth.
    Needle,
    /// RULER's thirteen tasks, of any length.
    Ruler,
}

impl Suite {
    /// Every suite.
    pub const ALL: [Self; 5] = [Self::LongBench, Self::LongBenchE, Self::LooGle, Self::Needle, Self::Ruler];

    /// The suite of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.name() == name)
    }

    /// The name as typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::LongBench => "longbench",
            Self::LongBenchE => "longbench-e",
            Self::LooGle => "loogle",
            Self::Needle => "needle",
            Self::Ruler => "ruler",
        }
    }

    /// The name as its authors write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::LongBench => "LongBench",
            Self::LongBenchE => "LongBench-E",
            Self::LooGle => "LooGLE",
            Self::Needle => "Needle in a Haystack",
            Self::Ruler => "RULER",
        }
    }

    /// One line for help texts.
    pub fn summary(self) -> &'static str {
        match self {
            Self::LongBench => "21 data sets; the embedded split has its own twelve",
            Self::LongBenchE => "13 data sets with length buckets",
            Self::LooGle => "Long- and short-dependency QA, cloze, summarization",
            Self::Needle => "Needle in a haystack: length x depth",
            Self::Ruler => "RULER: 13 tasks of any length; the embedded split has four of its own",
        }
    }
}
