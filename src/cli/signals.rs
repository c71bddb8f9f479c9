//! Signals that ask a command to stop: it finishes the update under way, saves, and ends. The
//! second one ends it at once.

use crate::{Error, Result};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

/// The signal that came; 0 before.
static WANTED: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From now on signals no longer end the process, but are there for [`wanted`] to see.
///
/// Those that the parent process has had ignored, as `nohup` does, stay ignored.
///
/// # Errors
/// When the system refuses.
#[cfg(unix)]
pub(super) fn watch() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::flag;
    use std::sync::atomic::AtomicBool;

    let signal = WANTED.get_or_init(Arc::default);
    let again = Arc::new(AtomicBool::new(false));
    let ignored = ignored();
    for which in [SIGINT, SIGTERM, SIGHUP] {
        if ignored >> (which - 1) & 1 == 1 {
            continue;
        }
        // In this order: the first signal arms what ends the process at the second.
        flag::register_conditional_shutdown(which, 128 + which, Arc::clone(&again))
            .and_then(|_| flag::register(which, Arc::clone(&again)))
            .and_then(|_| flag::register_usize(which, Arc::clone(signal), which as usize))
            .map_err(|e| Error::io("signals", "cannot be watched", e))?;
    }
    Ok(())
}

/// Elsewhere they end the process, and what it saved last is there.
#[cfg(not(unix))]
pub(super) fn watch() -> Result<()> {
    Ok(())
}

/// The signals that are ignored in this process, bit n - 1 for signal n; none where the system
/// does not tell.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()).unwrap_or(0)
}

/// The signal that asked to stop, if one came.
pub(super) fn wanted() -> Option<u8> {
    let signal = WANTED.get()?.load(std::sync::atomic::Ordering::Relaxed);
    u8::try_from(signal).ok().filter(|s| *s > 0)
}
