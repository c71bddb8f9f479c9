//! Kernels spread over the threads of the current rayon pool: this file (attention) and those below
//! it alone know of threads.
//!
//! Work is cut where outputs part: between problems, or where these are few between query rows of
//! one. Sums that cross a cut (gradients of keys and values) are kept in parts whose number is a
//! constant of the shape, and folded in order. So the bits depend neither on the threads nor on how
//! many scratch buffers there are. `join` only: it allocates nothing.

use crate::attention::plan::{PLAN, Plan};
use crate::attention::problem::{
    Attention, AttentionGrad, KvGrad, Queries, Save, Saved, check_backward, check_forward,
};
use crate::elem::Elem;
use crate::error::KernelError;
use crate::kernels::Kernels;
use crate::parallel::{ParallelScratch, spread};
use crate::scratch::Scratch;
use crate::view::{Mats, MatsMut};

/// From so many problems on, one at a time is fine enough.
const MANY: usize = 8;
/// Parts of a problem, at most: each costs a gradient of its keys and values.
const PARTS: usize = 4;

/// Parts of every problem of a batch: a constant of the shape.
fn parts<E: Elem>(x: &Attention<'_, E>, plan: Plan) -> usize {
    match x.queries {
        Queries::Last if x.q.count() < MANY => (x.q.rows() / (2 * plan.bq)).clamp(1, PARTS),
        _ => 1,
    }
}

/// First query row of part p of `parts`: equal areas under the mask, at a border of blocks.
fn first_row<E: Elem>(x: &Attention<'_, E>, plan: Plan, parts: usize, p: usize) -> usize {
    let (tq, tk) = (x.q.rows(), x.k.rows());
    if p == 0 || p == parts {
        return if p == 0 { 0 } else { tq };
    }
    let off = (tk - tq) as f64;
    let square = off * off + (p as f64 / parts as f64) * ((tk * tk) as f64 - off * off);
    let position = (square.sqrt() as usize / plan.bq * plan.bq).max(tk - tq);
    // Not a last row alone, which would be computed otherwise.
    (position - (tk - tq)).min(tq - 2)
}

/// Query rows i0..i1 of problem b as a problem of its own: the queries are the last of the keys
/// that they see.
fn part_of<'a, E: Elem>(x: &Attention<'a, E>, b: usize, i0: usize, i1: usize) -> Attention<'a, E> {
    let keys = x.k.rows() - x.q.rows() + i1;
    Attention {
        q: x.q.matrices(b, 1).sub(i0, i1 - i0, 0, x.q.cols()),
        k: x.k.matrices(b, 1).sub(0, keys, 0, x.k.cols()),
        v: x.v.matrices(b, 1).sub(0, keys, 0, x.v.cols()),
        ..*x
    }
}

/// Rows i0..i1 of matrix b.
fn rows_of<E: Elem>(m: Mats<'_, E>, b: usize, i0: usize, i1: usize) -> Mats<'_, E> {
    m.matrices(b, 1).sub(i0, i1 - i0, 0, m.cols())
}

/// Problems b0..b0 + n.
fn problems<'a, E: Elem>(x: &Attention<'a, E>, b0: usize, n: usize) -> Attention<'a, E> {
    let queries = match x.queries {
        Queries::Last => Queries::Last,
        Queries::Listed { starts, positions } => Queries::Listed { starts: &starts[b0..=b0 + n], positions },
    };
    Attention { q: x.q.matrices(b0, n), k: x.k.matrices(b0, n), v: x.v.matrices(b0, n), queries, ..*x }
}

/// What a forward task writes.
struct Written<'a, E> {
    out: MatsMut<'a, E>,
    save: Save<'a, E>,
}

impl<'a, E: Elem> Written<'a, E> {
    fn split(self, cut: impl Fn(MatsMut<'a, E>) -> (MatsMut<'a, E>, MatsMut<'a, E>)) -> (Self, Self) {
        let (out, out2) = cut(self.out);
        let (save, save2) = match self.save {
            Save::Nothing => (Save::Nothing, Save::Nothing),
            Save::Rows(m) => {
                let (a, b) = cut(m);
                (Save::Rows(a), Save::Rows(b))
            }
            Save::Probs(m) => {
                let (a, b) = cut(m);
                (Save::Probs(a), Save::Probs(b))
            }
        };
        (Written { out, save }, Written { out: out2, save: save2 })
    }
}

/// What a backward task reads beside the operands.
#[derive(Clone, Copy)]
struct Read<'a, E> {
    saved: Saved<'a, E>,
    out: Mats<'a, E>,
    dout: Mats<'a, E>,
}

