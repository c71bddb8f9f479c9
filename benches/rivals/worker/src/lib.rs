//! What every worker shares: the protocol, the inputs, the timing loop and the checksum.
//!
//! A worker writes `hello DESCRIPTION`, then answers each line of stdin with one line of stdout:
//!
//! | request | answer |
//! |---|---|
//! | `OP TYPE BATCH M K N THREADS ROUNDS` | `ok NANOSECONDS CHECKSUM` for all ROUNDS together, or `no REASON` |
//!
//! OP is `nn`, `tn` or `nt`: C = A B with A (m, k), B (k, n), C (m, n) row-major, for BATCH
//! problems one behind the other; `t` marks an operand stored as its transpose. Operands are as
//! warm as an untimed round before leaves them; with `-cold` behind OP every round finds them in
//! memory, after a sweep over more than the caches hold. Or OP is a quantity of the machine: `fma`
//! (M rounds of the chains; CHECKSUM is flops), `load` (M bytes; CHECKSUM 0), `exp` (M elements;
//! CHECKSUM 0).
//!
//! Inputs are integers in -4..=3 from a hash of the index, so that every product is exact in both
//! types and the checksum `sum_b u_b sum_ij w_i v_j c_bij` (u, w, v small and never 0) must be
//! equal to the last digit. C starts as NaN.

pub mod library;
mod pin;

use std::fmt::Display;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Instant;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// `nn`, `tn`, `nt`, each with or without `-cold`; `fma`, `load` or `exp`.
    pub op: String,
    /// `f32` or `f64`.
    pub dtype: String,
    /// Problems.
    pub batch: usize,
    /// Rows of C.
    pub m: usize,
    /// Terms of each entry.
    pub k: usize,
    /// Columns of C.
    pub n: usize,
    /// Threads.
    pub threads: usize,
    /// Is A, is B stored as its transpose? What `op` says, without looking at letters in timed
    /// code.
    pub transposed: [bool; 2],
}

impl Case {
    /// Of its fields in order; the five numbers are batch, m, k, n, threads.
    pub fn new(op: &str, dtype: &str, [batch, m, k, n, threads]: [usize; 5]) -> Self {
        let transposed = [op.starts_with("tn"), op.starts_with("nt")];
        Case { op: op.into(), dtype: dtype.into(), batch, m, k, n, threads, transposed }
    }

    /// A request line without its ROUNDS.
    pub fn line(&self) -> String {
        let Case { op, dtype, batch, m, k, n, threads, .. } = self;
        format!("{op} {dtype} {batch} {m} {k} {n} {threads}")
    }

    /// A request line: the case and how often to run it.
    pub fn parse(line: &str) -> Result<(Case, usize), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [op, dtype, numbers @ ..] = words.as_slice() else { return Err("a request has 8 words".into()) };
        let numbers: Vec<usize> = numbers
            .iter()
            .map(|w| w.parse().map_err(|_| format!("`{w}` is no count")))
            .collect::<Result<_, _>>()?;
        let [batch, m, k, n, threads, rounds] = numbers[..] else {
            return Err("a request has 8 words".into());
        };
        Ok((Case::new(op, dtype, [batch, m, k, n, threads]), rounds))
    }

    /// `nn`, `tn` or `nt`.
    pub fn layout(&self) -> &str {
        self.op.strip_suffix(COLD).unwrap_or(&self.op)
    }

    /// Does every round find its operands in memory?
    pub fn is_cold(&self) -> bool {
        self.op.ends_with(COLD)
    }

    /// Row and column stride of A and of B.
    pub fn strides(&self) -> [[usize; 2]; 2] {
        let (m, k, n) = (self.m, self.k, self.n);
        let [a, b] = self.transposed;
        [if a { [1, m] } else { [k, 1] }, if b { [1, k] } else { [n, 1] }]
    }

    /// Calls `one` with the operands of each problem that `c` holds, without a division, which
    /// small products would feel.
    #[inline(always)]
    pub fn each<T>(&self, a: &[T], b: &[T], c: &mut [T], mut one: impl FnMut(&[T], &[T], &mut [T])) {
        let (mut a, mut b, mut c) = (a, b, c);
        while !c.is_empty() {
            let (a0, a1) = a.split_at(self.m * self.k);
            let (b0, b1) = b.split_at(self.k * self.n);
            let (c0, c1) = c.split_at_mut(self.m * self.n);
            one(a0, b0, c0);
            (a, b, c) = (a1, b1, c1);
        }
    }

    /// Floating-point operations of a product.
    pub fn flops(&self) -> f64 {
        2.0 * self.batch as f64 * self.m as f64 * self.k as f64 * self.n as f64
    }
}

