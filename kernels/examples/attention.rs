//! Times of causal attention, forward and with backward: median ms, GFLOP/s counted as 2 B T² D
//! forward and 3.5 times that with backward, and the share of the FMA peak measured beside it (of
//! one core, times the tasks). More tasks than one need the feature `parallel`.
//!
//! ```text
//! cargo run --release -p popgrad-kernels --features parallel --example attention \
//!     [isa [substring of a shape [tasks]]]
//! ```

use popgrad_kernels::{
    Attention, AttentionGrad, Elem, Isa, KernelError, Kernels, KvGrad, Mats, MatsMut, Queries, Save, Saved,
    Scratch,
};
use std::hint::black_box;
use std::time::Instant;

/// count, tq, tk, d.
const SHAPES: [[usize; 4]; 9] = [
    [16, 20, 20, 30],
    [64, 20, 20, 30],
    [1024, 20, 20, 30],
    [1024, 1, 20, 30],
    [64, 256, 256, 128],
    [64, 256, 256, 32],
    [16, 1024, 1024, 64],
    [1, 4096, 4096, 64],
    [8, 4096, 4096, 64],
];

fn numbers<E: Elem>(n: usize) -> Vec<E> {
    (0..n).map(|i| E::from_f64((i * 7919 % 1000) as f64 / 500.0 - 1.0)).collect()
}

