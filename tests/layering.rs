//! Who may know whom: the table of ARCHITECTURE.md, held against the `use` lines of every source file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Room (top-level module) and the rooms it may name. `error` and `num` are open to all.
const TABLE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("num", &[]),
    ("rng", &["num"]),
    ("batch", &[]),
    ("config", &[]),
    ("task", &["rng"]),
    ("exact", &["task", "batch", "rng"]),
    ("source", &["task", "batch", "rng", "exact"]),
    ("model", &["batch"]),
    ("optim", &[]),
    ("discover", &[]),
    ("train", &["source", "model", "optim", "batch"]),
    ("probe", &["task", "batch", "rng", "source", "model"]),
    // Theory may ask the probes: a construction is recalled, or it is none.
    ("theory", &["task", "source", "exact", "batch", "rng", "model", "optim", "train", "probe"]),
    ("report", &[]),
    (
        "paper",
        &["config", "task", "exact", "source", "batch", "rng", "model", "optim", "train", "probe", "report"],
    ),
    (
        "cli",
        &[
            "config", "paper", "theory", "exact", "task", "source", "model", "batch", "rng", "report",
            "measure", "discover",
        ],
    ),
    ("measure", &["task", "source", "exact", "batch", "rng", "model", "optim", "train"]),
];
const OPEN: &[&str] = &["error", "num", "Error", "Result"];

/// External crates that only some rooms may name.
const CRATES: &[(&str, &[&str])] = &[
    ("rayon", &["train", "cli", "paper", "source", "exact", "theory", "discover"]),
    ("rand_core", &["rng"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("safetensors", &["report"]),
    ("toml", &["config", "paper", "cli"]),
    (
        "popgrad_kernels",
        &["error", "rng", "task", "model", "optim", "train", "paper", "cli", "source", "exact", "measure"],
    ),
];

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Code of a file: without comments and without what follows `#[cfg(test)]`.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().map(|l| l.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// First path segments after every `crate::`, the members of `crate::{..}` included.
fn named_rooms(code: &str) -> BTreeSet<String> {
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => drop(rooms.insert(word(rest))),
            Some(list) => {
                let (mut depth, mut start) = (0, true);
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            rooms.insert(word(&list[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    rooms
}

fn room_of(path: &Path, src: &Path) -> String {
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_string()
}

#[test]
fn every_file_names_only_the_rooms_it_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    assert!(all.len() > 20, "the walk found only {} files", all.len());
    let mut broken = Vec::new();
    for path in &all {
        let room = room_of(path, &src);
        if room == "lib" || room == "main" {
            continue;
        }
        let Some((_, allowed)) = TABLE.iter().find(|(r, _)| *r == room) else {
            broken.push(format!("{}: room `{room}` is not in the table", path.display()));
            continue;
        };
        let text = code(&fs::read_to_string(path).unwrap());
        for named in named_rooms(&text) {
            if named != room && !OPEN.contains(&named.as_str()) && !allowed.contains(&named.as_str()) {
                broken.push(format!("{}: `{room}` may not know `{named}`", path.display()));
            }
        }
        for (name, rooms) in CRATES {
            if text.contains(&format!("{name}::")) && !rooms.contains(&room.as_str()) {
                broken.push(format!("{}: `{room}` may not use the crate `{name}`", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn kernels_know_nothing_of_models() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/src");
    let mut all = Vec::new();
    files(&src, &mut all);
    for path in &all {
        let text = code(&fs::read_to_string(path).unwrap());
        for word in ["std::fs", "std::io", "rand", "rayon", "popgrad"] {
            let mut paths = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            let hit = paths.any(|p| p == word || p.starts_with(&format!("{word}::")));
            // Files of one name, with their tests, spread work over threads.
            let threads = word == "rayon" && path.iter().any(|c| c == "parallel.rs" || c == "parallel");
            assert!(!hit || threads, "{}: `{word}`", path.display());
        }
        // One back end may know `wide`.
        let portable = path.ends_with("simd/portable.rs");
        assert!(
            portable || !text.contains("wide::"),
            "{}: `wide` belongs to simd/portable.rs",
            path.display()
        );
        // One page may ask which architecture it is.
        let arch = path.strip_prefix(&src).unwrap() == Path::new("simd/mod.rs");
        assert!(
            arch || !text.contains("target_arch"),
            "{}: target_arch belongs to simd/mod.rs",
            path.display()
        );
    }
}

#[test]
fn the_reader_of_use_lines_sees_every_form() {
    let text = "use crate::task::Forest;\nuse crate::{Error, model::{Layout, Model}, optim};\nlet x = crate::rng::unit(3);";
    let rooms = named_rooms(text);
    let expected = ["Error", "model", "optim", "rng", "task"];
    assert_eq!(rooms.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}
