//! Throughput of the vector mathematics from the first-level cache, per instruction set: median, least and most of 15 rounds.
//!
//! `cargo run --release -p popgrad-kernels --example throughput [name part]`; pin it to one core.

use popgrad_kernels::{Elem, Isa, KernelError, Kernels, MatMut};
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
    let mut out = vec![E::ZERO; N];
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
    }
    Ok(())
}

fn main() -> Result<(), KernelError> {
    all::<f32>()?;
    all::<f64>()
}
