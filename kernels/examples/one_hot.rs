//! Look-ups over one-hot rows and the products between them, at the shapes of a training step:
//! microseconds per call on 64 sequences, median of 31 rounds, per instruction set.
//!
//! `cargo run --release -p popgrad-kernels --example one_hot [isa]`; pin it to one core.

use popgrad_kernels::{Elem, Isa, KernelError, Kernels, Mat, MatMut, OneHot, PatternTerms, Scratch, Write};
use std::hint::black_box;
use std::time::Instant;

const B: usize = 64;

fn show(name: &str, mut f: impl FnMut() -> Result<(), KernelError>) -> Result<f64, KernelError> {
    let (mut times, mut calls) = (Vec::new(), 1u32);
    while times.len() < 31 {
        let start = Instant::now();
        for _ in 0..calls {
            f()?;
        }
        let seconds = start.elapsed().as_secs_f64();
        if seconds < 0.001 {
            calls *= 2;
        } else {
            times.push(seconds / f64::from(calls) * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    println!("  {name:48} {:8.2} us", times[15]);
    Ok(times[15])
}

fn shape<E: Elem>(isa: Isa, s: usize, t: usize, heads: usize) -> Result<(), KernelError> {
    println!("{} {} S={s} T={t}, {heads} patterns", isa.name(), E::NAME);
    let k = Kernels::<E>::new(isa)?;
    let d = s + t;
    let (d1, d2) = (d * (1 + heads), 2 * d * (1 + heads));
    let value = |i: usize| E::from_f64((i * 7919 % 1009) as f64 / 1009.0 - 0.5);
    let fill = |n: usize| (0..n).map(value).collect::<Vec<E>>();
    // Words in which tokens come again, as they do in chains.
    let tokens: Vec<u32> = (0..B * t).map(|i| ((i / t * 31 + i * i % 7 + i % 3) % s) as u32).collect();
    let x = OneHot::new(&tokens, t, s)?;
    let table = fill(d * d);
    let mut patterns = vec![E::ZERO; x.patterns_len()];
    let mut scratch = Scratch::new(
        k.one_hot_scratch(t, s).unwrap_or(0).max(k.gemm_scratch(d2, d2, B)).max(k.gemm_scratch(d1, B, d1)),
    );
    let h = heads as f64;
    let mut all = 0.0;
    all += h * show("patterns", || {
        k.one_hot_patterns(Mat::new(black_box(&table), d, d)?, &x, &mut patterns, &mut scratch)
    })?;
    let (rows, wide) = (fill(t * B), fill(d * B));
    let (mut out, mut out_wide) = (fill(t * B), fill(d * B));
    let calls = 2.0 * (1.0 + h);
    all += (calls + h)
        * show("x v", || k.one_hot_mul(&x, Mat::new(black_box(&wide), d, B)?, MatMut::new(&mut out, t, B)?))?;
    all += (calls + h)
        * show("xT v", || {
            k.one_hot_mul_t(&x, Mat::new(black_box(&rows), t, B)?, MatMut::new(&mut out_wide, d, B)?)
        })?;
    all += 2.0
        * h
        * show("P v", || {
            k.patterns_mul_add(&x, &patterns, Mat::new(black_box(&rows), t, B)?, MatMut::new(&mut out, t, B)?)
        })?;
    all += 2.0
        * h
        * show("PT v", || {
            k.patterns_mul_t(&x, &patterns, Mat::new(black_box(&rows), t, B)?, MatMut::new(&mut out, t, B)?)
        })?;
    all += h * show("last rows of P", || k.patterns_last(&x, &patterns, MatMut::new(&mut out, t, B)?))?;
    all += show("softmax of columns", || {
        out.copy_from_slice(black_box(&rows));
        k.softmax_columns(MatMut::new(&mut out, t, B)?)
    })?;
    all += show("its gradient", || {
        out.copy_from_slice(black_box(&rows));
        k.softmax_columns_backward(Mat::new(&rows, t, B)?, MatMut::new(&mut out, t, B)?)
    })?;
    let two = fill(2 * t * B);
    let mut dtable = fill(d * d);
    all += h * show("gradient of patterns, two terms", || {
        let two = Mat::new(black_box(&two), 2 * t, B)?;
        let from = PatternTerms { left: two, right: two, last: Mat::new(&rows, t, B)? };
        k.one_hot_patterns_backward(&x, &patterns, from, MatMut::new(&mut dtable, d, d)?, &mut scratch)
    })?;
    let (u, a, w, f, q) =
        (fill((s + 1 + d1 - d) * B), fill(d1 * d1), fill(d2 * s), fill(d2 * B), fill(d1 * B));
    let (mut c, mut da, mut dw, mut logits) =
        (fill(d1.max(d2) * B), fill(d1 * d1), fill(d2 * s), fill(B * s));
    let rest = 1 + d1 - d;
    all += show("q = AT u", || {
        let (u, a) = (Mat::new(black_box(&u), s + rest, B)?, Mat::new(&a, d1, d1)?);
        let (ua, ub) = (u.sub(0, s, 0, B), u.sub(s, rest, 0, B));
        k.gemm(Write::Set, E::ONE, a.sub(0, s, 0, d1).t(), ua, MatMut::new(&mut c, d1, B)?, &mut scratch)?;
        k.gemm(
            Write::Add,
            E::ONE,
            a.sub(d - 1, rest, 0, d1).t(),
            ub,
            MatMut::new(&mut c, d1, B)?,
            &mut scratch,
        )
    })?;
    all += show("dA = u dqT", || {
        let (u, q) = (Mat::new(black_box(&u), s + rest, B)?, Mat::new(&q, d1, B)?);
        let (to, more) = da.split_at_mut(s * d1);
        k.gemm(Write::Set, E::ONE, u.sub(0, s, 0, B), q.t(), MatMut::new(to, s, d1)?, &mut scratch)?;
        let c = MatMut::new(&mut more[..rest * d1], rest, d1)?;
        k.gemm(Write::Set, E::ONE, u.sub(s, rest, 0, B), q.t(), c, &mut scratch)
    })?;
    all += show("du = A dq", || {
        let a = Mat::new(black_box(&a), d1, d1)?.sub(d, d1 - d, 0, d1);
        k.gemm(
            Write::Add,
            E::ONE,
            a,
            Mat::new(&q, d1, B)?,
            MatMut::new(&mut c, d1, B)?.sub(0, d1 - d, 0, B),
            &mut scratch,
        )
    })?;
    let rest = 1 + d2 - d;
    let f = Mat::new(&f, d2, B)?;
    let (fa, fb) = (f.sub(0, s, 0, B), f.sub(s, rest.min(d2 - s), 0, B));
    let w_rest = Mat::new(&w, d2, s)?.sub(d2 - fb.rows(), fb.rows(), 0, s);
    all += show("logits", || {
        let w = Mat::new(black_box(&w), d2, s)?.sub(0, s, 0, s);
        k.gemm(Write::Set, E::ONE, w.t(), fa, MatMut::new(&mut logits, B, s)?.t(), &mut scratch)?;
        k.gemm(Write::Add, E::ONE, w_rest.t(), fb, MatMut::new(&mut logits, B, s)?.t(), &mut scratch)
    })?;
    let dlogits = fill(B * s);
    all += show("dW", || {
        let z = Mat::new(black_box(&dlogits), B, s)?;
        k.gemm(Write::Set, E::ONE, fa, z, MatMut::new(&mut dw[..s * s], s, s)?, &mut scratch)?;
        k.gemm(Write::Set, E::ONE, fb, z, MatMut::new(&mut dw[..fb.rows() * s], fb.rows(), s)?, &mut scratch)
    })?;
    all += show("df", || {
        let z = Mat::new(black_box(&dlogits), B, s)?;
        k.gemm(
            Write::Set,
            E::ONE,
            w_rest,
            z.t(),
            MatMut::new(&mut c[..fb.rows() * B], fb.rows(), B)?,
            &mut scratch,
        )
    })?;
    let (targets, weights) = (vec![1.0 / s as f64; B * s], vec![1.0 / B as f64; B]);
    let (mut losses, mut probs) = (vec![0.0; B], fill(B * s));
    all += show("cross-entropy and its gradient", || {
        let (z, y) = (Mat::new(black_box(&dlogits), B, s)?, Mat::new(&targets, B, s)?);
        k.cross_entropy(z, y, &mut losses, MatMut::new(&mut probs, B, s)?)?;
        k.cross_entropy_backward(Mat::new(&probs, B, s)?, y, &weights, MatMut::new(&mut logits, B, s)?)
    })?;
    println!("  {:48} {all:8.2} us; 16 of them {:.3} ms", "a shard's step, calls counted", all * 16e-3);
    Ok(())
}

fn main() -> Result<(), KernelError> {
    let only = std::env::args().nth(1);
    for isa in Isa::available().filter(|i| only.as_deref().is_none_or(|o| o == i.name())) {
        shape::<f32>(isa, 10, 20, 1)?;
        shape::<f64>(isa, 10, 20, 1)?;
        shape::<f32>(isa, 5, 32, 2)?;
    }
    Ok(())
}