impl<'a, E: Elem> Read<'a, E> {
    fn map(self, f: impl Fn(Mats<'a, E>) -> Mats<'a, E>) -> Self {
        let saved = match self.saved {
            Saved::Rows(m) => Saved::Rows(f(m)),
            Saved::Probs(m) => Saved::Probs(f(m)),
        };
        Read { saved, out: f(self.out), dout: f(self.dout) }
    }
}

/// What it writes.
struct Gradients<'a, E> {
    dq: MatsMut<'a, E>,
    dkv: KvGrad<'a, E>,
}

/// Problems before b and from b on.
fn split_kv<E: Elem>(g: KvGrad<'_, E>, b: usize) -> (KvGrad<'_, E>, KvGrad<'_, E>) {
    match g {
        KvGrad::Separate { dk, dv } => {
            let (dk, dk2) = dk.map(|m| m.split_matrices(b)).unzip();
            let (dv, dv2) = dv.map(|m| m.split_matrices(b)).unzip();
            (KvGrad::Separate { dk, dv }, KvGrad::Separate { dk: dk2, dv: dv2 })
        }
        KvGrad::Shared(m) => {
            let (a, b) = m.split_matrices(b);
            (KvGrad::Shared(a), KvGrad::Shared(b))
        }
    }
}

/// The first `keys` rows, for a while.
fn first_keys<'a, E: Elem>(g: &'a mut KvGrad<'_, E>, keys: usize) -> KvGrad<'a, E> {
    fn cut<'a, E: Elem>(m: &'a mut MatsMut<'_, E>, keys: usize) -> MatsMut<'a, E> {
        let cols = m.cols();
        m.rb().sub(0, keys, 0, cols)
    }
    match g {
        KvGrad::Separate { dk, dv } => {
            KvGrad::Separate { dk: dk.as_mut().map(|m| cut(m, keys)), dv: dv.as_mut().map(|m| cut(m, keys)) }
        }
        KvGrad::Shared(m) => KvGrad::Shared(cut(m, keys)),
    }
}

/// Columns of the gradients of keys and values that are wanted, 0 for those that are not.
fn wanted<E: Elem>(g: &KvGrad<'_, E>) -> [usize; 2] {
    match g {
        KvGrad::Separate { dk, dv } => {
            [dk.as_ref().map_or(0, MatsMut::cols), dv.as_ref().map_or(0, MatsMut::cols)]
        }
        KvGrad::Shared(m) => [m.cols(), 0],
    }
}

/// One part's gradients in memory of their own, as wanted as those of `like`.
fn own_kv<'a, E: Elem>(
    like: &KvGrad<'_, E>,
    keys: usize,
    memory: &'a mut [E],
) -> Result<KvGrad<'a, E>, KernelError> {
    let [d, dv] = wanted(like);
    let (a, b) = memory.split_at_mut(keys * d);
    let view = |m: &'a mut [E], cols: usize| MatsMut::new(m, [1, keys, cols], keys * cols, cols);
    Ok(match like {
        KvGrad::Shared(_) => KvGrad::Shared(view(a, d)?),
        KvGrad::Separate { dk, dv: v } => KvGrad::Separate {
            dk: if dk.is_some() { Some(view(a, d)?) } else { None },
            dv: if v.is_some() { Some(view(b, dv)?) } else { None },
        },
    })
}

/// Adds row-major `rows` to the first rows of the one matrix `to`.
fn add_rows<E: Elem>(to: &mut MatsMut<'_, E>, rows: &[E]) {
    let cols = to.cols();
    if cols == 0 {
        return;
    }
    let mut to = to.mat(0);
    for (j, row) in rows.chunks_exact(cols).enumerate() {
        for (c, x) in row.iter().enumerate() {
            let sum = to.at(j, c) + *x;
            to.set(j, c, sum);
        }
    }
}

/// Elements for the gradients of keys and values of all parts but the first.
fn fold_len<E: Elem>(x: &Attention<'_, E>, plan: Plan) -> usize {
    (parts(x, plan) - 1) * x.k.rows() * (x.k.cols() + x.v.cols())
}

impl<E: Elem> Kernels<E> {
    /// Elements of `scratch.shared` in [`Kernels::attention_backward_parallel`]: 0 for many
    /// problems, few queries or lists.
    pub fn attention_fold_scratch(&self, x: &Attention<'_, E>) -> usize {
        fold_len(x, PLAN)
    }

