//! Random numbers and what is made of them, [`SAMPLE_LANES`] problems in the lanes: no value
//! depends on how many lanes a vector has.
//!
//! Only correctly rounded operations and integer ones, never `fma`: the bits are the same on every
//! instruction set.

use crate::sampling::problem::{Addresses, SAMPLE_LANES};
use crate::simd::{WordOp, Words};

pub(crate) const M0: u64 = 0xD251_1F53;
pub(crate) const M1: u64 = 0xCD9E_8D57;
pub(crate) const W0: u32 = 0x9E37_79B9;
pub(crate) const W1: u32 = 0xBB67_AE85;

/// The keys of the ten rounds.
pub(crate) fn round_keys(key: [u32; 2]) -> [[u64; 2]; 10] {
    let mut keys = [[0; 2]; 10];
    let [mut k0, mut k1] = key;
    for k in &mut keys {
        *k = [u64::from(k0), u64::from(k1)];
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    keys
}

/// Philox4x32-10 in every lane: the two words of the block at counter (c0, c1, c2, c3), of which
/// the lower halves count.
///
/// The upper halves hold leftover bits between rounds: the product does not read them, and the
/// shift after it leaves none.
#[inline(always)]
pub(super) fn philox<S: Words>(
    s: S,
    [mut c0, mut c1, mut c2, mut c3]: [S::W; 4],
    keys: &[[u64; 2]; 10],
) -> [S::W; 2] {
    let (m0, m1) = (s.splat_word(M0), s.splat_word(M1));
    for k in 0..10 {
        let (p0, p1) = (s.mul_low(m0, c0), s.mul_low(m1, c2));
        c0 = s.xor(s.xor(s.shift_right(p1, 32), c1), s.splat_word(keys[k][0]));
        c1 = p1;
        c2 = s.xor(s.xor(s.shift_right(p0, 32), c3), s.splat_word(keys[k][1]));
        c3 = p0;
    }
    let low = s.splat_word(0xFFFF_FFFF);
    [s.or(s.and(c0, low), s.shift_left(c1, 32)), s.or(s.and(c2, low), s.shift_left(c3, 32))]
}

/// The uniform of (0,1) in the upper 52 bits: an odd multiple of 2⁻⁵³.
#[inline(always)]
pub(super) fn unit<S: Words>(s: S, word: S::W) -> S::V {
    let bits = s.or(s.shift_right(word, 12), s.splat_word(1.0f64.to_bits()));
    s.sub(s.value(bits), s.splat(1.0 - f64::EPSILON / 2.0))
}

/// Counters of the lanes at [`Addresses`], as words.
pub(super) struct Counters {
    pub(super) c0: [u64; SAMPLE_LANES],
    pub(super) c1: [u64; SAMPLE_LANES],
    pub(super) c2: [u64; SAMPLE_LANES],
}

impl Counters {
    #[inline(always)]
    pub(super) fn new(at: &Addresses) -> Self {
        let mut c = Counters { c0: [0; SAMPLE_LANES], c1: [0; SAMPLE_LANES], c2: [0; SAMPLE_LANES] };
        for l in 0..SAMPLE_LANES {
            c.c0[l] = at.sample[l] & 0xFFFF_FFFF;
            c.c1[l] = at.sample[l] >> 32;
            c.c2[l] = u64::from(at.variate[l]);
        }
        c
    }

    /// Lanes `lane ..` at `variate` past the lane's first and `attempt`.
    #[inline(always)]
    pub(super) fn load<S: Words>(&self, s: S, lane: usize, variate: u64, attempt: u64) -> [S::W; 4] {
        debug_assert!(lane + S::LANES <= SAMPLE_LANES);
        // SAFETY: lane + LANES <= SAMPLE_LANES, the length of the arrays.
        let (c0, c1, c2) = unsafe {
            (
                s.load_words(self.c0.as_ptr().add(lane)),
                s.load_words(self.c1.as_ptr().add(lane)),
                s.load_words(self.c2.as_ptr().add(lane)),
            )
        };
        [c0, c1, s.add_words(c2, s.splat_word(variate)), s.splat_word(attempt)]
    }
}

/// out (n, 2, SAMPLE_LANES): both words of variates 0 .. n past the lanes' first.
pub(crate) struct PhiloxWords<'a> {
    pub(crate) at: &'a Addresses,
    pub(crate) out: &'a mut [u64],
}

impl WordOp for PhiloxWords<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Words>(self, s: S) {
        let (counters, keys) = (Counters::new(self.at), round_keys(self.at.key));
        for (v, block) in self.out.chunks_exact_mut(2 * SAMPLE_LANES).enumerate() {
            let mut lane = 0;
            while lane < SAMPLE_LANES {
                let w = philox(s, counters.load(s, lane, v as u64, 0), &keys);
                // SAFETY: lane + LANES <= SAMPLE_LANES; the block has 2 SAMPLE_LANES words.
                unsafe {
                    s.store_words(block.as_mut_ptr().add(lane), w[0]);
                    s.store_words(block.as_mut_ptr().add(SAMPLE_LANES + lane), w[1]);
                }
                lane += S::LANES;
            }
        }
    }
}
