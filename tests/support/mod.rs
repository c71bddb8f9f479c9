//! Shared code of the tests: the binary, noise, draws, stopped runs.

pub(crate) mod tape;

use popgrad::model::Draw;
use popgrad::rng::{Key, Purpose};
use popgrad::run::Progress;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary with these arguments.
pub(crate) fn popgrad(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_popgrad")).args(args).output().unwrap()
}

/// Its stdout where it succeeds.
#[track_caller]
pub(crate) fn ok(args: &[&str]) -> String {
    let out = popgrad(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// An error is one line; where the command line itself is at fault, tips and the usage may follow.
#[track_caller]
pub(crate) fn one_line(err: &str) {
    let more = err.trim_end().lines().skip(1);
    let of_usage = |l: &str| ["tip: ", "Usage: ", "For more information"].iter().any(|w| l.starts_with(w));
    assert!(!err.is_empty() && more.into_iter().all(of_usage), "not one line:\n{err}");
}

/// Asserts the exit code, and that stderr is one error that holds every one of `words`; returns it.
#[track_caller]
pub(crate) fn refused(args: &[&str], code: i32, words: &[&str]) -> String {
    let out = popgrad(args);
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {err}");
    one_line(&err);
    for word in words {
        assert!(err.contains(word), "{args:?}: `{word}` is not in: {err}");
    }
    err
}

/// `args` where of equal keys (`S=3`, `S=4`) only the last is left: a command takes each once.
pub(crate) fn last_of_each<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let key = |a: &str| a.split_once('=').map(|(k, _)| k.to_string());
    let later = |i: usize| args[i + 1..].iter().any(|b| key(b).is_some() && key(b) == key(args[i]));
    (0..args.len()).filter(|i| !later(*i)).map(|i| args[i]).collect()
}

/// Every file below a folder, as paths from it, in order.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path)
            } else {
                out.push(path.strip_prefix(root).unwrap().to_path_buf())
            }
        }
    }
    out.sort();
    out
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Deterministic numbers in (-1, 1).
pub(crate) fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// Addressed draws of initial parameters.
pub(crate) struct Draws(pub(crate) Key);

impl Draw for Draws {
    fn normal(&self, i: u64) -> f64 {
        self.0.normal(i)
    }
    fn uniform(&self, i: u64) -> f64 {
        2.0 * self.0.uniforms(i, 1, 0)[0] - 1.0
    }
}

/// Those of a seed.
pub(crate) fn draws(seed: u64) -> Draws {
    Draws(Key::new(seed, Purpose::Init))
}

/// Stops a run at this update, as a kill would: nothing after it is written.
pub(crate) struct StopsAt(pub(crate) u64);

impl Progress for StopsAt {
    fn stepped(&mut self, step: u64, _loss: f64) {
        assert!(step < self.0, "stopped on purpose");
    }
    fn evaluated(&mut self, _name: &'static str, _value: f64) {}
    fn finished(&mut self) {}
    fn note(&mut self, _text: &str) {}
}

/// Runs the configuration of the run in `folder` anew, in this folder, up to update `step`.
pub(crate) fn stop_at(folder: &Path, step: u64) -> popgrad::config::Config {
    let config = popgrad::config::Config::read(&folder.join("config.toml")).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::create_dir(folder).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let experiment = popgrad::paper::experiment(&config).unwrap();
        popgrad::run::run(experiment, &config, folder, false, &pool, &mut StopsAt(step)).map(drop)
    }));
    assert!(stopped.is_err(), "it ran to its end");
    config
}
