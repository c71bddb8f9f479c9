//! Random numbers addressed by counter, never by order.
//!
//! Every draw is a pure function of (seed, purpose, sample index, variate, attempt), through
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Shards,
//! threads and SIMD lanes may therefore draw in any order, and a single sample can be drawn again
//! alone. A rejection method takes the next `attempt` of the same variate, so the number of
//! rejections does not affect other draws.

mod gamma;

pub use gamma::{LogGamma, log_gamma_variate};

use rand_core::utils::fill_bytes_via_next_word;
use std::convert::Infallible;

/// The purpose of a stream of draws. Streams of different purposes under one seed are unrelated.
///
/// The numbers are frozen: changing or reusing one changes every result that was drawn under it.
/// Add new ones at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
#[non_exhaustive]
pub enum Purpose {
    /// Training samples.
    Train = 1,
    /// Held-out samples.
    Test = 2,
    /// Random graphs.
    Graph = 3,
    /// Initial parameters.
    Init = 4,
    /// Monte Carlo over the prior of a task.
    Prior = 5,
    /// Draws made by probes and metrics.
    Probe = 6,
    /// Fixed parts of a task (triggers, frozen embeddings).
    Task = 7,
    /// Permutations of tests.
    Permutation = 8,
    /// Labels drawn from the laws of samples.
    Label = 9,
}

const M0: u64 = 0xD251_1F53;
const M1: u64 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// Philox4x32-10: the block of four words at `counter` under `key`.
#[inline]
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = M0 * u64::from(c0);
        let p1 = M1 * u64::from(c2);
        c0 = (p1 >> 32) as u32 ^ c1 ^ k0;
        c1 = p1 as u32;
        c2 = (p0 >> 32) as u32 ^ c3 ^ k1;
        c3 = p0 as u32;
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    [c0, c1, c2, c3]
}

/// A Philox key: one per (seed, purpose).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u32; 2]);

impl Key {
    /// The key of `purpose` under `seed`: half of the Philox block at (purpose, a constant) keyed
    /// by the seed.
    ///
    /// Philox with a fixed key is a permutation, so purposes of one seed share a key with
    /// probability 2⁻⁶⁴ only, and neighbouring seeds give unrelated keys.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let p = purpose as u64;
        // "popgrad " in ASCII: keeps key derivation apart from ordinary counters under a small key.
        let b = philox4x32_10(
            [p as u32, (p >> 32) as u32, 0x706F_7067, 0x7261_6420],
            [seed as u32, (seed >> 32) as u32],
        );
        Key([b[0], b[1]])
    }

    /// The Philox key itself.
    pub(crate) fn words(&self) -> [u32; 2] {
        self.0
    }

    /// The 128 random bits at (`sample`, `variate`, `attempt`), as two words.
    #[inline]
    pub fn block(&self, sample: u64, variate: u32, attempt: u32) -> [u64; 2] {
        let b = philox4x32_10([sample as u32, (sample >> 32) as u32, variate, attempt], self.0);
        [u64::from(b[0]) | u64::from(b[1]) << 32, u64::from(b[2]) | u64::from(b[3]) << 32]
    }

    /// Two independent uniforms of (0,1), see [`unit`](fn@unit).
    #[inline]
    pub fn uniforms(&self, sample: u64, variate: u32, attempt: u32) -> [f64; 2] {
        let [a, b] = self.block(sample, variate, attempt);
        [unit(a), unit(b)]
    }

    /// Standard normal number `index`: the polar method on addressed uniforms, attempt after
    /// attempt.
    pub fn normal(&self, index: u64) -> f64 {
        let mut attempt = 0;
        loop {
            let [u, v] = self.uniforms(index, 0, attempt).map(|x| 2.0 * x - 1.0);
            let r = u * u + v * v;
            if r < 1.0 && r > 0.0 {
                return u * (-2.0 * crate::num::ln(r) / r).sqrt();
            }
            attempt += 1;
        }
    }

    /// An integer uniform on 0..n, exactly (given random bits): Lemire's multiplication, and where
    /// that would be biased (probability below n / 2⁶⁴) the next attempt.
    ///
    /// `half` picks the first (0) or second (1) word of the block, so that a block serves two
    /// draws.
    ///
    /// # Panics
    /// When `n` is zero or `half` exceeds 1.
    #[inline]
    pub fn below(&self, n: u64, sample: u64, variate: u32, half: usize) -> u64 {
        assert!(n > 0, "below(0)");
        let mut attempt = 0;
        loop {
            if let Some(k) = lemire(self.block(sample, variate, attempt)[half], n) {
                return k;
            }
            attempt += 1;
        }
    }

    /// The variates 0, 1, 2, .. of `sample` as an ordinary generator, for `rand` distributions.
    pub fn stream(&self, sample: u64) -> Stream {
        Stream { key: *self, sample, next: 0, spare: None }
    }
}

/// floor(word * n / 2⁶⁴) unless the word has to be rejected for exact uniformity (n > 0).
#[inline]
pub(crate) fn lemire(word: u64, n: u64) -> Option<u64> {
    let wide = u128::from(word) * u128::from(n);
    let low = wide as u64;
    // The modulus is 2^64 mod n; it is below n, so the division runs almost never.
    (low >= n || low >= n.wrapping_neg() % n).then_some((wide >> 64) as u64)
}

