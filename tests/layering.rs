//! Which modules may use which: the table of ARCHITECTURE.md, checked against the `use` lines of
//! every source file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Room (top-level module) and the rooms it may name. `error`, `num`, `input` and `ram` are open to
/// all.
const TABLE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("num", &[]),
    ("input", &[]),
    ("ram", &[]),
    ("rng", &["num"]),
    ("batch", &[]),
    ("task", &["rng"]),
    ("exact", &["task", "batch", "rng"]),
    ("source", &["task", "batch", "rng", "exact"]),
    ("model", &["batch"]),
    ("optim", &[]),
    ("discover", &["rng"]),
    ("train", &["source", "model", "optim", "batch"]),
    ("probe", &["task", "batch", "rng", "source", "model"]),
    // Theory may ask the probes: a construction is recalled, or it is none.
    ("theory", &["task", "source", "exact", "batch", "rng", "model", "optim", "train", "probe"]),
    ("report", &[]),
    ("config", &["model", "optim"]),
    ("run", &["config", "source", "batch", "rng", "model", "optim", "train", "probe", "report"]),
    ("study", &["run", "config", "model", "report"]),
    (
        "paper",
        &[
            "run", "study", "config", "task", "exact", "source", "batch", "rng", "model", "train", "probe",
            "report",
        ],
    ),
    ("measure", &["task", "source", "exact", "batch", "rng", "model", "optim", "train", "report"]),
    (
        "cli",
        &[
            "paper", "study", "run", "config", "theory", "exact", "task", "source", "model", "batch", "rng",
            "probe", "report", "train", "measure", "discover",
        ],
    ),
];
const OPEN: &[&str] = &["error", "num", "input", "ram", "Error", "Result"];

/// External crates that only some rooms may name.
const CRATES: &[(&str, &[&str])] = &[
    ("rayon", &["train", "cli", "paper", "run", "study", "source", "exact", "theory", "discover", "measure"]),
    ("rand_core", &["rng"]),
    ("clap", &["cli"]),
    ("anstream", &["cli"]),
    ("anstyle", &["cli"]),
    ("comfy_table", &["cli"]),
    ("terminal_size", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("indicatif", &["cli"]),
    ("signal_hook", &["cli"]),
    ("safetensors", &["report"]),
    ("toml", &["config", "study", "paper", "cli"]),
    (
        "popgrad_kernels",
        &[
            "error", "rng", "task", "model", "optim", "train", "probe", "run", "cli", "source", "exact",
            "measure",
        ],
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
        let of_tests = path.file_name().is_some_and(|n| n == "tests.rs");
        if room == "lib" || room == "main" || of_tests {
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

/// The table names every room once, and lets no room know one that may know it, however far round.
#[test]
fn rooms_form_no_circle() {
    for (i, (room, allowed)) in TABLE.iter().enumerate() {
        for other in *allowed {
            let at = TABLE.iter().position(|(r, _)| r == other);
            assert!(at.is_some_and(|at| at < i), "`{room}` may know `{other}`, which is not before it");
        }
    }
}

/// Comments are read beside other windows. Rows of tables cannot be broken.
#[test]
fn comments_end_by_column_100() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    for folder in ["src", "kernels/src", "kernels/tests", "kernels/benches", "tests", "benches", "examples"] {
        files(&root.join(folder), &mut all);
    }
    let mut long = Vec::new();
    for path in all.iter().filter(|p| !p.components().any(|c| c.as_os_str() == "target")) {
        for (i, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
            let comment = line.trim_start().strip_prefix("//");
            let row = comment.is_some_and(|c| c.trim_start_matches(['/', '!']).trim_start().starts_with('|'));
            if comment.is_some() && !row && line.chars().count() > 100 {
                long.push(format!("{}:{}", path.display(), i + 1));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_reader_of_use_lines_sees_every_form() {
    let text = "use crate::task::Forest;\nuse crate::{Error, model::{Layout, Model}, optim};\nlet x = crate::rng::unit(3);";
    let rooms = named_rooms(text);
    let expected = ["Error", "model", "optim", "rng", "task"];
    assert_eq!(rooms.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

/// The paths of this repository that `text` names between `quote`s, but those with a placeholder.
fn named_paths(text: &str, quote: char) -> Vec<String> {
    const TOPS: [&str; 8] =
        ["src/", "kernels/", "tests/", "docs/", "benches/", "examples/", "presets/", "fuzz/"];
    let words = text.lines().flat_map(|line| line.split(quote).skip(1).step_by(2));
    let words = words.filter_map(|quoted| quoted.split_whitespace().next());
    let holds = |w: &str| ["NAME", "CPU", "DATE"].iter().any(|placeholder| w.contains(placeholder));
    let ours = words.filter(|w| TOPS.iter().any(|top| w.starts_with(top)) && !holds(w));
    ours.filter(|w| w.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)))
        .map(String::from)
        .collect()
}

#[test]
fn paths_in_documents_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("benches/profile")];
    let guide = root.join("docs/src");
    for dir in [root.to_path_buf(), guide.clone(), guide.join("reference"), guide.join("appendix")] {
        files.extend(fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()));
    }
    let mut seen = 0;
    for file in files {
        let quote = match file.extension() {
            Some(kind) if kind == "md" => '`',
            None if file.ends_with("benches/profile") => '"',
            _ => continue,
        };
        for path in named_paths(&fs::read_to_string(&file).unwrap(), quote) {
            let there = root.join(&path).exists() || root.join(format!("{path}.rs")).exists();
            assert!(there, "{}: no {path}", file.display());
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} paths seen");
}
