//! The load sweep: every element counted once, nothing beyond the slice, within its error bound.

use crate::checks::testkit::{Rng, available, gamma};
use crate::elem::{Elem, Real};
use crate::reference;
use crate::simd::Isa;

/// Bytes as a slice: length (two bytes), where it starts, seed of the values.
pub(crate) fn run(data: &[u8]) {
    let byte = |i: usize| data.get(i).copied().unwrap_or(0) as usize;
    let seed = data.iter().skip(3).fold(0u64, |x, b| x.wrapping_mul(257).wrapping_add(u64::from(*b) + 1));
    let (len, offset) = ((byte(0) + 256 * byte(1)) % 1500, byte(2) % 17);
    check_sweep::<f32>(len, offset, seed);
    check_sweep::<f64>(len, offset, seed);
}

/// `len` elements at `offset` of a buffer that is NaN elsewhere, summed on every instruction set.
pub(crate) fn check_sweep<E: Elem>(len: usize, offset: usize, seed: u64) {
    let mut rng = Rng(seed);
    let mut x = vec![E::NAN; offset + len + 70];
    let inside = offset..offset + len;
    // Integers, none of them 0: the sum is exact, and one element left out or read twice changes
    // it.
    x[inside.clone()].fill_with(|| E::from_f64((1 + rng.bits() % 64) as f64));
    let want = reference::sum(&x[inside.clone()]);
    for k in available::<E>() {
        assert_eq!(k.load_sweep(&x[inside.clone()]).to_f64(), want, "{:?} {len} at {offset}", k.isa());
    }
    x[inside.clone()].fill_with(|| E::from_f64(rng.signed()));
    let (want, mass) =
        x[inside.clone()].iter().fold((0.0, 0.0), |(s, m), x| (s + x.to_f64(), m + x.to_f64().abs()));
    for k in available::<E>() {
        // An entry passes the additions of its own sum, at most 3 in folding the eight and
        // log2(lanes) in folding lanes, tail included; the twin adds its own n roundings of f64.
        let lanes = if k.isa() == Isa::Avx512 { 64 } else { 16 } / size_of::<E>();
        let bound =
            gamma::<E>(len / (8 * lanes) + 8 + 12) * mass + super::gamma(len + 1, f64::UNIT_ROUNDOFF) * mass;
        let got = k.load_sweep(&x[inside.clone()]).to_f64();
        assert!((got - want).abs() <= bound, "{:?} {len} at {offset}: {got} for {want}, {bound:e}", k.isa());
    }
}
