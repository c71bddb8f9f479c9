//! Errors of exp and ln in units in the last place, against double-double arithmetic (106 bits).
//! Shared by the tests, the fuzz target `elementwise` and `examples/ulp.rs`.

/// Unevaluated sum hi + lo, |lo| <= ulp(hi) / 2.
#[derive(Clone, Copy)]
struct Dd(f64, f64);

fn two_sum(a: f64, b: f64) -> Dd {
    let s = a + b;
    let t = s - a;
    Dd(s, (a - (s - t)) + (b - t))
}

fn two_prod(a: f64, b: f64) -> Dd {
    let p = a * b;
    Dd(p, a.mul_add(b, -p))
}

impl Dd {
    fn add(self, o: Dd) -> Dd {
        let (s, t) = (two_sum(self.0, o.0), two_sum(self.1, o.1));
        let s = two_sum(s.0, s.1 + t.0);
        two_sum(s.0, s.1 + t.1)
    }
    fn mul(self, o: Dd) -> Dd {
        let p = two_prod(self.0, o.0);
        two_sum(p.0, p.1 + (self.0 * o.1 + self.1 * o.0))
    }
    fn div_int(self, k: f64) -> Dd {
        let q = self.0 / k;
        two_sum(q, ((-q).mul_add(k, self.0) + self.1) / k)
    }
}

/// x 2^n in steps that neither overflow nor underflow on the way.
fn scale(x: f64, n: i32) -> f64 {
    let h = n / 2;
    let pow = |n: i32| f64::from_bits(((n + 1023) as u64) << 52);
    x * pow(h) * pow(n - h)
}

/// exp x = (1 + e) 2^n, |ln(1 + e)| <= ln 2 / 2.
fn exp_dd(x: f64) -> (Dd, i32) {
    // ln 2 in three pieces; the first two times n are exact.
    const LN2: [f64; 3] = [0.6931471805592082, 7.371002565161996e-13, 5.8029889835956905e-25];
    let n = (x / std::f64::consts::LN_2).round_ties_even();
    let r = two_sum(x - n * LN2[0], -(n * LN2[1])).add(Dd(-n * LN2[2], 0.0));
    let mut s = Dd(1.0, 0.0);
    for k in (2..=28).rev() {
        s = r.mul(s).div_int(f64::from(k)).add(Dd(1.0, 0.0));
    }
    (r.mul(s), n as i32)
}

/// ulp of a value whose exponent is that of `x`: 2^(e − 52), at least the smallest subnormal.
fn exponent(x: f64) -> i32 {
    let (x, fix) = if x.abs() < f64::MIN_POSITIVE { (scale(x, 64), 64) } else { (x, 0) };
    ((x.abs().to_bits() >> 52) as i32) - 1023 - fix
}

/// |got − exp x| in ulps of the exact value; 0 where overflow to +∞ is right.
pub fn exp_ulps(x: f64, got: f64) -> f64 {
    if x.is_nan() || got.is_nan() {
        return if x.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if x > 709.782712893384 {
        return if got == f64::INFINITY { 0.0 } else { f64::INFINITY };
    }
    if x < -800.0 {
        return if got == 0.0 { 0.0 } else { f64::INFINITY };
    }
    let (e, n) = exp_dd(x);
    let p = Dd(1.0, 0.0).add(e);
    let ulp = (exponent(p.0) + n).max(-1022) - 52;
    // The difference, scaled by 2^-n: exact up to the double-double's own error.
    let diff = two_sum(scale(got, -n), -p.0);
    let diff = (diff.0 + (diff.1 - p.1)).abs();
    scale(diff, n - ulp)
}

/// Distance of `got` from ln x in ulps of `got`, for positive finite x: ln x = got + ln(1 + δ),
/// 1 + δ = x exp(−got).
pub fn ln_ulps(x: f64, got: f64) -> f64 {
    if !got.is_finite() {
        return f64::INFINITY;
    }
    let (e, n) = exp_dd(-got);
    let y = scale(x, n);
    // In [1/2, 2] or so: y − 1 is exact.
    let d = Dd(y - 1.0, 0.0).add(Dd(y, 0.0).mul(e));
    let d = (d.0 + d.1) - 0.5 * d.0 * d.0;
    if got == 0.0 {
        return if d == 0.0 { 0.0 } else { f64::INFINITY };
    }
    scale(d.abs(), 52 - exponent(got))
}

/// Distance of `got` from `exact` in ulps of f32, `exact` being good to f64: infinite on
/// disagreement about NaN, infinity or zero.
pub fn ulps_f32(exact: f64, got: f32) -> f64 {
    if exact.is_nan() || got.is_nan() {
        return if exact.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    // Values from MAX + ulp / 2 on round to infinity.
    if exact.abs() >= f64::from(f32::MAX) + 2f64.powi(103) || got.is_infinite() {
        return if f64::from(got) == f64::INFINITY.copysign(exact) && exact.abs() > f64::from(f32::MAX) {
            0.0
        } else {
            f64::INFINITY
        };
    }
    if exact == 0.0 {
        return if got == 0.0 { 0.0 } else { f64::INFINITY };
    }
    let e = exponent(exact).max(-126) - 23;
    (f64::from(got) - exact).abs() / 2f64.powi(e)
}