    /// [`Kernels::attention`] over the threads of the current pool, at most one task per element of
    /// `scratch`, each of which has [`Kernels::attention_scratch`] elements. The same bits.
    ///
    /// # Errors
    /// As [`Kernels::attention`]; no scratch at all is too little.
    pub fn attention_parallel(
        &self,
        x: &Attention<'_, E>,
        out: MatsMut<'_, E>,
        save: Save<'_, E>,
        scratch: &mut [Scratch<E>],
    ) -> Result<(), KernelError> {
        self.attention_parallel_planned(PLAN, x, out, save, scratch)
    }

    pub(crate) fn attention_parallel_planned(
        &self,
        plan: Plan,
        x: &Attention<'_, E>,
        out: MatsMut<'_, E>,
        save: Save<'_, E>,
        scratch: &mut [Scratch<E>],
    ) -> Result<(), KernelError> {
        check_forward(x, &out, &save)?;
        check_scratch(plan, x, scratch)?;
        let (parts, mut all) = (parts(x, plan), Written { out, save });
        if parts == 1 {
            self.forward_problems(plan, x, all, scratch);
            return Ok(());
        }
        for b in 0..x.q.count() {
            let (mut one, rest) = all.split(|m| m.split_matrices(1));
            all = rest;
            let mut jobs = [const { None }; PARTS];
            for (p, job) in jobs.iter_mut().enumerate().take(parts) {
                let (i0, i1) = (first_row(x, plan, parts, p), first_row(x, plan, parts, p + 1));
                let (w, rest) = one.split(|m| m.split_rows(i1 - i0));
                one = rest;
                *job = (i0 < i1).then(|| (part_of(x, b, i0, i1), w));
            }
            spread(&mut jobs[..parts], scratch, &|(part, w), scratch| {
                let keys = part.k.rows();
                let save = match w.save {
                    Save::Probs(m) => {
                        let (seen, mut behind) = m.split_cols(keys);
                        let (rows, cols) = (behind.rows(), behind.cols());
                        let mut behind = behind.mat(0);
                        for (i, j) in (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))) {
                            behind.set(i, j, E::ZERO);
                        }
                        Save::Probs(seen)
                    }
                    save => save,
                };
                self.run_forward(plan, &part, w.out, save, scratch.as_mut_slice());
            });
        }
        Ok(())
    }

    /// [`Kernels::attention_backward`] over the threads of the current pool, at most one task per
    /// buffer in `scratch.tasks`, each of which has [`Kernels::attention_scratch`] elements;
    /// `scratch.shared` has [`Kernels::attention_fold_scratch`]. The bits are those of any other
    /// number of threads and tasks; where that is not 0, dK and dV differ in the last places from
    /// those of [`Kernels::attention_backward`].
    ///
    /// # Errors
    /// As [`Kernels::attention_backward`]; no scratch at all is too little.
    pub fn attention_backward_parallel(
        &self,
        x: &Attention<'_, E>,
        grad: AttentionGrad<'_, E>,
        scratch: ParallelScratch<'_, E>,
    ) -> Result<(), KernelError> {
        self.attention_backward_parallel_planned(PLAN, x, grad, scratch)
    }

    pub(crate) fn attention_backward_parallel_planned(
        &self,
        plan: Plan,
        x: &Attention<'_, E>,
        grad: AttentionGrad<'_, E>,
        scratch: ParallelScratch<'_, E>,
    ) -> Result<(), KernelError> {
        check_backward(x, &grad)?;
        let AttentionGrad { saved, out, dout, mut dq, mut dkv } = grad;
        let ParallelScratch { tasks: scratch, shared: fold } = scratch;
        check_scratch(plan, x, scratch)?;
        let fold = fold.get(fold_len(x, plan))?;
        let (parts, read) = (parts(x, plan), Read { saved, out, dout });
        if parts == 1 {
            self.backward_problems(plan, x, read, Gradients { dq, dkv }, scratch);
            return Ok(());
        }
        let [d, dv] = wanted(&dkv);
        let each = x.k.rows() * (d + dv);
        for b in 0..x.q.count() {
            let (mut dq_one, dq_rest) = dq.split_matrices(1);
            let (mut dkv_one, dkv_rest) = split_kv(dkv, 1);
            (dq, dkv) = (dq_rest, dkv_rest);
            fold[..(parts - 1) * each].fill(E::ZERO);
            let mut own = [const { None }; PARTS];
            for (memory, own) in fold.chunks_exact_mut(each.max(1)).zip(own.iter_mut().skip(1)) {
                *own = Some(own_kv(&dkv_one, x.k.rows(), memory)?);
            }
            let mut jobs = [const { None }; PARTS];
            let mut first = Some(&mut dkv_one);
            for (p, (job, own)) in jobs.iter_mut().zip(&mut own).enumerate().take(parts) {
                let (i0, i1) = (first_row(x, plan, parts, p), first_row(x, plan, parts, p + 1));
                let (rows, rest) = dq_one.split_rows(i1 - i0);
                dq_one = rest;
                let part = part_of(x, b, i0, i1);
                let keys = part.k.rows();
                let dkv = match (first.take(), own) {
                    (Some(whole), _) => first_keys(whole, keys),
                    (None, Some(own)) => first_keys(own, keys),
                    (None, None) => KvGrad::NONE,
                };
                let cut = |m| rows_of(m, b, i0, i1);
                let mut read = read.map(cut);
                if let Saved::Probs(m) = &mut read.saved {
                    *m = m.sub(0, i1 - i0, 0, keys);
                }
                *job = (i0 < i1).then_some((part, read, Gradients { dq: rows, dkv }));
            }
            spread(&mut jobs[..parts], scratch, &|(part, r, g), scratch| {
                let Read { saved, out, dout } = r;
                let grad = AttentionGrad { saved, out, dout, dq: g.dq, dkv: g.dkv };
                self.run_backward(plan, &part, grad, scratch.as_mut_slice());
            });
            for part in fold.chunks_exact(each.max(1)).take(parts - 1) {
                let (a, v) = part.split_at(x.k.rows() * d);
                match &mut dkv_one {
                    KvGrad::Separate { dk, dv } => {
                        dk.iter_mut().for_each(|m| add_rows(m, a));
                        dv.iter_mut().for_each(|m| add_rows(m, v));
                    }
                    KvGrad::Shared(m) => add_rows(m, a),
                }
            }
        }
        Ok(())
    }

    /// Problems in as many pieces as there is scratch.
    fn forward_problems(
        &self,
        plan: Plan,
        x: &Attention<'_, E>,
        w: Written<'_, E>,
        scratch: &mut [Scratch<E>],
    ) {
        let (n, tasks) = (x.q.count(), scratch.len());
        if tasks == 1 || n <= 1 {
            return self.run_forward(plan, x, w.out, w.save, scratch[0].as_mut_slice());
        }
        let (left, (s1, s2)) = (n * (tasks / 2) / tasks, scratch.split_at_mut(tasks / 2));
        let (w1, w2) = w.split(|m| m.split_matrices(left));
        let (x1, x2) = (problems(x, 0, left), problems(x, left, n - left));
        rayon::join(|| self.forward_problems(plan, &x1, w1, s1), || self.forward_problems(plan, &x2, w2, s2));
    }

    /// As [`Kernels::forward_problems`].
    fn backward_problems(
        &self,
        plan: Plan,
        x: &Attention<'_, E>,
        read: Read<'_, E>,
        g: Gradients<'_, E>,
        scratch: &mut [Scratch<E>],
    ) {
        let (n, tasks) = (x.q.count(), scratch.len());
        if tasks == 1 || n <= 1 {
            let Read { saved, out, dout } = read;
            let scratch = scratch[0].as_mut_slice();
            let grad = AttentionGrad { saved, out, dout, dq: g.dq, dkv: g.dkv };
            return self.run_backward(plan, x, grad, scratch);
        }
        let (left, (s1, s2)) = (n * (tasks / 2) / tasks, scratch.split_at_mut(tasks / 2));
        let (dq1, dq2) = g.dq.split_matrices(left);
        let (dkv1, dkv2) = split_kv(g.dkv, left);
        let (x1, x2) = (problems(x, 0, left), problems(x, left, n - left));
        let (r1, r2) = (read.map(|m| m.matrices(0, left)), read.map(|m| m.matrices(left, n - left)));
        rayon::join(
            || self.backward_problems(plan, &x1, r1, Gradients { dq: dq1, dkv: dkv1 }, s1),
            || self.backward_problems(plan, &x2, r2, Gradients { dq: dq2, dkv: dkv2 }, s2),
        );
    }
}

fn check_scratch<E: Elem>(
    plan: Plan,
    x: &Attention<'_, E>,
    scratch: &[Scratch<E>],
) -> Result<(), KernelError> {
    let needed = x.scratch_len(plan);
    let have = scratch.iter().map(Scratch::len).min().unwrap_or(0);
    if scratch.is_empty() || have < needed {
        return Err(KernelError::ScratchTooSmall { needed: needed.max(1), have });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
