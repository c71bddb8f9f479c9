//! The floating-point mode of a thread.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::arch::asm;
use std::marker::PhantomData;

/// The usual mode, until this is dropped: subnormal numbers are read and written as they are.
///
/// XLA calls handlers in threads that take them for 0; the engine's gradient through ReLU would be
/// 0 there. Threads that are started meanwhile have the usual mode, too.
pub(super) struct Usual {
    before: u64,
    /// The mode is that of one thread.
    _thread: PhantomData<*const ()>,
}

impl Usual {
    pub(super) fn enter() -> Self {
        let before = get();
        if before != USUAL {
            set(USUAL);
        }
        Usual { before, _thread: PhantomData }
    }
}

impl Drop for Usual {
    fn drop(&mut self) {
        if self.before != USUAL {
            set(self.before);
        }
    }
}

/// No trap, round to nearest, subnormal numbers as they are.
#[cfg(target_arch = "x86_64")]
const USUAL: u64 = 0x1f80;
#[cfg(not(target_arch = "x86_64"))]
const USUAL: u64 = 0;

#[cfg(target_arch = "x86_64")]
fn get() -> u64 {
    let mut word = 0_u32;
    // SAFETY: stores four bytes to `word`, which has as many. The low six bits are flags that
    // earlier arithmetic left; they are no mode, and are given as those of `USUAL`, clear.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut word, options(nostack, preserves_flags)) };
    u64::from(word & !0x3f)
}

#[cfg(target_arch = "x86_64")]
fn set(mode: u64) {
    let word = mode as u32;
    // SAFETY: loads four bytes from `word`, a value that is `USUAL` or one that `get` found: no
    // reserved bit is set. Around the engine it is `USUAL`, which Rust takes for granted.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, preserves_flags)) };
}

#[cfg(target_arch = "aarch64")]
fn get() -> u64 {
    let word;
    // SAFETY: reads a register that every program may read.
    unsafe { asm!("mrs {}, fpcr", out(reg) word, options(nomem, nostack, preserves_flags)) };
    word
}

#[cfg(target_arch = "aarch64")]
fn set(mode: u64) {
    // SAFETY: writes `USUAL` or what `get` found to a register that every program may write. Around
    // the engine it is `USUAL`, which Rust takes for granted.
    unsafe { asm!("msr fpcr, {}", in(reg) mode, options(nomem, nostack, preserves_flags)) };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn get() -> u64 {
    USUAL
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn set(_: u64) {}
