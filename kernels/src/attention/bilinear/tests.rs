//! The bilinear form against differences of its own forward pass, and that against queries
//! multiplied out.

use crate::AttentionGrad;
use crate::attention::bilinear::Bilinear;
use crate::attention::problem::{KvGrad, Save, Saved};
use crate::checks::testkit::{Block, Rng, every_isa, gamma};
use crate::error::KernelError;
use crate::kernels::Kernels;
use crate::reference;
use crate::scratch::Scratch;
use crate::view::{Mat, MatMut, Write};

struct Problem {
    x: Block<f64>,
    a: Vec<f64>,
    v: Block<f64>,
    shared: bool,
}

const D: usize = 3;

impl Problem {
    fn bilinear(&self) -> Bilinear<'_, f64> {
        let v = if self.shared { self.x.mats() } else { self.v.mats() };
        Bilinear { x: self.x.mats(), a: Mat::new(&self.a, D, D).unwrap(), v, scale: 0.7 }
    }

    /// Q, out, rows.
    fn forward(&self, k: &Kernels<f64>, tq: usize) -> [Block<f64>; 3] {
        let (x, count) = (self.bilinear(), self.x.shape[0]);
        let block = |cols| Block::<f64>::new([count, tq, cols], 1, false);
        let [mut q, mut out, mut rows] = [block(D), block(x.v.cols()), block(2)];
        let len = k.bilinear_attention_scratch(count, tq, self.x.shape[1], D, x.v.cols());
        let save = Save::Rows(rows.mats_mut());
        k.bilinear_attention(&x, q.mats_mut(), out.mats_mut(), save, &mut Scratch::new(len)).unwrap();
        [q, out, rows]
    }
}

#[test]
fn gradients_are_the_derivatives() {
    for (tq, shared, heads) in [(6, true, false), (6, false, true), (2, false, false), (1, true, true)] {
        for k in every_isa::<f64>() {
            let mut rng = Rng(5);
            let (count, tk) = (2, 6);
            let block = |cols, rng: &mut Rng| Block::<f64>::new([count, tk, cols], 2, heads).random(rng, 1.0);
            let (x, v) = (block(D, &mut rng), block(4, &mut rng));
            let mut p = Problem { x, a: rng.vec(D * D, 1.0), v, shared };
            let [q, out, rows] = p.forward(&k, tq);
            let dout = Block::<f64>::new(out.shape, 0, false).random(&mut rng, 1.0);
            let w = dout.dense();
            let mut dq = Block::<f64>::new([count, tq, D], 3, false);
            let mut dx = Block::<f64>::new(p.x.shape, 1, false);
            let mut dv = Block::<f64>::new(p.v.shape, 1, false);
            dx.fill(|_| 0.5);
            dv.fill(|_| 0.0);
            let mut da = vec![0.25; D * D];
            let dkv = if shared {
                KvGrad::Shared(dx.mats_mut())
            } else {
                KvGrad::Separate { dk: Some(dx.mats_mut()), dv: Some(dv.mats_mut()) }
            };
            let b = p.bilinear();
            let len = k.bilinear_attention_scratch(count, tq, tk, D, b.v.cols());
            k.bilinear_attention_backward(
                &b,
                q.mats(),
                AttentionGrad {
                    saved: Saved::Rows(rows.mats()),
                    out: out.mats(),
                    dout: dout.mats(),
                    dq: dq.mats_mut(),
                    dkv,
                },
                MatMut::new(&mut da, D, D).unwrap(),
                &mut Scratch::new(len),
            )
            .unwrap();
            [&dq, &dx, &dv].into_iter().for_each(Block::assert_canaries);
            let mut grads: Vec<f64> = da.iter().map(|g| g - 0.25).collect();
            grads.extend(dx.dense().iter().map(|g| g - 0.5));
            grads.extend(dv.dense());
            let sizes = [D * D, count * tk * D, if shared { 0 } else { count * tk * 4 }];
            // Rounding of the forward pass, 3 h apart, and truncation by comparing two steps.
            let noise = gamma::<f64>(8 * (tk + D) + w.len()) * 8.0 * w.len() as f64;
            for at in 0..sizes.iter().sum() {
                let mut slope = |h: f64| {
                    let mut at_distance = |by: f64| {
                        let spot = |x: &Block<f64>, n: usize| {
                            let [_, r, c] = x.shape;
                            x.at(n / (r * c), n / c % r, n % c)
                        };
                        if at < sizes[0] {
                            p.a[at] += by;
                        } else if at < sizes[0] + sizes[1] {
                            let i = spot(&p.x, at - sizes[0]);
                            p.x.data[i] += by;
                        } else {
                            let i = spot(&p.v, at - sizes[0] - sizes[1]);
                            p.v.data[i] += by;
                        }
                        let [_, out, _] = p.forward(&k, tq);
                        out.dense().iter().zip(&w).map(|(o, w)| o * w).sum::<f64>()
                    };
                    let (up, down) = (at_distance(h), at_distance(-2.0 * h));
                    at_distance(h);
                    (up - down) / (2.0 * h)
                };
                let (coarse, fine) = (slope(1e-3), slope(5e-4));
                let best = fine + (fine - coarse) / 3.0;
                let bound = (fine - coarse).abs() / 3.0 + 8.0 * noise / 1e-3;
                assert!((grads[at] - best).abs() <= bound, "{:?} {at}: {} for {best}", k.isa(), grads[at]);
            }
        }
    }
}

