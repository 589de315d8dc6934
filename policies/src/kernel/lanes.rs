//! The same loops compiled for several kinds of processor, chosen when they run. All `unsafe` code of the crate is here.
//!
//! The loops are safe code that the compiler turns into vector instructions. Compiled for any x86-64 it may use vectors of 4 numbers; in a function that
//! says so, 8 (AVX2) or 16 (AVX-512). What is unsafe is calling such a function on a processor that may not have the instructions, and nothing
//! else.

/// Work whose loops are worth compiling for wide vectors. `run` is inlined into each form.
pub(crate) trait Work {
    /// What comes out: the same in each form.
    type Output;

    /// Does it.
    fn run(self) -> Self::Output;
}

/// How wide vectors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Width {
    /// Whatever every processor has for which this was compiled.
    Plain,
    /// Eight numbers of 32 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Sixteen.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Width {
    /// The widest that this processor has. A load and a few tests of bits: the answer is kept by the standard library.
    #[inline]
    pub(crate) fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                let all = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq");
                return if all { Self::Avx512 } else { Self::Avx2 };
            }
        }
        Self::Plain
    }

    /// All that this processor has.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let widths = [Self::Plain, Self::Avx2, Self::Avx512];
        #[cfg(not(target_arch = "x86_64"))]
        let widths = [Self::Plain];
        widths.into_iter().filter(|width| *width <= Self::widest()).collect()
    }
}

/// Does the work in its widest form.
#[inline]
pub(crate) fn run<W: Work>(work: W) -> W::Output {
    run_at(Width::widest(), work)
}

/// Does the work in one form.
///
/// # Panics
/// When this processor does not have vectors of that width.
#[inline]
pub(crate) fn run_at<W: Work>(width: Width, work: W) -> W::Output {
    assert!(width <= Width::widest(), "nobody asks for more than `widest` gave");
    match width {
        Width::Plain => work.run(),
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code, reason = "the compiler cannot know which instructions the processor has")]
        // SAFETY: this function needs a processor with AVX2. `widest` gave at least `Avx2`, seen above, and it does so only where that was
        // detected.
        Width::Avx2 => unsafe { with_avx2(work) },
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code, reason = "the compiler cannot know which instructions the processor has")]
        // SAFETY: this function needs AVX2 and the four parts of AVX-512 that it names. `widest` gave `Avx512`, seen above, and it does so
        // only where all five were detected.
        Width::Avx512 => unsafe { with_avx512(work) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2")]
fn with_avx512<W: Work>(work: W) -> W::Output {
    work.run()
}
