//! Constants of the vector exp and log and of the tiles, per element type.
//!
//! Polynomials are weighted minimax fits (Remez exchange in 80 digits), rounded to the element
//! type. ln 2 comes as hi + lo with so many trailing zeros in hi that `n * hi` is exact for every
//! exponent n: the reduction is then the same with and without fused multiply-add.

/// What the loops of kernels need to know about an element type.
pub trait MathConsts: Sized + 'static {
    /// exp r = 1 + r + r² (c0 + c1 r + ..), |r| <= ln 2 / 2. Error: 3e-9 (f32, 1/20 ulp), 4e-18
    /// (f64), relative.
    const EXP: &'static [Self];
    /// 2 atanh s = 2 s + s z (c0 + c1 z + ..), z = s², |s| <= (√2 − 1)/(√2 + 1). Error: 5e-12
    /// (f32), 2e-18 (f64), relative.
    const LOG: &'static [Self];
    /// 1 / ln 2.
    const LOG2_E: Self;
    /// Leading bits of ln 2: 14 (f32), 40 (f64).
    const LN2_HI: Self;
    /// ln 2 − hi.
    const LN2_LO: Self;
    /// exp is +∞ here and beyond.
    const EXP_MAX: Self;
    /// exp rounds to 0 here and below: half the smallest subnormal is larger.
    const EXP_MIN: Self;
    /// Softmax writes 0 for e^(x − max) below e^this: results and their quotients by any sensible
    /// sum stay normal numbers.
    const SOFTMAX_MIN: Self;
    /// √2.
    const SQRT_2: Self;
    /// Smallest positive (subnormal) value.
    const TINY: Self;
    /// 0, 1, 2, ..: compared with a length, it masks lanes.
    const INDEX: [Self; 16];
    /// A row of -0, as long as the widest tile of a product.
    const NEG_ZEROS: &'static [Self; 64];
}

impl MathConsts for f32 {
    const EXP: &'static [f32] = &[0.49999994, 0.16666521, 0.04166839, 0.008368745, 0.0013814549];
    const LOG: &'static [f32] = &[0.6666666, 0.40000334, 0.285373, 0.23582293];
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HI: f32 = f32::from_bits(0x3F31_7000);
    const LN2_LO: f32 = 3.1946183e-05;
    const EXP_MAX: f32 = 89.0;
    const EXP_MIN: f32 = -104.0;
    const SOFTMAX_MIN: f32 = -80.0;
    const SQRT_2: f32 = std::f32::consts::SQRT_2;
    const TINY: f32 = f32::from_bits(1);
    const INDEX: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
    const NEG_ZEROS: &'static [f32; 64] = &[-0.0; 64];
}

impl MathConsts for f64 {
    const EXP: &'static [f64] = &[
        0.5000000000000011,
        0.16666666666666413,
        0.041666666666530155,
        0.00833333333349446,
        0.0013888888943630205,
        0.00019841269506579748,
        2.4801493098818066e-05,
        2.7557586375895884e-06,
        2.7630248407465575e-07,
        2.500006022014549e-08,
    ];
    const LOG: &'static [f64] = &[
        0.6666666666666734,
        0.3999999999941432,
        0.28571428742475147,
        0.22222198563468804,
        0.18183564867017388,
        0.1531403583813008,
        0.14796105312300525,
    ];
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    const LN2_HI: f64 = f64::from_bits(0x3FE6_2E42_FEFA_2000);
    const LN2_LO: f64 = 7.371002565167799e-13;
    const EXP_MAX: f64 = 710.0;
    const EXP_MIN: f64 = -746.0;
    const SOFTMAX_MIN: f64 = -700.0;
    const SQRT_2: f64 = std::f64::consts::SQRT_2;
    const TINY: f64 = f64::from_bits(1);
    const INDEX: [f64; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
    const NEG_ZEROS: &'static [f64; 64] = &[-0.0; 64];
}
