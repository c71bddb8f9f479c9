//! The product against its twin, an oracle of twice the precision, matrixmultiply, and itself along
//! every other path.

use super::*;
use crate::Real;
use crate::checks::{GemmCase, Layout, Values, gamma};
use crate::simd::Isa;
use crate::view::{Mats, MatsMut};
use proptest::prelude::*;

fn layout() -> impl Strategy<Value = Layout> {
    (any::<bool>(), prop_oneof![3 => Just(1usize), 1 => 2usize..4], 0usize..5)
        .prop_map(|(transposed, step, pad)| Layout { transposed, step, pad })
}

/// Sizes that are zero, one, or cross the edges of tiles: at most three of them large at once would
/// only be slow.
fn shape() -> impl Strategy<Value = (usize, usize, usize)> {
    prop_oneof![
        (0usize..4, 0usize..4, 0usize..4),
        (0usize..40, 0usize..40, 0usize..110),
        (0usize..20, 0usize..600, 0usize..20),
        (0usize..300, 0usize..12, 0usize..40),
        (0usize..10, 0usize..12, 0usize..300),
    ]
}

fn values() -> impl Strategy<Value = Values> {
    prop_oneof![Just(Values::Integers), Just(Values::Reals), Just(Values::Scaled), Just(Values::Special)]
}

fn case(
    shape: impl Strategy<Value = (usize, usize, usize)>,
    blocks: impl Strategy<Value = Option<[usize; 5]>>,
) -> impl Strategy<Value = GemmCase> {
    let how = ([layout(), layout(), layout()], any::<bool>(), prop_oneof![Just(4i8), any::<i8>()], values());
    (shape, how, any::<u64>(), blocks, any::<[bool; 2]>()).prop_map(
        |((m, k, n), (layouts, add, alpha_quarters, values), seed, blocks, pack)| GemmCase {
            m,
            k,
            n,
            layouts,
            add,
            alpha_quarters,
            values,
            seed,
            blocks,
            pack,
        },
    )
}

