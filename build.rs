//! The commit of a release: `provenance.jsonl` names it. A variable `POPGRAD_COMMIT` that is set
//! takes its place; without either it is unknown. Debug builds do without: every commit would
//! compile all tests again.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=POPGRAD_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let is_release = std::env::var("PROFILE").is_ok_and(|p| p == "release");
    if std::env::var_os("POPGRAD_COMMIT").is_some() || !is_release {
        return;
    }
    // The repository of this crate, not one that it was unpacked into.
    let (Some(top), Ok(here)) = (git(&["rev-parse", "--show-toplevel"]), std::env::current_dir()) else {
        return;
    };
    if std::fs::canonicalize(top).ok() != std::fs::canonicalize(here).ok() {
        return;
    }
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return };
    const COMPILED: [&str; 5] = ["src", "kernels", "presets", "Cargo.toml", "Cargo.lock"];
    for path in COMPILED {
        println!("cargo::rerun-if-changed={path}");
    }
    // A line is added to it whenever another commit is checked out.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    let status = [&["status", "--porcelain", "--untracked-files=no", "--"], &COMPILED[..]].concat();
    let clean = git(&status).is_some_and(|s| s.is_empty());
    println!("cargo::rustc-env=POPGRAD_COMMIT={commit}{}", if clean { "" } else { "-dirty" });
}

/// What `git` prints; `None` where there is no git, or no repository.
fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}
