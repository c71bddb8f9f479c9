//! Which folder of the crate may name which: the table below against the paths in every source
//! file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders (and files beside them) that hold no operation, and what they may name.
const FOUNDATIONS: &[(&str, &[&str])] = &[
    ("heap", &[]),
    ("error", &[]),
    // `Elem`, the bound of public entries, lists the bodies that every operation compiles.
    ("elem", &["attention", "gemm", "one_hot", "peak", "prefix_tree", "vecmath"]),
    ("view", &["elem", "error"]),
    ("scratch", &["elem", "error"]),
    ("simd", &["elem", "error"]),
    ("parallel", &["elem", "scratch"]),
    ("kernels", &["elem", "error", "simd"]),
];

/// Operations, and the other operations that each builds on. All may name the foundations.
const OPERATIONS: &[(&str, &[&str])] = &[
    ("vecmath", &[]),
    ("peak", &[]),
    ("gemm", &[]),
    ("sampling", &[]),
    ("one_hot", &["vecmath"]),
    ("prefix_tree", &["vecmath"]),
    ("attention", &["vecmath", "gemm"]),
];

/// Twins and checks name everything, and nothing names them.
const ORACLES: &[(&str, &[&str])] = &[("reference", &[]), ("checks", &["reference"])];

/// What `folder` may name beside itself; `None` for a folder that the tables do not have.
fn allowed(folder: &str) -> Option<BTreeSet<&'static str>> {
    let names = |t: &'static [(&str, &[&str])]| t.iter().map(|(f, _)| *f);
    let find = |t: &'static [(&str, &[&'static str])]| t.iter().find(|(f, _)| *f == folder).map(|(_, a)| *a);
    if let Some(a) = find(FOUNDATIONS) {
        return Some(a.iter().copied().collect());
    }
    if let Some(a) = find(OPERATIONS) {
        return Some(names(FOUNDATIONS).chain(a.iter().copied()).collect());
    }
    let a = find(ORACLES)?;
    Some(names(FOUNDATIONS).chain(names(OPERATIONS)).chain(a.iter().copied()).collect())
}

/// A source file without tests: its module path and its code.
struct File {
    module: Vec<String>,
    code: String,
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Without comments and without what follows `#[cfg(test)]`.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().map(|l| l.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

fn files() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&src, &mut paths);
    paths.sort();
    let tests = |p: &PathBuf| p.file_stem().unwrap().to_str().unwrap().ends_with("tests");
    let files = paths.iter().filter(|p| !tests(p) && !p.ends_with("lib.rs")).map(|path| {
        let inside = path.strip_prefix(&src).unwrap().with_extension("");
        let mut module: Vec<String> = inside.iter().map(|part| part.to_str().unwrap().to_string()).collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        File { module, code: code(&fs::read_to_string(path).unwrap()) }
    });
    files.collect()
}

/// Absolute paths of a file: `crate::..` and `super::..`, the members of braces one by one.
fn named(file: &File) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in file.code.match_indices(start) {
            let before = file.code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                continue;
            }
            read(&file.code[at..], &file.module, &mut Vec::new(), &mut out);
        }
    }
    out
}

/// Reads one path (or tree of paths) at the start of `text`; returns what follows it.
fn read<'a>(text: &'a str, module: &[String], path: &mut Vec<String>, out: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = read(rest, module, &mut path.clone(), out).trim_start();
            match rest.chars().next() {
                Some(',') => rest = &rest[1..],
                Some('}') => return &rest[1..],
                _ => return rest,
            }
        }
    }
    let len = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    match &text[..len] {
        "crate" => path.clear(),
        "super" if path.is_empty() => path.extend_from_slice(&module[..module.len() - 1]),
        "super" => drop(path.pop()),
        "" => return text,
        word => path.push(word.to_string()),
    }
    match text[len..].strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') && !rest.starts_with('*') => read(rest, module, path, out),
        _ => {
            out.push(path.clone());
            &text[len..]
        }
    }
}

#[test]
fn every_folder_names_only_what_the_table_allows() {
    let (mut broken, files) = (BTreeSet::new(), files());
    assert!(files.len() > 40, "the walk found only {} files", files.len());
    for file in &files {
        let folder = file.module[0].as_str();
        let Some(allowed) = allowed(folder) else {
            broken.insert(format!("`{folder}` is not in the table"));
            continue;
        };
        for path in named(file) {
            let Some(to) = path.first().map(String::as_str) else { continue };
            let item = to.starts_with(|c: char| c.is_uppercase());
            if to != folder && !allowed.contains(to) {
                let why = if item { "name the module, not the re-export" } else { "not in the table" };
                broken.insert(format!("{}: `{}` ({why})", file.module.join("/"), path.join("::")));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn no_circle_goes_through_two_folders() {
    let files = files();
    let index: BTreeMap<&[String], usize> =
        files.iter().enumerate().map(|(i, f)| (f.module.as_slice(), i)).collect();
    // Each path leads to the file of its longest known beginning.
    let mut reaches = vec![vec![false; files.len()]; files.len()];
    for (i, file) in files.iter().enumerate() {
        for path in named(file) {
            if let Some(j) = (1..=path.len()).rev().find_map(|n| index.get(&path[..n])) {
                reaches[i][*j] = true;
            }
        }
    }
    for via in 0..files.len() {
        for from in 0..files.len() {
            if reaches[from][via] {
                let onward = reaches[via].clone();
                reaches[from].iter_mut().zip(onward).for_each(|(r, o)| *r |= o);
            }
        }
    }
    let mut circles = Vec::new();
    for i in 0..files.len() {
        for j in i + 1..files.len() {
            if files[i].module[0] != files[j].module[0] && reaches[i][j] && reaches[j][i] {
                circles.push(format!("{} <-> {}", files[i].module.join("/"), files[j].module.join("/")));
            }
        }
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn threads_are_named_only_in_files_called_parallel() {
    for file in files() {
        let rayon = file.code.contains("rayon::");
        assert!(!rayon || file.module.last().unwrap() == "parallel", "{}", file.module.join("/"));
    }
}

#[test]
fn comments_end_by_column_100() {
    let mut paths = Vec::new();
    for dir in ["src", "tests", "examples", "benches"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut paths);
    }
    for path in paths {
        for (n, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let comment = line.trim_start().starts_with("//");
            assert!(!comment || line.chars().count() <= 100, "{}:{}", path.display(), n + 1);
        }
    }
}

#[test]
fn the_reader_of_paths_sees_every_form() {
    let module = ["gemm", "tile"].map(String::from).to_vec();
    let code =
        "use crate::simd::{Op, tiles::{A, B}};\nuse super::plan::Plan;\nlet x = crate::view::Mat::new(); \
                pub(crate) fn f() {}"
            .to_string();
    let paths: Vec<String> = named(&File { module, code }).iter().map(|p| p.join("::")).collect();
    let expected = ["simd::Op", "simd::tiles::A", "simd::tiles::B", "view::Mat::new", "gemm::plan::Plan"];
    assert_eq!(paths, expected);
}