fn median(mut f: impl FnMut() -> Result<(), KernelError>) -> Result<f64, KernelError> {
    let (mut times, begin) = (Vec::new(), Instant::now());
    while times.len() < 3 || begin.elapsed().as_secs_f64() < 0.4 && times.len() < 400 {
        let at = Instant::now();
        f()?;
        times.push(at.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// GFLOP/s of a product that lives in the first-level cache: what FMAs can do here.
fn peak<E: Elem>(k: &Kernels<E>) -> Result<f64, KernelError> {
    let (m, d, n) = (48, 64, 64);
    let (a, b, mut c) = (numbers::<E>(m * d), numbers::<E>(d * n), vec![E::ZERO; m * n]);
    let mut scratch = Scratch::new(k.gemm_scratch(m, d, n));
    let t = median(|| {
        for _ in 0..200 {
            let (a, b) = (popgrad_kernels::Mat::new(&a, m, d)?, popgrad_kernels::Mat::new(&b, d, n)?);
            let c = popgrad_kernels::MatMut::new(&mut c, m, n)?;
            k.gemm(popgrad_kernels::Write::Set, E::ONE, black_box(a), b, c, &mut scratch)?;
        }
        Ok(())
    })?;
    Ok(200.0 * (2 * m * d * n) as f64 / t / 1e9)
}

fn forward<E: Elem>(
    k: &Kernels<E>,
    x: &Attention<'_, E>,
    out: MatsMut<'_, E>,
    save: Save<'_, E>,
    scratch: &mut [Scratch<E>],
) -> Result<(), KernelError> {
    #[cfg(feature = "parallel")]
    if scratch.len() > 1 {
        return k.attention_parallel(x, out, save, scratch);
    }
    k.attention(x, out, save, &mut scratch[0])
}

fn backward<E: Elem>(
    k: &Kernels<E>,
    x: &Attention<'_, E>,
    grad: AttentionGrad<'_, E>,
    scratch: &mut [Scratch<E>],
    _fold: &mut Scratch<E>,
) -> Result<(), KernelError> {
    #[cfg(feature = "parallel")]
    if scratch.len() > 1 {
        let scratch = popgrad_kernels::ParallelScratch { tasks: scratch, shared: _fold };
        return k.attention_backward_parallel(x, grad, scratch);
    }
    let AttentionGrad { saved, out, dout, dq, dkv } = grad;
    k.attention_backward(x, saved, out, dout, dq, dkv, &mut scratch[0])
}

fn shape<E: Elem>(
    k: &Kernels<E>,
    [count, tq, tk, d]: [usize; 4],
    peak: f64,
    tasks: usize,
) -> Result<(), KernelError> {
    let mut scratch: Vec<Scratch<E>> =
        (0..tasks).map(|_| Scratch::new(k.attention_scratch(tq, tk, d, d))).collect();
    let mut fold = Scratch::new(3 * tk * 2 * d);
    let (q, key, v) =
        (numbers::<E>(count * tq * d), numbers::<E>(count * tk * d), numbers::<E>(count * tk * d));
    let (mut out, mut rows) = (vec![E::ZERO; count * tq * d], vec![E::ZERO; count * tq * 2]);
    let mut probs = vec![E::ZERO; if count * tq * tk > 1 << 23 { 0 } else { count * tq * tk }];
    let (mut dq, mut dk, mut dv) = (q.clone(), key.clone(), v.clone());
    let dout = numbers::<E>(count * tq * d);
    let (sq, sk) = ([count, tq, d], [count, tk, d]);
    let x = Attention {
        q: Mats::new(&q, sq, tq * d, d)?,
        k: Mats::new(&key, sk, tk * d, d)?,
        v: Mats::new(&v, sk, tk * d, d)?,
        scale: E::from_f64(1.0 / (d as f64).sqrt()),
        queries: Queries::Last,
    };
    let pairs = if tq == 1 { 2 * tk } else { tk * tk };
    let flops = 2.0 * (count * pairs * d) as f64;
    for with_probs in [false, true] {
        if with_probs && probs.is_empty() {
            continue;
        }
        let forward_s = median(|| {
            let save = if with_probs {
                Save::Probs(MatsMut::new(&mut probs, [count, tq, tk], tq * tk, tk)?)
            } else {
                Save::Rows(MatsMut::new(&mut rows, [count, tq, 2], tq * 2, 2)?)
            };
            forward(k, &x, MatsMut::new(&mut out, sq, tq * d, d)?, save, &mut scratch)
        })?;
        let backward_s = median(|| {
            let saved = if with_probs {
                Saved::Probs(Mats::new(&probs, [count, tq, tk], tq * tk, tk)?)
            } else {
                Saved::Rows(Mats::new(&rows, [count, tq, 2], tq * 2, 2)?)
            };
            let (out, dout) = (Mats::new(&out, sq, tq * d, d)?, Mats::new(&dout, sq, tq * d, d)?);
            let dkv = KvGrad::Separate {
                dk: Some(MatsMut::new(&mut dk, sk, tk * d, d)?),
                dv: Some(MatsMut::new(&mut dv, sk, tk * d, d)?),
            };
            let dq = MatsMut::new(&mut dq, sq, tq * d, d)?;
            backward(k, &x, AttentionGrad { saved, out, dout, dq, dkv }, &mut scratch, &mut fold)
        })?;
        let (f, b) = (flops / forward_s / 1e9, 3.5 * flops / (forward_s + backward_s) / 1e9);
        println!(
            "{} {} {count}x{tq}/{tk}x{d} {} {tasks} tasks: fwd {:.3} ms {f:.1} GF {:.0}%, fwd+bwd {:.3} ms {b:.1} GF {:.0}% of {peak:.0}",
            E::NAME,
            k.isa().name(),
            if with_probs { "probs" } else { "rows" },
            forward_s * 1e3,
            100.0 * f / peak,
            (forward_s + backward_s) * 1e3,
            100.0 * b / peak,
        );
    }
    Ok(())
}

fn all<E: Elem>(isa: Isa, only: &str, tasks: usize) -> Result<(), KernelError> {
    let k = Kernels::<E>::new(isa)?;
    let peak = peak(&k)? * tasks as f64;
    for s in SHAPES {
        if format!("{} {}x{}/{}x{}", E::NAME, s[0], s[1], s[2], s[3]).contains(only) {
            shape(&k, s, peak, tasks)?;
        }
    }
    Ok(())
}

fn main() -> Result<(), KernelError> {
    let args: Vec<String> = std::env::args().collect();
    let isa = match args.get(1) {
        Some(name) => Isa::ALL.into_iter().find(|i| i.name() == name).unwrap_or(Isa::Portable),
        None => Isa::from_env()?,
    };
    let only = args.get(2).map_or("", String::as_str);
    let tasks = args.get(3).and_then(|n| n.parse().ok()).unwrap_or(1);
    all::<f32>(isa, only, tasks)?;
    all::<f64>(isa, only, tasks)
}
