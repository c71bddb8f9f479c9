//! Threads: one pool for each number of threads, made when it is first asked for.

use crate::errors::OrRaise;
use popgrad::{Error, Result};
use pyo3::prelude::*;
use rayon::ThreadPool;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

type Pools = Mutex<HashMap<usize, Arc<ThreadPool>>>;

/// The pools of one process. After a fork the child has none of its parent's threads, and a lock
/// that one of them held stays locked; so it makes pools of its own, behind its parent's.
#[derive(Default)]
struct Process {
    own: OnceLock<(u32, Pools)>,
    child: OnceLock<Box<Process>>,
}

static FIRST: Process = Process { own: OnceLock::new(), child: OnceLock::new() };

/// The pools of this process.
fn pools() -> &'static Pools {
    let id = std::process::id();
    let mut at = &FIRST;
    loop {
        let (of, pools) = at.own.get_or_init(|| (id, Pools::default()));
        if *of == id {
            return pools;
        }
        at = at.child.get_or_init(Box::default);
    }
}

/// Threads where a call does not say: as many as there are cores. They are counted once, since the
/// system's answer takes longer than a small gradient.
pub(crate) fn count(threads: Option<usize>) -> Result<usize> {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
    let most = (4 * cores).max(64);
    match threads {
        None => Ok(cores),
        Some(n) if (1..=most).contains(&n) => Ok(n),
        Some(n) => {
            Err(Error::invalid("threads", n.to_string(), format!("1 to {most}, or None for all cores")))
        }
    }
}

/// The pool of `threads` threads.
pub(crate) fn shared(threads: usize) -> Result<Arc<ThreadPool>> {
    let mut pools = pools().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = pools.get(&threads) {
        return Ok(Arc::clone(pool));
    }
    let made = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let made = made.map_err(|e| {
        Error::invalid("threads", format!("{threads}, which cannot start: {e}"), "as many as can start")
    })?;
    let pool = Arc::new(made);
    pools.insert(threads, Arc::clone(&pool));
    Ok(pool)
}

/// The pool for an argument `threads` of Python.
pub(crate) fn pool(threads: Option<usize>) -> PyResult<Arc<ThreadPool>> {
    count(threads).and_then(shared).or_raise()
}
