//! Logarithms of gamma variates by rejection from a two-sided exponential.

use crate::sampling::exact::{exp_above, exp_exact, ln_exact};
use crate::sampling::philox::{Counters, philox, round_keys, unit};
use crate::sampling::problem::{Addresses, Envelope, MAX_ATTEMPTS, SAMPLE_LANES};
use crate::simd::{WordOp, Words};

/// Vectors per stage: uniforms of all, then proposals of all. The dependency chain of one draw is
/// longer than what a processor looks ahead, a stage's is not.
const GROUP: usize = 8;

/// The envelope in every lane.
pub(super) struct Wide<S: Words> {
    left: S::V,
    knot: S::V,
    scale: [S::V; 2],
    mean: [S::V; 2],
    point: [S::V; 2],
    point_exp: [S::V; 2],
}

impl<S: Words> Wide<S> {
    #[inline(always)]
    pub(super) fn new(s: S, e: &Envelope) -> Self {
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

/// What the squeezes say of a vector of proposals.
pub(super) struct Said<S: Words> {
    y: S::V,
    /// Bits of the lanes that are accepted for sure; those rejected for sure, [`REJECTED`] further.
    pub(super) sure: u32,
}

pub(super) const REJECTED: u32 = SAMPLE_LANES as u32;

/// The proposals at `u`, and 1 - d + d²/2 - d³/6 <= e^{-d} <= 1 - d + d²/2 at `v`, with room
/// for a d that is a little too large. What they decide, the rule decides too; they leave to it one
/// proposal in a thousand or so at α = 0.1.
#[inline(always)]
pub(super) fn squeeze<S: Words>(s: S, envelope: &Wide<S>, u: S::V, v: S::V) -> Said<S> {
    // Rounding of d, of the rule and of these sums.
    const SLACK: f64 = 1e-12;
    // e^{-d} is at most this share of e^y above e^{-a}: twice as much as `exp_above` is above.
    const ROOM: f64 = 1.0 / 16_384.0;
    let one = s.splat(1.0);
    let (y, tangent) = envelope.propose(s, u);
    let e = exp_above(s, y);
    let a = s.sub(e, tangent);
    let cubic = s.fma(a, s.splat(-1.0 / 6.0), s.splat(0.5));
    let least = s.fma(s.fma(cubic, a, s.splat(-1.0)), a, s.splat(1.0 - SLACK));
    // The square grows again beyond 1, where it is 1/2 > 1/e.
    let m = s.select_lt(a, one, a, one);
    let square = s.fma(s.fma(m, s.splat(0.5), s.splat(-1.0)), m, s.splat(1.0 + SLACK));
    let most = s.fma(e, s.splat(ROOM), square);
    Said { y, sure: s.mask_lt(v, least) | s.mask_lt(most, v) << REJECTED }
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
        let LogGamma { envelope, at, out, pending } = self;
        let envelope = Wide::new(s, envelope);
        let mut draws = Draws { envelope, counters: Counters::new(at), keys: round_keys(at.key), attempt: 0 };
        let mut open = draws.first(s, out, pending);
        while open > 0 && draws.attempt + 1 < MAX_ATTEMPTS {
            draws.attempt += 1;
            open = draws.again(s, out, &mut pending[..open]);
        }
        open == 0
    }
}

/// The attempts of a call.
struct Draws<S: Words> {
    envelope: Wide<S>,
    counters: Counters,
    keys: [[u64; 2]; 10],
    attempt: u32,
}

/// Places that an attempt leaves open: rejected ones at the front of a list, those in doubt, of
/// which most are accepted, beside it until there is a vector of them.
struct Open {
    rejected: usize,
    doubts: [u32; SAMPLE_LANES],
    n: usize,
}

impl<S: Words> Draws<S> {
    /// Writes every first proposal; returns how many are rejected, their places in `pending`.
    #[inline(always)]
    fn first(&self, s: S, out: &mut [f64], pending: &mut [u32]) -> usize {
        assert!(pending.len() >= out.len() && out.len().is_multiple_of(SAMPLE_LANES));
        let (mut u, mut v) = ([0.0; GROUP * SAMPLE_LANES], [0.0; GROUP * SAMPLE_LANES]);
        let (vectors, per) = (out.len() / S::LANES, SAMPLE_LANES / S::LANES);
        // Masks wait at the end of `pending`, where the list of places, at most LANES for each mask
        // already read, never catches up with them. A branch on a mask right after its vector would
        // be mispredicted often, and throw away what was under way for the next vectors.
        let masks = pending.len() - vectors;
        let mut first = 0;
        while first < vectors {
            let group = if vectors - first < GROUP { vectors - first } else { GROUP };
            for j in 0..group {
                let (row, lane) = ((first + j) / per, (first + j) % per * S::LANES);
                let w = philox(s, self.counters.load(s, lane, row as u64, 0), &self.keys);
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
                    let (u, v) = (s.load(u.as_ptr().add(j * S::LANES)), s.load(v.as_ptr().add(j * S::LANES)));
                    let Said { y, sure } = squeeze(s, &self.envelope, u, v);
                    s.store(out.as_mut_ptr().add(at), y);
                    sure
                };
            }
            first += group;
        }
        let mut open = Open { rejected: 0, doubts: [0; SAMPLE_LANES], n: 0 };
        for vector in 0..vectors {
            let sure = pending[masks + vector];
            self.sort(s, sure, S::LANES, |lane| (vector * S::LANES) as u32 + lane, pending, &mut open);
        }
        self.settle(s, pending, &mut open);
        open.rejected
    }

