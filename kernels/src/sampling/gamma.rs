//! Logarithms of gamma variates by rejection from a two-sided exponential.

use crate::sampling::exact::{exp_above, exp_exact, ln_exact};
use crate::sampling::philox::{Counters, philox, round_keys, unit};
use crate::sampling::problem::{Addresses, Envelope, MAX_ATTEMPTS, SAMPLE_LANES};
use crate::simd::{WordOp, Words};

/// Vectors per stage: uniforms of all, then proposals of all. The dependency chain of one draw is
/// longer than what a processor looks ahead, a stage's is not.
const GROUP: usize = 8;

/// The envelope in every lane.
struct Wide<S: Words> {
    left: S::V,
    knot: S::V,
    scale: [S::V; 2],
    mean: [S::V; 2],
    point: [S::V; 2],
    point_exp: [S::V; 2],
}

impl<S: Words> Wide<S> {
    #[inline(always)]
    fn new(s: S, e: &Envelope) -> Self {
        Wide {
            left: s.splat(e.left),
            knot: s.splat(e.knot),
            scale: [s.splat(e.scale[0]), s.splat(e.scale[1])],
            mean: [s.splat(e.mean[0]), s.splat(e.mean[1])],
            point: [s.splat(e.point[0]), s.splat(e.point[1])],
            point_exp: [s.splat(e.point_exp[0]), s.splat(e.point_exp[1])],
        }
    }

    /// A draw y from the envelope by inverting `u`, and a tangent's height such that e^y less it is
    /// how far d the envelope's logarithm lies above the density's.
    #[inline(always)]
    fn propose(&self, s: S, u: S::V) -> (S::V, S::V) {
        let one = s.splat(1.0);
        let w = s.mul(
            s.select_lt(u, self.left, u, s.sub(one, u)),
            s.select_lt(u, self.left, self.scale[0], self.scale[1]),
        );
        let mean = s.select_lt(u, self.left, self.mean[0], self.mean[1]);
        let point = s.select_lt(u, self.left, self.point[0], self.point[1]);
        let point_exp = s.select_lt(u, self.left, self.point_exp[0], self.point_exp[1]);
        let y = s.add(self.knot, s.mul(mean, ln_exact(s, w)));
        (y, s.mul(point_exp, s.add(one, s.sub(y, point))))
    }
}

/// out (n, SAMPLE_LANES): variates 0 .. n past the lanes' first. `pending` is at least as long.
pub(crate) struct LogGamma<'a> {
    pub(crate) envelope: &'a Envelope,
    pub(crate) at: &'a Addresses,
    pub(crate) out: &'a mut [f64],
    pub(crate) pending: &'a mut [u32],
}

impl WordOp for LogGamma<'_> {
    /// Whether all were accepted within [`MAX_ATTEMPTS`].
    type Out = bool;
    #[inline(always)]
    fn run<S: Words>(self, s: S) -> bool {
        let (counters, keys) = (Counters::new(self.at), round_keys(self.at.key));
        let envelope = Wide::new(s, self.envelope);
        let mut open = first_attempts(s, &envelope, &counters, &keys, self.out, self.pending);
        let mut attempt = 0;
        // Attempt 0 again where the squeeze did not decide: one in fifteen or so at α = 0.1, which
        // saves the others two exponentials.
        while open > 0 && attempt < MAX_ATTEMPTS {
            open = attempts(s, &envelope, &counters, &keys, attempt, self.out, &mut self.pending[..open]);
            attempt += 1;
        }
        open == 0
    }
}

