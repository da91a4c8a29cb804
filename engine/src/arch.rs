//! CPU levels: the packet path is compiled once for each, and a worker takes the highest that its CPU has.
//!
//! On x86-64 copies and runs of ring words gain from wider registers. On aarch64 NEON is what every CPU has, so there is one level.

// UNSAFETY: a function compiled for a CPU feature may be called only where the CPU has it.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code))]

/// A level that the CPU we run on has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// One burst's work. `run` and all that matters below it must be `#[inline(always)]`: what is not inlined stays at the baseline.
pub trait Burst {
    /// What it comes to.
    type Output;

    /// Does it.
    fn run(self) -> Self::Output;
}

impl Level {
    /// What every CPU of this architecture has.
    pub const BASELINE: Level = Level(Kind::Baseline);

    /// All levels that this CPU has, lowest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Level> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = [
                is_x86_feature_detected!("avx2"),
                is_x86_feature_detected!("bmi1"),
                is_x86_feature_detected!("bmi2"),
                is_x86_feature_detected!("lzcnt"),
                is_x86_feature_detected!("popcnt"),
            ];
            let avx512 = [
                is_x86_feature_detected!("avx512f"),
                is_x86_feature_detected!("avx512bw"),
                is_x86_feature_detected!("avx512dq"),
                is_x86_feature_detected!("avx512vl"),
            ];
            let avx2 = avx2.iter().all(|&has| has);
            let avx512 = avx2 && avx512.iter().all(|&has| has);
            let levels = [Some(Kind::Baseline), avx2.then_some(Kind::Avx2), avx512.then_some(Kind::Avx512)];
            levels.into_iter().flatten().map(Level)
        }
        #[cfg(not(target_arch = "x86_64"))]
        std::iter::once(Level::BASELINE)
    }

    /// The highest of them.
    pub fn highest() -> Level {
        Level::available().next_back().unwrap_or(Level::BASELINE)
    }

    /// Its name: `baseline`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Baseline => "baseline",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }

    /// Runs a burst that was compiled for this level.
    #[inline(always)]
    pub fn run<B: Burst>(self, burst: B) -> B::Output {
        match self.0 {
            Kind::Baseline => burst.run(),
            // SAFETY: a level other than the baseline comes from `available`, which found its features on this CPU.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2(burst) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512(burst) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn avx2<B: Burst>(burst: B) -> B::Output {
    burst.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<B: Burst>(burst: B) -> B::Output {
    burst.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum<'n>(&'n [u16]);

    impl Burst for Sum<'_> {
        type Output = u64;

        #[inline(always)]
        fn run(self) -> u64 {
            self.0.iter().map(|&number| u64::from(number)).sum()
        }
    }

    #[test]
    fn every_level_comes_to_the_same() {
        let numbers: Vec<u16> = (0..1000).collect();
        assert_eq!(Level::available().next(), Some(Level::BASELINE));
        for level in Level::available() {
            assert_eq!(level.run(Sum(&numbers)), 499_500, "{}", level.name());
        }
    }
}
