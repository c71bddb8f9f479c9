//! popgrad-kernels, on the instruction set that POPGRAD_ISA names, and the quantities of the
//! machine. With RIVAL_PLANNED=1 products are planned beforehand, once per case.

use popgrad_kernels::{
    Elem, GemmPlan, GemmShape, Isa, Kernels, Mat, MatMut, ParallelScratch, Scratch, Write,
};
use rayon::prelude::*;
use rival_worker::{Aligned, Case, Gemm, Scalar, Worker, nanoseconds, serve};
use std::hint::black_box;
use std::time::Instant;

/// Flops below which a batch stays on one thread: some ten microseconds.
const WORTH_A_TASK: f64 = 1e6;

/// One scratch per part of the work, of which there are as many as threads.
struct Ours<E> {
    kernels: Kernels<E>,
    scratch: Vec<Scratch<E>>,
    shared: Scratch<E>,
    /// Are products planned?
    plans: bool,
    plan: Option<GemmPlan<E>>,
    /// Input and output of each thread, kept while the case stays.
    machine: Option<(Case, Vec<(Aligned<E>, Aligned<E>)>)>,
}

impl<E: Elem + Scalar> Ours<E> {
    fn new(isa: Isa, plans: bool) -> Self {
        Ours {
            kernels: Kernels::new(isa).expect("an instruction set of this CPU"),
            scratch: Vec::new(),
            shared: Scratch::new(0),
            plans,
            plan: None,
            machine: None,
        }
    }
}

/// The operands of one problem.
fn operands<'a, E: Elem>(case: &Case, a: &'a [E], b: &'a [E]) -> [Mat<'a, E>; 2] {
    let [ta, tb] = case.transposed;
    let a = match ta {
        true => Mat::new(a, case.k, case.m).expect("A").t(),
        false => Mat::new(a, case.m, case.k).expect("A"),
    };
    let b = match tb {
        true => Mat::new(b, case.n, case.k).expect("B").t(),
        false => Mat::new(b, case.k, case.n).expect("B"),
    };
    [a, b]
}

impl<E: Elem + Scalar> Ours<E> {
    fn prepare(&mut self, case: &Case) {
        let scratch = self.kernels.gemm_scratch(case.m, case.k, case.n);
        self.scratch = (0..case.threads).map(|_| Scratch::new(scratch)).collect();
        let shape = GemmShape::dense(case.m, case.k, case.n);
        let shape = if case.transposed[0] { shape.a_transposed() } else { shape };
        let shape = if case.transposed[1] { shape.b_transposed() } else { shape };
        let plan = || self.kernels.plan_gemm(Write::Set, E::ONE, shape).expect("a shape");
        self.plan = self.plans.then(plan);
        self.shared.reserve(self.kernels.gemm_shared_scratch(case.m, case.k, case.n));
    }

    fn multiply(&mut self, case: &Case, a: &[E], b: &[E], c: &mut [E]) {
        // Nothing between the small product and its call.
        if let ((1, 1), Some(plan)) = ((case.batch, case.threads), &self.plan) {
            return plan.run(a, b, c, &mut self.scratch[0]).expect("operands that fit");
        }
        self.others(case, a, b, c);
    }

    /// A function of its own, whose many registers the small product need not save.
    #[inline(never)]
    fn others(&mut self, case: &Case, a: &[E], b: &[E], c: &mut [E]) {
        let (m, k, n) = (case.m, case.k, case.n);
        let kernels = self.kernels;
        let plan = self.plan.as_ref();
        let some = |b0: usize, c: &mut [E], scratch: &mut Scratch<E>| {
            let (a, b) = (&a[b0 * m * k..], &b[b0 * k * n..]);
            match plan {
                Some(plan) => {
                    let next = [m * k, k * n, m * n];
                    plan.run_batch(c.len() / (m * n), next, a, b, c, scratch).expect("operands that fit");
                }
                None => case.each(a, b, c, |a, b, c| {
                    let [a, b] = operands(case, a, b);
                    let c = MatMut::new(c, m, n).expect("C");
                    kernels.gemm(Write::Set, E::ONE, a, b, c, scratch).expect("operands that fit");
                }),
            }
        };
        if case.batch == 1 && case.threads > 1 {
            let [a, b] = operands(case, a, b);
            let c = MatMut::new(c, m, n).expect("C");
            let (scratch, shared) = (&mut self.scratch, &mut self.shared);
            kernels
                .gemm_parallel(Write::Set, E::ONE, a, b, c, ParallelScratch { tasks: scratch, shared })
                .expect("operands that fit");
        } else if case.threads == 1 || case.flops() < WORTH_A_TASK {
            some(0, c, &mut self.scratch[0]);
        } else {
            let problems = case.batch.div_ceil(case.threads);
            let parts = c.par_chunks_mut(problems * m * n).zip(&mut self.scratch).enumerate();
            parts.for_each(|(i, (c, scratch))| some(i * problems, c, scratch));
        }
    }