/// What is added to an operation whose operands come from memory.
const COLD: &str = "-cold";

/// Bytes swept between rounds of a cold case: several times the largest cache.
const SWEEP: usize = 128 << 20;

/// Integer in -4..=3: entry `i` of stream `stream`.
pub fn integer(stream: u64, i: usize) -> i64 {
    const C: u64 = 0x9E37_79B9_7F4A_7C15;
    let x = (i as u64 + (stream << 40)).wrapping_mul(C);
    let x = (x ^ (x >> 32)).wrapping_mul(C);
    (x >> 61) as i64 - 4
}

/// Streams of A and B.
pub const A: u64 = 1;
/// As above.
pub const B: u64 = 2;

/// Weight of row `i` of C: odd, so never 0.
pub fn row_weight(i: usize) -> i64 {
    2 * integer(3, i) + 1
}

/// Weight of column `j` of C.
pub fn col_weight(j: usize) -> i64 {
    2 * integer(4, j) + 1
}

/// Weight of problem `b`.
pub fn batch_weight(b: usize) -> i64 {
    1 + (b % 5) as i64
}

/// The checksum that a correct product has, without the product: sum_k (sum_i w_i a_ik)(sum_j b_kj
/// v_j).
pub fn expected(case: &Case) -> i64 {
    let (m, k, n) = (case.m, case.k, case.n);
    let [[rs_a, cs_a], [rs_b, cs_b]] = case.strides();
    let (w, v): (Vec<i64>, Vec<i64>) = ((0..m).map(row_weight).collect(), (0..n).map(col_weight).collect());
    (0..case.batch)
        .map(|p| {
            let (a, b) = (p * m * k, p * k * n);
            let mut left = vec![0i64; k];
            for (i, w) in w.iter().enumerate() {
                for (l, left) in left.iter_mut().enumerate() {
                    *left += w * integer(A, a + i * rs_a + l * cs_a);
                }
            }
            let product: i64 = (0..k)
                .map(|l| left[l] * (0..n).map(|j| v[j] * integer(B, b + l * rs_b + j * cs_b)).sum::<i64>())
                .sum();
            batch_weight(p) * product
        })
        .sum()
}

/// `f32` or `f64`.
pub trait Scalar: Copy + Send + Sync + 'static {
    /// Not a number.
    const NAN: Self;
    /// Exact for the integers here.
    fn of(x: i64) -> Self;
    /// `None` for what is no integer.
    fn integer(self) -> Option<i64>;
}

macro_rules! scalar {
    ($t:ty) => {
        impl Scalar for $t {
            const NAN: $t = <$t>::NAN;
            fn of(x: i64) -> $t {
                x as $t
            }
            fn integer(self) -> Option<i64> {
                (self as i64 as $t == self).then_some(self as i64)
            }
        }
    };
}
scalar!(f32);
scalar!(f64);

