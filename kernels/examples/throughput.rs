//! Throughput of the vector mathematics from the first-level cache, per instruction set: median,
//! least and most of 15 rounds.
//!
//! `cargo run --release -p popgrad-kernels --example throughput [name part]`; pin it to one core.

use popgrad_kernels::{AdamW, Elem, Isa, KernelError, Kernels, Mat, MatMut, Sgd};
use std::hint::black_box;
use std::time::Instant;

/// 8 or 16 KiB with its output.
const N: usize = 1920;

fn show(name: &str, work: f64, mut f: impl FnMut() -> Result<(), KernelError>) -> Result<(), KernelError> {
    if std::env::args().nth(1).is_some_and(|part| !name.contains(&part)) {
        return Ok(());
    }
    let mut rates = Vec::new();
    let mut calls = 1u32;
    while rates.len() < 15 {
        let start = Instant::now();
        for _ in 0..calls {
            f()?;
        }
        let seconds = start.elapsed().as_secs_f64();
        if seconds < 0.004 {
            calls *= 2;
        } else {
            rates.push(work * f64::from(calls) / seconds / 1e9);
        }
    }
    rates.sort_by(f64::total_cmp);
    println!("{name:40} {:7.3} G/s [{:.3}, {:.3}]", rates[7], rates[0], rates[14]);
    Ok(())
}

fn all<E: Elem>() -> Result<(), KernelError> {
    let x: Vec<E> = (0..N).map(|i| E::from_f64((i * 7919 % 1000) as f64 / 50.0 - 10.0)).collect();
    let y: Vec<E> = (0..N).map(|i| E::from_f64((i * 7919 % 1000) as f64 / 50.0 + 0.01)).collect();
    let (mut out, mut grad, mut square) = (vec![E::ZERO; N], vec![E::ZERO; N], vec![E::ONE; N]);
    for isa in Isa::available() {
        let k = Kernels::<E>::new(isa)?;
        let name = |op: &str| format!("{op} {} {}", E::NAME, isa.name());
        show(&name("exp"), N as f64, || k.exp(black_box(&x), &mut out))?;
        show(&name("ln"), N as f64, || k.ln(black_box(&y), &mut out))?;
        show(&name("sum"), N as f64, || {
            black_box(k.sum(black_box(&x)));
            Ok(())
        })?;
        for n in [20, 32, 60, 240] {
            show(&name(&format!("softmax of {n}")), N as f64, || {
                k.softmax_rows(MatMut::new(black_box(&mut out), N / n, n)?)
            })?;
        }
        show(&name("dot"), N as f64, || {
            black_box(k.dot(black_box(&x), &y)?);
            Ok(())
        })?;
        for n in [10, 64] {
            let rows = N / n;
            let (z, labels) = (&x[..rows * n], vec![3; rows]);
            let (mut losses, weights) = (vec![0.0; rows], vec![1.0; rows]);
            let size = (rows * n) as f64;
            show(&name(&format!("labels, {n}, both ways")), size, || {
                k.cross_entropy_labels(
                    Mat::new(z, rows, n)?,
                    &labels,
                    &mut losses,
                    MatMut::new(&mut out, rows, n)?,
                )?;
                k.cross_entropy_labels_backward(
                    Mat::new(&out, rows, n)?,
                    &labels,
                    &weights,
                    MatMut::new(black_box(&mut grad), rows, n)?,
                )
            })?;
        }
        for n in [64, 128] {
            let rows = N / n;
            let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
            let (mut dw, mut db) = (vec![E::ZERO; n], vec![E::ZERO; n]);
            let size = (rows * n) as f64;
            show(&name(&format!("layer norm of {n}")), size, || {
                let x = Mat::new(black_box(&x), rows, n)?;
                k.layer_norm(x, &y[..n], &y[..n], 1e-5, MatMut::new(&mut out, rows, n)?, &mut mean, &mut rstd)
            })?;
            show(&name(&format!("layer norm of {n}, backward")), size, || {
                let (x, g) = (Mat::new(black_box(&x), rows, n)?, Mat::new(&out, rows, n)?);
                let dx = MatMut::new(&mut grad, rows, n)?;
                k.layer_norm_backward(x, &y[..n], &mean, &rstd, g, dx, &mut dw, &mut db)
            })?;
        }
        show(&name("sgd"), N as f64, || {
            let step = Sgd { lr: 1e-9, momentum: 0.0, weight_decay: 1e-4 };
            k.sgd(step, black_box(&mut out), &x, &mut [])
        })?;
        show(&name("sgd, momentum"), N as f64, || {
            let step = Sgd { lr: 1e-9, momentum: 0.9, weight_decay: 1e-4 };
            k.sgd(step, black_box(&mut out), &x, &mut grad)
        })?;
        out.fill(E::ONE);
        show(&name("adamw"), N as f64, || {
            let step = AdamW { lr: 1e-9, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 1e-2 };
            k.adamw(step, 100, black_box(&mut out), &x, &mut grad, &mut square)
        })?;
        show(&name("relu, backward"), N as f64, || k.relu_backward(black_box(&x), &mut grad))?;
        let tokens: Vec<u32> = (0..N / 64).map(|i| (i * 7 % 30) as u32).collect();
        let size = (tokens.len() * 64) as f64;
        show(&name("gather of 64"), size, || {
            let table = Mat::new(black_box(&x), 30, 64)?;
            k.gather(table, &tokens, MatMut::new(&mut out, tokens.len(), 64)?)
        })?;
        show(&name("scatter-add of 64"), size, || {
            let dout = Mat::new(black_box(&x), tokens.len(), 64)?;
            k.scatter_add(dout, &tokens, MatMut::new(&mut grad, 30, 64)?)
        })?;
    }
    Ok(())
}

fn main() -> Result<(), KernelError> {
    all::<f32>()?;
    all::<f64>()
}