/// Blocks so small that little matrices cross every boundary, none of them a multiple of a tile.
fn tiny_blocks() -> impl Strategy<Value = Option<[usize; 5]>> {
    (1usize..24, 1usize..24, 1usize..60, 1usize..9, 1usize..40)
        .prop_map(|(a, b, c, d, e)| Some([a, b, c, d, e]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn as_the_library_chooses(case in case(shape(), Just(None))) {
        case.check::<f32>();
        case.check::<f64>();
    }

    #[test]
    fn across_every_block_boundary(case in case((0usize..50, 0usize..60, 0usize..120), tiny_blocks())) {
        case.check::<f32>();
        case.check::<f64>();
    }

    #[test]
    fn scratch_grows_with_each_argument(
        (m, k, n) in (0usize..3000, 0usize..3000, 0usize..3000),
        (dm, dk, dn) in (0usize..3000, 0usize..3000, 0usize..3000),
    ) {
        for isa in Isa::available() {
            let f = |m, k, n| Kernels::<f32>::new(isa).unwrap().gemm_scratch(m, k, n);
            prop_assert!(f(m, k, n) <= f(m + dm, k + dk, n + dn));
            prop_assert_eq!(f(m, k, n), f(n, k, m));
            let [m, k, n] = [m, k, n].map(|x| 1 + x % SMALL);
            prop_assert_eq!(f(m, k, n), plan::small_scratch(m, k, n));
        }
    }
}

fn dense(m: usize, k: usize, n: usize, values: Values) -> GemmCase {
    GemmCase {
        m,
        k,
        n,
        layouts: [Layout::DENSE; 3],
        add: false,
        alpha_quarters: 4,
        values,
        seed: 7,
        blocks: None,
        pack: [false; 2],
    }
}

/// Every tile of every instruction set, with every edge mask.
#[test]
fn every_tile_and_mask() {
    for m in 1..=17 {
        for n in (1..=20).chain([31, 33, 47, 48, 49, 63, 65, 80, 97]) {
            for (k, add) in [(1, true), (5, false)] {
                GemmCase { add, ..dense(m, k, n, Values::Integers) }.check::<f32>();
                GemmCase { add, ..dense(m, k, n, Values::Integers) }.check::<f64>();
            }
        }
    }
}

/// Large enough for the packed path and for several blocks in each direction, all transpositions.
#[test]
fn large_products() {
    for [ta, tb, tc] in [[false; 3], [true, false, false], [false, true, false], [true, true, true]] {
        let t = |transposed| Layout { transposed, step: 1, pad: 1 };
        let case = GemmCase { layouts: [t(ta), t(tb), t(tc)], ..dense(281, 530, 301, Values::Reals) };
        case.check::<f32>();
        case.check::<f64>();
    }
    GemmCase { add: true, ..dense(130, 257, 1030, Values::Integers) }.check::<f32>();
    GemmCase { add: true, ..dense(530, 130, 520, Values::Integers) }.check::<f64>();
}

/// A I = A and I A = A to the bit, whatever A holds.
#[test]
fn identity() {
    for isa in Isa::available() {
        let kernels = Kernels::<f32>::new(isa).unwrap();
        for n in [1, 2, 7, 16, 33, 150] {
            let a: Vec<f32> = (0..n * n).map(|i| (i as f32 * 0.7).sin() * 1e3).collect();
            let eye: Vec<f32> = (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect();
            let (a, eye) = (Mat::new(&a, n, n).unwrap(), Mat::new(&eye, n, n).unwrap());
            let mut scratch = Scratch::new(kernels.gemm_scratch(n, n, n));
            for (x, y) in [(a, eye), (eye, a)] {
                let mut c = vec![f32::NAN; n * n];
                let cv = MatMut::new(&mut c, n, n).unwrap();
                kernels.gemm(Write::Set, 1.0, x, y, cv, &mut scratch).unwrap();
                assert!((0..n * n).all(|e| c[e] == a.at(e / n, e % n)), "{} {n}", isa.name());
            }
        }
    }
}

/// Operands of stride zero are one row or column seen many times.
#[test]
fn broadcast_operands() {
    let (row, col) = ([1.0, 2.0, 3.0], [4.0, 5.0]);
    for isa in Isa::available() {
        let kernels = Kernels::<f64>::new(isa).unwrap();
        let mut scratch = Scratch::new(kernels.gemm_scratch(9, 3, 11));
        let a = Mat::with_strides(&row, 9, 3, 0, 1).unwrap();
        let b = Mat::with_strides(&col[1..], 3, 11, 0, 0).unwrap();
        let mut c = [f64::NAN; 99];
        kernels.gemm(Write::Set, 1.0, a, b, MatMut::new(&mut c, 9, 11).unwrap(), &mut scratch).unwrap();
        assert_eq!(c, [30.0; 99]);
    }
}

/// An independent implementation errs within the same bound, so the two differ by at most twice as
/// much.
#[test]
fn agrees_with_matrixmultiply() {
    let (m, k, n) = (67, 301, 91);
    let real = |i: usize| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0;
    let a: Vec<f32> = (0..m * k).map(real).collect();
    let b: Vec<f32> = (0..k * n).map(|i| real(i + 17)).collect();
    let mut rival = vec![0.0f32; m * n];
    // SAFETY: the slices hold the shapes, row-major.
    unsafe {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), rival.as_mut_ptr());
        matrixmultiply::sgemm(m, k, n, 1.0, a, k as isize, 1, b, n as isize, 1, 0.0, c, n as isize, 1);
    }
    for isa in Isa::available() {
        let kernels = Kernels::<f32>::new(isa).unwrap();
        let mut c = vec![f32::NAN; m * n];
        let mut scratch = Scratch::new(kernels.gemm_scratch(m, k, n));
        let (a, b) = (Mat::new(&a, m, k).unwrap(), Mat::new(&b, k, n).unwrap());
        kernels.gemm(Write::Set, 1.0, a, b, MatMut::new(&mut c, m, n).unwrap(), &mut scratch).unwrap();
        for e in 0..m * n {
            let abs: f64 =
                (0..k).map(|p| f64::from(a.at(e / n, p)).abs() * f64::from(b.at(p, e % n)).abs()).sum();
            let far = f64::from(c[e] - rival[e]).abs();
            assert!(far <= 2.0 * gamma(k + 3, f32::UNIT_ROUNDOFF) * abs, "{} {e}", isa.name());
        }
    }
}

#[test]
fn empty_products() {
    let kernels = Kernels::<f32>::from_env().unwrap();
    let mut scratch = Scratch::new(kernels.gemm_scratch(2, 0, 3));
    let (a, b) = (Mat::new(&[], 2, 0).unwrap(), Mat::new(&[], 0, 3).unwrap());
    let mut c = [f32::NAN; 6];
    kernels.gemm(Write::Set, 1.0, a, b, MatMut::new(&mut c, 2, 3).unwrap(), &mut scratch).unwrap();
    assert_eq!(c, [0.0; 6]);
    c = [3.0; 6];
    kernels.gemm(Write::Add, 1.0, a, b, MatMut::new(&mut c, 2, 3).unwrap(), &mut scratch).unwrap();
    assert_eq!(c, [3.0; 6]);
    let mut none = Scratch::new(0);
    let c = MatMut::new(&mut c[..0], 2, 0).unwrap();
    kernels.gemm(Write::Set, 1.0, a, Mat::new(&[], 0, 0).unwrap(), c, &mut none).unwrap();
}

#[test]
fn refusals_write_nothing() {
    let kernels = Kernels::<f64>::from_env().unwrap();
    let (a, b, mut c) = ([1.0; 6], [1.0; 12], [7.0; 8]);
    let (a, b) = (Mat::new(&a, 2, 3).unwrap(), Mat::new(&b, 3, 4).unwrap());
    let needed = kernels.gemm_scratch(2, 3, 4);
    assert!(needed > 0);
    let mut try_gemm = |a, b, (rows, cols), have| {
        let c = MatMut::new(&mut c, rows, cols).unwrap();
        kernels.gemm(Write::Set, 1.0, a, b, c, &mut Scratch::new(have)).unwrap_err()
    };
    let short = KernelError::ScratchTooSmall { needed, have: needed - 1 };
    assert_eq!(try_gemm(a, b, (2, 4), needed - 1), short);
    let shape = |what, expected, found| KernelError::Shape { op: "gemm", what, expected, found };
    assert_eq!(try_gemm(a.t(), b, (2, 4), needed), shape("b rows", 2, 3));
    assert_eq!(try_gemm(a, b, (1, 4), needed), shape("c rows", 2, 1));
    assert_eq!(try_gemm(a, b, (2, 3), needed), shape("c columns", 4, 3));
    assert_eq!(c, [7.0; 8]);
}

#[test]
fn batches_and_panels_refuse_what_does_not_fit() {
    let kernels = Kernels::<f32>::from_env().unwrap();
    let (data, mut out) = ([1.0; 24], [7.0; 16]);
    let mats = |count, rows, cols| Mats::new(&data, [count, rows, cols], rows * cols, cols).unwrap();
    let needed = kernels.gemm_scratch(2, 3, 4);
    let mut try_batch = |a, b, [count, rows, cols]: [usize; 3], have| {
        let c = MatsMut::new(&mut out, [count, rows, cols], rows * cols, cols).unwrap();
        kernels.gemm_batch(Write::Set, 1.0, a, b, c, &mut Scratch::new(have)).unwrap_err()
    };
    let (a, b) = (Batch::N(mats(2, 2, 3)), Batch::N(mats(2, 3, 4)));
    let shape = |op, what, expected, found| KernelError::Shape { op, what, expected, found };
    let short = KernelError::ScratchTooSmall { needed, have: needed - 1 };
    assert_eq!(try_batch(a, b, [2, 2, 4], needed - 1), short);
    let wrong = |what, expected, found| shape("gemm_batch", what, expected, found);
    assert_eq!(try_batch(Batch::N(mats(1, 2, 3)), b, [2, 2, 4], needed), wrong("b count", 1, 2));
    assert_eq!(try_batch(a, b, [1, 2, 4], needed), wrong("c count", 2, 1));
    assert_eq!(try_batch(Batch::T(mats(2, 2, 3)), b, [2, 2, 4], needed), wrong("b rows", 2, 3));
    assert_eq!(try_batch(a, Batch::T(mats(2, 4, 3)), [2, 1, 4], needed), wrong("c rows", 2, 1));
    assert_eq!(try_batch(a, b, [2, 2, 3], needed), wrong("c columns", 4, 3));

    let (a, b) = (Mat::new(&data, 2, 3).unwrap(), Mat::new(&data, 3, 4).unwrap());
    let mut packed = kernels.pack_b(b).unwrap();
    assert_eq!((packed.rows(), packed.cols()), (3, 4));
    let wrong = |what, expected, found| shape("gemm_packed", what, expected, found);
    let mut try_packed = |a, (rows, cols, rs, cs), have| {
        let c = MatMut::with_strides(&mut out, rows, cols, rs, cs).unwrap();
        kernels.gemm_packed(Write::Set, 1.0, a, &packed, c, &mut Scratch::new(have)).unwrap_err()
    };
    assert_eq!(try_packed(a, (2, 4, 4, 1), needed - 1), short);
    assert_eq!(try_packed(a.t(), (2, 4, 4, 1), needed), wrong("b rows", 2, 3));
    assert_eq!(try_packed(a, (3, 4, 4, 1), needed), wrong("c rows", 2, 3));
    assert_eq!(try_packed(a, (2, 3, 4, 1), needed), wrong("c columns", 4, 3));
    assert_eq!(try_packed(a, (2, 4, 1, 2), needed), wrong("c column stride", 1, 2));
    assert_eq!(out, [7.0; 16]);
    let wrong = |what, expected, found| shape("repack_b", what, expected, found);
    assert_eq!(kernels.repack_b(b.t(), &mut packed).unwrap_err(), wrong("b rows", 3, 4));
    let narrow = Mat::new(&data, 3, 3).unwrap();
    assert_eq!(kernels.repack_b(narrow, &mut packed).unwrap_err(), wrong("b columns", 4, 3));
    for isa in Isa::available().filter(|isa| *isa != kernels.isa()) {
        let other = Kernels::<f32>::new(isa).unwrap();
        let c = MatMut::new(&mut out, 2, 4).unwrap();
        let refused = other.gemm_packed(Write::Set, 1.0, a, &packed, c, &mut Scratch::new(needed));
        assert!(matches!(refused, Err(KernelError::Domain { what: "packed b", .. })), "{refused:?}");
        assert!(other.repack_b(b, &mut packed).is_err());
    }
    // Seen many times over, one element can be a matrix of any size: more panels than memory holds.
    let vast = Mat::with_strides(&data, 1 << 58, 1, 0, 0).unwrap();
    assert_eq!(kernels.pack_b(vast).unwrap_err(), KernelError::Overflow);
}

#[test]
fn scratch_never_panics_and_stays_small() {
    for isa in Isa::available() {
        for bytes in [4, 8] {
            let f = |m, k, n| match bytes {
                4 => Kernels::<f32>::new(isa).unwrap().gemm_scratch(m, k, n),
                _ => Kernels::<f64>::new(isa).unwrap().gemm_scratch(m, k, n),
            };
            let huge = f(usize::MAX, usize::MAX, usize::MAX);
            assert!(huge * bytes < 8 << 20, "{huge}");
            assert_eq!(f(usize::MAX, 1 << 20, usize::MAX), huge);
            assert_eq!(f(0, 5, 5), 0);
        }
    }
}

#[test]
fn plans_refuse_what_does_not_fit() {
    for isa in Isa::available() {
        let kernels = Kernels::<f32>::new(isa).unwrap();
        let shape = GemmShape::dense(2, 3, 4);
        let plan = kernels.plan_gemm(Write::Set, 1.0, shape).unwrap();
        assert_eq!((plan.shape(), plan.scratch_len()), (shape, 0));
        let (ones, mut c, mut none) = ([1.0; 24], [7.0; 16], Scratch::new(0));
        let short = |what, needed| {
            let op = "planned gemm";
            KernelError::Shape { op, what, expected: needed, found: needed - 1 }
        };
        let mut run = |a, b, have| plan.run(&ones[..a], &ones[..b], &mut c[..have], &mut none);
        assert_eq!(run(5, 12, 8).unwrap_err(), short("a length", 6));
        assert_eq!(run(6, 11, 8).unwrap_err(), short("b length", 12));
        assert_eq!(run(6, 12, 7).unwrap_err(), short("c length", 8));
        let mut batch = |next, have| plan.run_batch(2, next, &ones, &ones, &mut c[..have], &mut none);
        assert_eq!(batch([6, 12, 8], 15).unwrap_err(), short("c length", 16));
        assert!(matches!(batch([6, 12, 7], 16).unwrap_err(), KernelError::SelfOverlap { .. }));
        assert_eq!(batch([usize::MAX, 12, 8], 16).unwrap_err(), KernelError::Overflow);
        assert_eq!(c, [7.0; 16]);
        // A product that packs needs the scratch of `gemm`.
        let packs = kernels.plan_gemm(Write::Set, 1.0, GemmShape::dense(9, 9, 9).b_transposed()).unwrap();
        let needed = packs.scratch_len();
        assert_eq!(needed, kernels.gemm_scratch(9, 9, 9));
        let (x, mut c) = ([1.0; 81], [7.0; 81]);
        let refused = packs.run(&x, &x, &mut c, &mut Scratch::new(needed - 1)).unwrap_err();
        assert_eq!(refused, KernelError::ScratchTooSmall { needed, have: needed - 1 });
        assert_eq!(c, [7.0; 81]);
        packs.run(&x, &x, &mut c, &mut Scratch::new(needed)).unwrap();
        assert_eq!(c, [9.0; 81]);
        // Shapes that no memory holds, and outputs that overlap themselves.
        let vast = GemmShape { sizes: [1 << 40, 1 << 40, 1], ..shape };
        assert_eq!(kernels.plan_gemm(Write::Set, 1.0, vast).unwrap_err(), KernelError::Overflow);
        let overlap = GemmShape { c: [3, 1], ..shape };
        let refused = kernels.plan_gemm(Write::Set, 1.0, overlap).unwrap_err();
        assert!(matches!(refused, KernelError::SelfOverlap { .. }));
        // Nothing to do is done.
        let empty = kernels.plan_gemm(Write::Set, 1.0, GemmShape::dense(0, 3, 4)).unwrap();
        empty.run(&[], &ones, &mut [], &mut Scratch::new(0)).unwrap();
        let zeros = kernels.plan_gemm(Write::Set, 1.0, GemmShape::dense(2, 0, 2)).unwrap();
        let mut c = [7.0; 4];
        zeros.run(&[], &[], &mut c, &mut Scratch::new(0)).unwrap();
        assert_eq!(c, [0.0; 4]);
    }
}