/// The uniform of (0,1) in the upper 52 bits of `word`: an odd multiple of 2⁻⁵³.
///
/// Never 0 and never 1: from 2⁻⁵³ to 1 - 2⁻⁵³, symmetric about ½, so u and 1-u have the same law
/// and both have finite logarithms. Written with bit operations so that lanes without a 64-bit
/// integer conversion can follow.
#[inline]
pub fn unit(word: u64) -> f64 {
    // [1,2) in steps of 2^-52, minus 1 - 2^-53: exact.
    f64::from_bits(word >> 12 | 0x3FF0_0000_0000_0000) - (1.0 - f64::EPSILON / 2.0)
}

/// Successive variates of one sample behind the `rand_core` traits; made by [`Key::stream`].
///
/// Draws by order, unlike everything else here: use it for graphs, initial values and tests, not
/// for samples.
#[derive(Debug, Clone)]
pub struct Stream {
    key: Key,
    sample: u64,
    // 33 bits are enough to notice the end of the 2^32 variates.
    next: u64,
    spare: Option<u64>,
}

impl rand_core::TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|w| (w >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        if let Some(w) = self.spare.take() {
            return Ok(w);
        }
        // The carry goes to the attempt: after 2^33 words the stream goes on instead of repeating.
        let [a, b] = self.key.block(self.sample, self.next as u32, (self.next >> 32) as u32);
        self.next = self.next.wrapping_add(1);
        self.spare = Some(b);
        Ok(a)
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        fill_bytes_via_next_word(dst, || self.try_next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::Rng;

    #[test]
    fn philox_known_answers() {
        // kat_vectors of Random123.
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox4x32_10([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn uniforms_are_open_and_symmetric() {
        assert_eq!(unit(0), 2f64.powi(-53));
        assert_eq!(unit(u64::MAX), 1.0 - 2f64.powi(-53));
        for w in [0, 1 << 12, 0x0123_4567_89ab_cdef, u64::MAX / 3] {
            assert_eq!(unit(!w), 1.0 - unit(w));
            assert_eq!(unit(w), ((w >> 11) | 1) as f64 * 2f64.powi(-53));
        }
    }

    #[test]
    fn keys_differ_and_are_frozen() {
        let purposes = [
            Purpose::Train,
            Purpose::Test,
            Purpose::Graph,
            Purpose::Init,
            Purpose::Prior,
            Purpose::Probe,
            Purpose::Task,
            Purpose::Permutation,
        ];
        assert_eq!(purposes.map(|p| p as u64), [1, 2, 3, 4, 5, 6, 7, 8]);
        let mut keys: Vec<_> = (0..50).flat_map(|s| purposes.map(|p| Key::new(s, p).0)).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 400);
        // The upper half of the seed counts.
        assert_ne!(Key::new(1, Purpose::Train), Key::new(1 | 1 << 32, Purpose::Train));
    }

    #[test]
    fn every_part_of_the_address_counts() {
        let k = Key::new(7, Purpose::Train);
        let b = k.block(3, 4, 5);
        for other in [k.block(2, 4, 5), k.block(3 | 1 << 32, 4, 5), k.block(3, 5, 5), k.block(3, 4, 4)] {
            assert_ne!(b, other);
        }
    }

    #[test]
    fn below_is_uniform_and_in_range() {
        let k = Key::new(11, Purpose::Test);
        assert!((0..1000).all(|n| k.below(1, n, 0, 0) == 0));
        let mut counts = [[0u32; 7]; 2];
        for n in 0..70_000 {
            counts[0][k.below(7, n, 0, 0) as usize] += 1;
            counts[1][k.below(7, n, 0, 1) as usize] += 1;
        }
        for c in counts {
            // 6 degrees of freedom: P(chi² > 38.3) = 1e-6.
            let chi2: f64 = c.iter().map(|&x| (f64::from(x) - 1e4).powi(2) / 1e4).sum();
            assert!(chi2 < 38.3, "{c:?}");
        }
        // n = 3 * 2^62 rejects a quarter of the words; without rejection multiples of 3 would have
        // probability 1/2.
        let n = 3 << 62;
        let threes = (0..10_000).filter(|&s| k.below(n, s, 1, 0).is_multiple_of(3)).count();
        assert!((3100..3570).contains(&threes), "{threes}");
        assert!((0..10_000).all(|s| k.below(n, s, 1, 0) < n));
    }

    #[test]
    fn stream_walks_the_variates() {
        let k = Key::new(5, Purpose::Init);
        let mut s = k.stream(9);
        let words: Vec<u64> = (0..6).map(|_| s.next_u64()).collect();
        let blocks: Vec<u64> = (0..3).flat_map(|v| k.block(9, v, 0)).collect();
        assert_eq!(words, blocks);
        let mut s = k.stream(9);
        let mut bytes = [0u8; 12];
        s.fill_bytes(&mut bytes);
        assert_eq!(bytes[..8], blocks[0].to_le_bytes());
    }
}