/// Writes every first proposal; returns how many are not accepted by the squeeze 1 - d <= e^{-d}
/// with a d that is a little too large, their places in `pending`. What it accepts, the exact d
/// accepts too.
#[inline(always)]
fn first_attempts<S: Words>(
    s: S,
    envelope: &Wide<S>,
    counters: &Counters,
    keys: &[[u64; 2]; 10],
    out: &mut [f64],
    pending: &mut [u32],
) -> usize {
    assert!(pending.len() >= out.len() && out.len().is_multiple_of(SAMPLE_LANES));
    let (mut u, mut v) = ([0.0; GROUP * SAMPLE_LANES], [0.0; GROUP * SAMPLE_LANES]);
    let one = s.splat(1.0);
    let (vectors, per) = (out.len() / S::LANES, SAMPLE_LANES / S::LANES);
    // Masks wait at the end of `pending`, where the list of places, at most LANES for each mask
    // already read, never catches up with them. A branch on a mask right after its vector would be
    // mispredicted often, and throw away what was under way for the next vectors.
    let masks = pending.len() - vectors;
    let mut first = 0;
    while first < vectors {
        let group = if vectors - first < GROUP { vectors - first } else { GROUP };
        for j in 0..group {
            let (row, lane) = ((first + j) / per, (first + j) % per * S::LANES);
            let w = philox(s, counters.load(s, lane, row as u64, 0), keys);
            // SAFETY: j < GROUP and LANES <= SAMPLE_LANES.
            unsafe {
                s.store(u.as_mut_ptr().add(j * S::LANES), unit(s, w[0]));
                s.store(v.as_mut_ptr().add(j * S::LANES), unit(s, w[1]));
            }
        }
        for j in 0..group {
            let at = (first + j) * S::LANES;
            // SAFETY: as above for u and v; at + LANES <= vectors LANES = out.len().
            pending[masks + first + j] = unsafe {
                let (y, tangent) = envelope.propose(s, s.load(u.as_ptr().add(j * S::LANES)));
                // Not below the exact d: rounding is monotone.
                let d = s.sub(exp_above(s, y), tangent);
                s.store(out.as_mut_ptr().add(at), y);
                s.mask_lt(s.load(v.as_ptr().add(j * S::LANES)), s.sub(one, d))
            };
        }
        first += group;
    }
    let mut open = 0;
    for vector in 0..vectors {
        let mut undecided = !pending[masks + vector] & ((1 << S::LANES) - 1);
        while undecided != 0 {
            pending[open] = (vector * S::LANES) as u32 + undecided.trailing_zeros();
            open += 1;
            undecided &= undecided - 1;
        }
    }
    open
}

/// Attempt number `attempt` at the places `pending`; returns how many are still rejected, their
/// places in front.
#[inline(always)]
fn attempts<S: Words>(
    s: S,
    envelope: &Wide<S>,
    counters: &Counters,
    keys: &[[u64; 2]; 10],
    attempt: u32,
    out: &mut [f64],
    pending: &mut [u32],
) -> usize {
    let one = s.splat(1.0);
    let mut open = 0;
    let mut first = 0;
    while first < pending.len() {
        let n = if pending.len() - first < S::LANES { pending.len() - first } else { S::LANES };
        let (mut c, mut ys) = ([[0u64; SAMPLE_LANES]; 3], [0.0; SAMPLE_LANES]);
        for i in 0..n {
            let (row, lane) =
                (pending[first + i] as usize / SAMPLE_LANES, pending[first + i] as usize % SAMPLE_LANES);
            c[0][i] = counters.c0[lane];
            c[1][i] = counters.c1[lane];
            c[2][i] = counters.c2[lane] + row as u64;
        }
        // SAFETY: LANES <= SAMPLE_LANES, the length of the arrays.
        let accepted = unsafe {
            let counter = [
                s.load_words(c[0].as_ptr()),
                s.load_words(c[1].as_ptr()),
                s.load_words(c[2].as_ptr()),
                s.splat_word(u64::from(attempt)),
            ];
            let w = philox(s, counter, keys);
            let (y, tangent) = envelope.propose(s, unit(s, w[0]));
            let d = s.sub(exp_exact(s, y), tangent);
            s.store(ys.as_mut_ptr(), y);
            let v = unit(s, w[1]);
            s.mask_lt(v, s.sub(one, d)) | s.mask_lt(v, exp_exact(s, s.sub(s.splat(0.0), d)))
        };
        for i in 0..n {
            // Rejected ones are written too, and again by the next attempt: no branch.
            let place = pending[first + i];
            out[place as usize] = ys[i];
            pending[open] = place;
            open += usize::from(accepted >> i & 1 == 0);
        }
        first += n;
    }
    open
}