    /// This attempt at the places `pending`; returns how many are still rejected, their places in
    /// front.
    #[inline(always)]
    fn again(&self, s: S, out: &mut [f64], pending: &mut [u32]) -> usize {
        const SIDE: usize = GROUP * SAMPLE_LANES;
        let mut open = Open { rejected: 0, doubts: [0; SAMPLE_LANES], n: 0 };
        let mut first = 0;
        while first < pending.len() {
            let most = GROUP * S::LANES;
            let n = if pending.len() - first < most { pending.len() - first } else { most };
            let vectors = n.div_ceil(S::LANES);
            let (mut u, mut v, mut y) = ([0.0; SIDE], [0.0; SIDE], [0.0; SIDE]);
            let (mut places, mut sure) = ([0; SIDE], [0; GROUP]);
            places[..n].copy_from_slice(&pending[first..first + n]);
            for j in 0..vectors {
                let w = philox(s, self.counters_of(s, &places[j * S::LANES..][..S::LANES]), &self.keys);
                // SAFETY: j < GROUP and LANES <= SAMPLE_LANES.
                unsafe {
                    s.store(u.as_mut_ptr().add(j * S::LANES), unit(s, w[0]));
                    s.store(v.as_mut_ptr().add(j * S::LANES), unit(s, w[1]));
                }
            }
            for j in 0..vectors {
                // SAFETY: as above.
                unsafe {
                    let (u, v) = (s.load(u.as_ptr().add(j * S::LANES)), s.load(v.as_ptr().add(j * S::LANES)));
                    let said = squeeze(s, &self.envelope, u, v);
                    s.store(y.as_mut_ptr().add(j * S::LANES), said.y);
                    sure[j] = said.sure;
                }
            }
            // Rejected ones are written too, and again by the next attempt: no branch.
            for i in 0..n {
                out[places[i] as usize] = y[i];
            }
            for j in 0..vectors {
                let left = if n - j * S::LANES < S::LANES { n - j * S::LANES } else { S::LANES };
                let place = |lane: u32| places[j * S::LANES + lane as usize];
                self.sort(s, sure[j], left, place, pending, &mut open);
            }
            first += n;
        }
        self.settle(s, pending, &mut open);
        open.rejected
    }

    /// The counters of some places, at most SAMPLE_LANES.
    #[inline(always)]
    fn counters_of(&self, s: S, places: &[u32]) -> [S::W; 4] {
        let mut c = [[0u64; SAMPLE_LANES]; 3];
        for i in 0..places.len() {
            let (row, lane) = (places[i] as usize / SAMPLE_LANES, places[i] as usize % SAMPLE_LANES);
            c[0][i] = self.counters.c0[lane];
            c[1][i] = self.counters.c1[lane];
            c[2][i] = self.counters.c2[lane] + row as u64;
        }
        // SAFETY: LANES <= SAMPLE_LANES, the length of the arrays.
        unsafe {
            [
                s.load_words(c[0].as_ptr()),
                s.load_words(c[1].as_ptr()),
                s.load_words(c[2].as_ptr()),
                s.splat_word(u64::from(self.attempt)),
            ]
        }
    }

    /// The first `n` lanes of a vector whose places `place` gives, to where they belong.
    #[inline(always)]
    fn sort(
        &self,
        s: S,
        sure: u32,
        n: usize,
        place: impl Fn(u32) -> u32,
        pending: &mut [u32],
        open: &mut Open,
    ) {
        let all = (1 << n) - 1;
        let (accepted, mut rejected) = (sure & all, sure >> REJECTED & all);
        let mut doubts = all & !accepted & !rejected;
        while rejected != 0 {
            pending[open.rejected] = place(rejected.trailing_zeros());
            open.rejected += 1;
            rejected &= rejected - 1;
        }
        while doubts != 0 {
            open.doubts[open.n] = place(doubts.trailing_zeros());
            open.n += 1;
            doubts &= doubts - 1;
            if open.n == S::LANES {
                self.settle(s, pending, open);
            }
        }
    }

    /// Decides what is in doubt by the rule itself: v < 1 - d or v < e^{-d}.
    #[inline(always)]
    fn settle(&self, s: S, pending: &mut [u32], open: &mut Open) {
        if open.n == 0 {
            return;
        }
        let w = philox(s, self.counters_of(s, &open.doubts[..open.n]), &self.keys);
        let (y, tangent) = self.envelope.propose(s, unit(s, w[0]));
        let d = s.sub(exp_exact(s, y), tangent);
        let v = unit(s, w[1]);
        let accepted =
            s.mask_lt(v, s.sub(s.splat(1.0), d)) | s.mask_lt(v, exp_exact(s, s.sub(s.splat(0.0), d)));
        for i in 0..open.n {
            pending[open.rejected] = open.doubts[i];
            open.rejected += usize::from(accepted >> i & 1 == 0);
        }
        open.n = 0;
    }
}
