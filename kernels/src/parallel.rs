//! Jobs over the threads of the current rayon pool: what the `parallel.rs` files of the operations
//! share.

use crate::elem::real::Real;
use crate::scratch::Scratch;

/// Scratch of a call over the threads of a pool.
#[derive(Debug)]
pub struct ParallelScratch<'a, E> {
    /// A buffer for each task; there are at most so many tasks.
    pub tasks: &'a mut [Scratch<E>],
    /// What the tasks write for one another.
    pub shared: &'a mut Scratch<E>,
}

/// Runs the jobs, on both halves of the scratch at once where there is more than one of both.
pub(crate) fn spread<E: Real, J: Send>(
    jobs: &mut [Option<J>],
    scratch: &mut [Scratch<E>],
    run: &(impl Fn(J, &mut Scratch<E>) + Sync),
) {
    if jobs.len() <= 1 || scratch.len() == 1 {
        for job in jobs.iter_mut().filter_map(Option::take) {
            run(job, &mut scratch[0]);
        }
        return;
    }
    let tasks = scratch.len().min(jobs.len());
    let (s1, s2) = scratch[..tasks].split_at_mut(tasks / 2);
    let (j1, j2) = jobs.split_at_mut(jobs.len() * s1.len() / tasks);
    rayon::join(|| spread(j1, s1, run), || spread(j2, s2, run));
}