/// Memory that starts on a cache line, for every worker alike.
pub struct Aligned<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Scalar> Aligned<T> {
    /// `len` elements.
    pub fn new(len: usize, f: impl Fn(usize) -> T) -> Self {
        let slack = 64 / size_of::<T>();
        let mut data = vec![T::of(0); len + slack];
        let start = data.as_ptr().align_offset(64).min(slack);
        for i in 0..len {
            data[start + i] = f(i);
        }
        Aligned { data, start, len }
    }
    /// The elements.
    pub fn get(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
    /// The elements.
    pub fn get_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

/// C = A B for every problem of a case.
pub trait Gemm<T> {
    /// What may be done once per case: scratch, thread pools. `Err` refuses the case.
    fn prepare(&mut self, _case: &Case) -> Result<(), String> {
        Ok(())
    }
    /// One round.
    fn multiply(&mut self, case: &Case, a: &[T], b: &[T], c: &mut [T]);
}

/// A worker.
pub trait Worker: Gemm<f32> + Gemm<f64> {
    /// Name, version, features, instruction set where known: one line.
    fn describe(&self) -> String;
    /// `fma`, `load`, `exp`: nanoseconds and checksum.
    fn machine(&mut self, case: &Case, _rounds: usize) -> Result<(u64, u64), String> {
        Err(format!("no `{}` here", case.op))
    }
}

/// `main` of a worker for the `gemm` crate, whose two feature sets need two binaries. The crate
/// that expands it depends on `gemm` and `rayon`. Batches are split over the pool; a single product
/// is threaded by the library.
#[macro_export]
macro_rules! gemm_crate {
    ($about:expr) => {
        struct Rival;

        impl<T: $crate::Scalar + From<i8>> $crate::Gemm<T> for Rival {
            fn multiply(&mut self, case: &$crate::Case, a: &[T], b: &[T], c: &mut [T]) {
                use rayon::prelude::*;
                let (m, k, n) = (case.m, case.k, case.n);
                let [[rs_a, cs_a], [rs_b, cs_b]] = case.strides().map(|s| s.map(|x| x as isize));
                let one = |a: &[T], b: &[T], c: &mut [T], parallelism| {
                    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n);
                    let (a, b, c, one) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), T::from(1));
                    // SAFETY: dense operands of the lengths asserted, at the strides that their
                    // order has.
                    unsafe {
                        let (rs_c, zero) = (n as isize, T::from(0));
                        gemm::gemm(
                            m,
                            n,
                            k,
                            c,
                            1,
                            rs_c,
                            false,
                            a,
                            cs_a,
                            rs_a,
                            b,
                            cs_b,
                            rs_b,
                            zero,
                            one,
                            false,
                            false,
                            false,
                            parallelism,
                        );
                    }
                };
                let seq = gemm::Parallelism::None;
                if case.threads == 1 {
                    case.each(a, b, c, |a, b, c| one(a, b, c, seq));
                } else if case.batch == 1 {
                    one(a, b, c, gemm::Parallelism::Rayon(case.threads));
                } else {
                    let problems = a.par_chunks_exact(m * k).zip(b.par_chunks_exact(k * n));
                    let problems = problems.zip(c.par_chunks_exact_mut(m * n)).with_min_len(16);
                    problems.for_each(|((a, b), c)| one(a, b, c, seq));
                }
            }
        }

        impl $crate::Worker for Rival {
            fn describe(&self) -> String {
                $about.into()
            }
        }

        fn main() {
            // Inside the pool, as in a program that trains: entering it costs more than a small
            // product.
            rayon::scope(|_| $crate::serve(Rival));
        }
    };
}

/// Nanoseconds since `start`.
pub fn nanoseconds(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}

struct Memory<T> {
    a: Aligned<T>,
    b: Aligned<T>,
    c: Aligned<T>,
}

impl<T: Scalar> Memory<T> {
    fn new(case: &Case) -> Self {
        let (m, k, n) = (case.m, case.k, case.n);
        Memory {
            a: Aligned::new(case.batch * m * k, |i| T::of(integer(A, i))),
            b: Aligned::new(case.batch * k * n, |i| T::of(integer(B, i))),
            c: Aligned::new(case.batch * m * n, |_| T::NAN),
        }
    }

