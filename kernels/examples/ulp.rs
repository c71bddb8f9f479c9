//! Largest error of exp and ln in ulps, per instruction set: every f32, and as many f64 as asked
//! (default 20 million).
//!
//! `cargo run --release -p popgrad-kernels --features checks --example ulp [points] [stride]`

use popgrad_kernels::checks::ulps::{exp_ulps, ln_ulps, ulps_f32};
use popgrad_kernels::{Isa, KernelError, Kernels};

const CHUNK: usize = 1 << 14;

/// Largest error so far and where.
type Worst = (f64, f64);

fn note(worst: &mut Worst, err: f64, x: f64) {
    if err > worst.0 {
        *worst = (err, x);
    }
}

fn single(isas: &[Isa], stride: u64) -> Result<(), KernelError> {
    let mut worst = vec![[(0.0, 0.0); 2]; isas.len()];
    let (mut x, mut out) = (vec![0f32; CHUNK], vec![0f32; CHUNK]);
    let mut at = 0u64;
    while at < 1 << 32 {
        for x in &mut x {
            *x = f32::from_bits(at as u32);
            at += stride;
        }
        let exp: Vec<f64> = x.iter().map(|x| f64::from(*x).exp()).collect();
        let ln: Vec<f64> = x.iter().map(|x| f64::from(*x).ln()).collect();
        for (worst, isa) in worst.iter_mut().zip(isas) {
            let k = Kernels::<f32>::new(*isa)?;
            k.exp(&x, &mut out)?;
            for i in 0..CHUNK {
                note(&mut worst[0], ulps_f32(exp[i], out[i]), f64::from(x[i]));
            }
            k.ln(&x, &mut out)?;
            for i in 0..CHUNK {
                note(&mut worst[1], ulps_f32(ln[i], out[i]), f64::from(x[i]));
            }
        }
    }
    for (w, isa) in worst.iter().zip(isas) {
        println!("f32 {:9} exp {:.4} at {:e}   ln {:.4} at {:e}", isa.name(), w[0].0, w[0].1, w[1].0, w[1].1);
    }
    Ok(())
}

fn double(isas: &[Isa], points: usize) -> Result<(), KernelError> {
    let mut worst = vec![[(0.0, 0.0); 2]; isas.len()];
    let mut state = 1u64;
    let mut draw = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let z = (state ^ (state >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        z ^ (z >> 29)
    };
    let (mut x, mut y, mut out) = (vec![0f64; CHUNK], vec![0f64; CHUNK], vec![0f64; CHUNK]);
    for _ in 0..points.div_ceil(CHUNK) {
        for i in 0..CHUNK {
            let unit = (draw() >> 11) as f64 / (1u64 << 53) as f64;
            // Half over the whole range, half where the result is near 1 (exp) or the argument is
            // (ln).
            let near = draw() & 1 == 0;
            x[i] = if near { unit * 2.0 - 1.0 } else { unit * 1456.0 - 746.0 };
            y[i] = if near {
                0.5 + 1.5 * unit
            } else {
                f64::from_bits(draw() >> 1).clamp(f64::from_bits(1), f64::MAX)
            };
            if y[i].is_nan() {
                y[i] = 2.0;
            }
        }
        for (worst, isa) in worst.iter_mut().zip(isas) {
            let k = Kernels::<f64>::new(*isa)?;
            k.exp(&x, &mut out)?;
            for i in 0..CHUNK {
                note(&mut worst[0], exp_ulps(x[i], out[i]), x[i]);
            }
            k.ln(&y, &mut out)?;
            for i in 0..CHUNK {
                note(&mut worst[1], ln_ulps(y[i], out[i]), y[i]);
            }
        }
    }
    for (w, isa) in worst.iter().zip(isas) {
        println!("f64 {:9} exp {:.4} at {:e}   ln {:.4} at {:e}", isa.name(), w[0].0, w[0].1, w[1].0, w[1].1);
    }
    Ok(())
}

fn main() -> Result<(), KernelError> {
    let mut args = std::env::args().skip(1).filter_map(|a| a.parse::<u64>().ok());
    let isas: Vec<Isa> = Isa::available().collect();
    double(&isas, args.next().unwrap_or(20_000_000) as usize)?;
    single(&isas, args.next().unwrap_or(1).max(1))
}
