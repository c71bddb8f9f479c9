//! Threads: one pool for each number of threads, made when it is first asked for.

use crate::errors::invalid;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::ThreadPool;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

type Pools = HashMap<(u32, usize), Arc<ThreadPool>>;

/// By process and number of threads. After a fork the child has none of its parent's threads, so it
/// makes pools of its own. The lock is held only while attached to the interpreter, which a fork
/// from Python is too: it never comes in between.
static POOLS: Mutex<Option<Pools>> = Mutex::new(None);

/// Threads where a call does not say: as many as there are cores. They are counted once, since the
/// system's answer takes longer than a small gradient.
pub(crate) fn count(threads: Option<usize>) -> PyResult<usize> {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
    let most = (4 * cores).max(64);
    match threads {
        None => Ok(cores),
        Some(n) if (1..=most).contains(&n) => Ok(n),
        Some(n) => Err(invalid("threads", &n.to_string(), &format!("1 to {most}, or None for all cores"))),
    }
}

/// The pool of `threads` threads.
pub(crate) fn pool(_py: Python<'_>, threads: usize) -> PyResult<Arc<ThreadPool>> {
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let pools = pools.get_or_insert_with(HashMap::new);
    let key = (std::process::id(), threads);
    if let Some(pool) = pools.get(&key) {
        return Ok(Arc::clone(pool));
    }
    let made = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let made = made.map_err(|e| PyRuntimeError::new_err(format!("threads: cannot start: {e}")))?;
    let pool = Arc::new(made);
    pools.insert(key, Arc::clone(&pool));
    Ok(pool)
}