/// The twin: Q by the textbook product, then the textbook attention, both in f64.
#[test]
fn forward_is_the_formula() {
    for k in every_isa::<f64>() {
        let mut rng = Rng(8);
        let (t, mut x) = (9, Block::<f64>::new([1, 9, D], 2, false));
        x = x.random(&mut rng, 1.0);
        let p = Problem { v: x.clone(), x, a: rng.vec(D * D, 1.0), shared: true };
        let [_, out, _] = p.forward(&k, t);
        let (mut q, mut o, mut probs) = (vec![0.0; t * D], vec![0.0; t * D], vec![0.0; t * t]);
        let (xm, a) = (p.x.mats().mat(0), Mat::new(&p.a, D, D).unwrap());
        reference::gemm(Write::Set, 1.0, xm, a, &mut MatMut::new(&mut q, t, D).unwrap());
        let mut om = MatMut::new(&mut o, t, D).unwrap();
        let mut pm = MatMut::new(&mut probs, t, t).unwrap();
        reference::attention(Mat::new(&q, t, D).unwrap(), xm, xm, 0.7, &mut om, &mut pm);
        // Scores err by γ(2 d + 2) Σ|x||A||x| <= γ 27 d.., entries being at most 1; softmax doubles
        // relative errors.
        let bound = 4.0 * gamma::<f64>(2 * D + 2) * (D * D) as f64 + 8.0 * gamma::<f64>(t + 8);
        for (a, b) in out.dense().iter().zip(&o) {
            assert!((a - b).abs() <= bound, "{:?} {a} {b}", k.isa());
        }
    }
}

#[test]
fn misfits_are_refused() {
    let k = Kernels::<f64>::from_env().unwrap();
    let x = Block::<f64>::new([2, 6, D], 0, false).random(&mut Rng(1), 1.0);
    let a = vec![0.0; 16];
    for (a_rows, a_cols, q_shape, good) in [
        (3, 3, [2, 6, 3], true),
        (4, 3, [2, 6, 3], false),
        (3, 4, [2, 6, 3], false),
        (3, 3, [2, 7, 3], false),
        (3, 3, [1, 6, 3], false),
        (3, 3, [2, 6, 2], false),
        (3, 3, [2, 0, 3], false),
    ] {
        let b = Bilinear { x: x.mats(), a: Mat::new(&a, a_rows, a_cols).unwrap(), v: x.mats(), scale: 1.0 };
        let mut q = Block::<f64>::new(q_shape, 0, false);
        let mut out = Block::<f64>::new([2, q_shape[1], D], 0, false);
        let mut scratch = Scratch::new(k.bilinear_attention_scratch(2, 7, 7, D, D));
        let r = k.bilinear_attention(&b, q.mats_mut(), out.mats_mut(), Save::Nothing, &mut scratch);
        assert_eq!(r.is_ok(), good, "{r:?}");
        assert!(good || matches!(r, Err(KernelError::Shape { .. })));
        assert!(good || q.data.iter().all(|x| x.is_nan() || *x == crate::checks::testkit::CANARY));
    }
}