    /// Nanoseconds and checksum of a quantity of the machine, on every thread at once.
    fn machine(&mut self, case: &Case, rounds: usize) -> (u64, u64) {
        let kernels = self.kernels;
        let len = if case.op == "load" { case.m / size_of::<E>() } else { case.m };
        let len = if case.op == "fma" { 0 } else { len };
        if self.machine.as_ref().is_none_or(|(c, _)| c != case) {
            let of = |i: usize| E::from_f64((i % 64) as f64 / 4.0 - 8.0);
            let out = if case.op == "exp" { len } else { 0 };
            let data = (0..case.threads).map(|_| (Aligned::new(len, of), Aligned::new(out, of))).collect();
            self.machine = Some((case.clone(), data));
        }
        let Some((_, data)) = &mut self.machine else { unreachable!() };
        let work = |(x, out): &mut (Aligned<E>, Aligned<E>)| {
            let mut flops = 0;
            for _ in 0..rounds {
                match case.op.as_str() {
                    "fma" => flops += kernels.fma_peak(case.m as u32),
                    "load" => {
                        black_box(kernels.load_sweep(black_box(x.get())));
                    }
                    _ => kernels.exp(black_box(x.get()), out.get_mut()).expect("equal lengths"),
                }
            }
            flops
        };
        let start = Instant::now();
        let checksum = if case.threads == 1 {
            data.iter_mut().map(work).sum()
        } else {
            data.par_iter_mut().with_max_len(1).map(work).sum()
        };
        (nanoseconds(start), checksum)
    }
}

struct Both {
    isa: Isa,
    plans: bool,
    single: Ours<f32>,
    double: Ours<f64>,
}

impl Gemm<f32> for Both {
    fn prepare(&mut self, case: &Case) -> Result<(), String> {
        planned_or_not(self.plans, case)?;
        self.single.prepare(case);
        Ok(())
    }
    fn multiply(&mut self, case: &Case, a: &[f32], b: &[f32], c: &mut [f32]) {
        self.single.multiply(case, a, b, c);
    }
}

/// A single product on several threads has no plan.
fn planned_or_not(plans: bool, case: &Case) -> Result<(), String> {
    if plans && case.batch == 1 && case.threads > 1 {
        return Err("no plan of one product on several threads".into());
    }
    Ok(())
}

impl Gemm<f64> for Both {
    fn prepare(&mut self, case: &Case) -> Result<(), String> {
        planned_or_not(self.plans, case)?;
        self.double.prepare(case);
        Ok(())
    }
    fn multiply(&mut self, case: &Case, a: &[f64], b: &[f64], c: &mut [f64]) {
        self.double.multiply(case, a, b, c);
    }
}

impl Worker for Both {
    fn describe(&self) -> String {
        format!("popgrad, {}{}", self.isa.name(), if self.plans { ", planned" } else { "" })
    }
    fn machine(&mut self, case: &Case, rounds: usize) -> Result<(u64, u64), String> {
        Ok(match case.dtype.as_str() {
            "f32" => self.single.machine(case, rounds),
            _ => self.double.machine(case, rounds),
        })
    }
}

fn main() {
    match Isa::from_env() {
        // Inside the pool, as in a program that trains: entering it costs more than a small
        // product.
        Ok(isa) => rayon::scope(|_| {
            let plans = std::env::var_os("RIVAL_PLANNED").is_some();
            serve(Both { isa, plans, single: Ours::new(isa, plans), double: Ours::new(isa, plans) });
        }),
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(2);
        }
    }
}
