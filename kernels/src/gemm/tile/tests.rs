//! The unpacked product against the naive twin, on small integers: exact, on every instruction set.

use super::*;
use crate::reference;
use crate::simd::tests::Dispatch;
use crate::simd::{Isa, Op};
use crate::view::{Mat, MatMut};

struct Unpacked<'a, E> {
    shape: [usize; 3],
    a: &'a [E],
    /// (rs_a, cs_a)
    a_strides: (usize, usize),
    b: &'a [E],
    c: &'a mut [E],
    write: Write,
}

impl<E: Real> Op<E> for Unpacked<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let ([m, k, n], (rs, cs)) = (self.shape, self.a_strides);
        assert!(self.a.len() >= m * k && self.b.len() >= k * n && self.c.len() >= m * (n + 1));
        let (a, b, c) = (self.a.as_ptr(), self.b.as_ptr(), self.c.as_mut_ptr());
        let block = Block {
            m,
            k,
            n,
            alpha: E::from_f64(2.0),
            a,
            rs_a: rs,
            cs_a: cs,
            packed_a: false,
            b,
            rs_b: n,
            packed_b: false,
            c,
            rs_c: n + 1,
            write: self.write,
        };
        // SAFETY: the slices hold the shapes, asserted above; A is contiguous in one order or the
        // other; nothing is packed.
        unsafe { BlockOp::new(&block) }.run(s);
    }
}

fn exact_on_small_integers<E: Dispatch>() {
    let ints = |n: usize, seed: usize| -> Vec<E> {
        (0..n).map(|i| E::from_f64(((i * 7 + seed) * 2654435761 % 31) as f64 - 15.0)).collect()
    };
    for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
        for m in (0..=17).chain([23, 33]) {
            for n in (0..=18).chain([31, 32, 33, 47, 48, 49, 64, 65]) {
                for (k, transposed, write) in [
                    (0, false, Write::Set),
                    (1, true, Write::Set),
                    (7, false, Write::Add),
                    (6, true, Write::Add),
                ] {
                    let (a, b) = (ints(m * k, 1), ints(k * n, 2));
                    let a_strides = if transposed { (1, m) } else { (k, 1) };
                    let mut c = match write {
                        Write::Set => vec![E::NAN; m * (n + 1)],
                        Write::Add => ints(m * (n + 1), 3),
                    };
                    let mut want = c.clone();
                    let av = Mat::with_strides(&a, m, k, a_strides.0, a_strides.1).unwrap();
                    let mut cv = MatMut::with_strides(&mut want, m, n, n + 1, 1).unwrap();
                    reference::gemm(write, E::from_f64(2.0), av, Mat::new(&b, k, n).unwrap(), &mut cv);
                    E::dispatch(
                        isa,
                        Unpacked { shape: [m, k, n], a: &a, a_strides, b: &b, c: &mut c, write },
                    );
                    for (i, (x, y)) in c.iter().zip(&want).enumerate() {
                        assert!(
                            x == y || x.is_nan() && y.is_nan(),
                            "{} {m} {k} {n} {i}: {x} {y}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn unpacked_is_exact_on_small_integers() {
    exact_on_small_integers::<f32>();
    exact_on_small_integers::<f64>();
}