    fn checksum(&self, case: &Case) -> Result<i64, String> {
        let (m, n) = (case.m, case.n);
        let mut total = 0i64;
        for (p, c) in self.c.get().chunks_exact((m * n).max(1)).enumerate() {
            let mut sum = 0;
            for i in 0..m {
                for j in 0..n {
                    let Some(x) = c[i * n + j].integer() else {
                        return Err(format!("entry ({i}, {j}) of problem {p} is no integer"));
                    };
                    sum += row_weight(i) * col_weight(j) * x;
                }
            }
            total += batch_weight(p) * sum;
        }
        Ok(total)
    }
}

/// Memory and checksum of the last case, so that rounds of one case cost nothing but themselves.
struct Bench<T> {
    case: Option<(Case, Memory<T>, i64)>,
    sweep: Vec<u64>,
}

impl<T> Bench<T> {
    fn new() -> Self {
        Bench { case: None, sweep: Vec::new() }
    }
}

impl<T: Scalar> Bench<T> {
    fn answer(&mut self, worker: &mut impl Gemm<T>, case: &Case, rounds: usize) -> Result<String, String> {
        if self.case.as_ref().is_none_or(|(c, ..)| c != case) {
            self.case = None;
            worker.prepare(case)?;
            let mut memory = Memory::new(case);
            worker.multiply(case, memory.a.get(), memory.b.get(), memory.c.get_mut());
            let checksum = memory.checksum(case)?;
            // The timed rounds start from NaN too.
            memory.c.get_mut().fill(T::NAN);
            self.case = Some((case.clone(), memory, checksum));
        }
        let Some((_, memory, checksum)) = &mut self.case else { unreachable!() };
        // One pointer is hidden from the compiler, not three slices, whose halves the CPU would
        // have to collect from the stack.
        let mut round = || {
            let Memory { a, b, c } = black_box(&mut *memory);
            worker.multiply(case, a.get(), b.get(), c.get_mut());
        };
        let mut time = 0;
        if case.is_cold() {
            for _ in 0..rounds {
                sweep(&mut self.sweep);
                let start = Instant::now();
                round();
                time += nanoseconds(start);
            }
        } else {
            round();
            let start = Instant::now();
            for _ in 0..rounds {
                round();
            }
            time = nanoseconds(start);
        }
        Ok(format!("ok {time} {checksum}"))
    }
}

/// Writes to every line of `data`, which is made when first needed.
fn sweep(data: &mut Vec<u64>) {
    data.resize(SWEEP / size_of::<u64>(), 1);
    for line in data.chunks_mut(64 / size_of::<u64>()) {
        line[0] = line[0].wrapping_add(1);
    }
    black_box(data);
}

/// Serves requests, or says on stderr why there is no worker and ends the process.
pub fn serve_loaded<W: Worker>(worker: Result<W, String>) {
    match worker {
        Ok(worker) => serve(worker),
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(2);
        }
    }
}

/// Serves requests until stdin ends.
pub fn serve<W: Worker>(mut worker: W) {
    let mut out = std::io::stdout().lock();
    let mut say = |line: &dyn Display| writeln!(out, "{line}").and_then(|()| out.flush()).is_ok();
    say(&format!("hello {}", worker.describe()));
    let cores = pin::cores();
    let mut last: Option<Case> = None;
    let (mut single, mut double) = (Bench::<f32>::new(), Bench::<f64>::new());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let answer = Case::parse(&line).and_then(|(case, rounds)| {
            let answer = match (case.layout(), case.dtype.as_str()) {
                ("nn" | "tn" | "nt", "f32") => single.answer(&mut worker, &case, rounds),
                ("nn" | "tn" | "nt", "f64") => double.answer(&mut worker, &case, rounds),
                ("fma" | "load" | "exp", "f32" | "f64") => {
                    worker.machine(&case, rounds).map(|(ns, checksum)| format!("ok {ns} {checksum}"))
                }
                _ => Err(format!("unknown request `{line}`")),
            };
            // Once the case has run, whatever threads it needs have started.
            if case.threads > 1 && last.as_ref() != Some(&case) {
                pin::threads(&cores);
                last = Some(case);
            }
            answer
        });
        if !say(&answer.unwrap_or_else(|reason| format!("no {reason}"))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
