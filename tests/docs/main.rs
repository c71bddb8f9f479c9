//! The documents say what is so: every command and configuration in README.md and docs/src runs,
//! prints what the page shows, and every link and image is there.
//!
//! A page is a session: its `sh` blocks run line by line, in order, in one temporary folder. An
//! HTML comment on a line of its own before a block says what is special about it:
//!
//! | comment | block | meaning |
//! |---|---|---|
//! | `exit N` | sh | its last line ends with this code |
//! | `dry` | sh | too long for a test: `--dry-run` is appended to each line |
//! | `install` | sh | not run here: lines that the CI script or a workflow runs |
//! | `by hand` | sh | not run, in the reference and the appendix alone; its flags and paths exist |
//! | `python` | sh, python | not run here but by python/tests/test_docs.py; flags exist |
//! | `output` | text | what the `sh` block before it prints; `..` stands for digits, or for lines |
//! | `output within X` | text | the same, numbers up to X: what an instruction set changes |
//! | `file NAME` | text, toml, json | is written into the page's folder |
//! | `fragment` | toml, json | not a whole configuration |

mod links;
mod page;
mod session;

use page::{Page, inline_code};
use session::{Session, Tool};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Lines of installation, each with a file that runs it.
const INSTALL: &[(&str, &str)] = &[
    ("cargo install --path .", ".github/workflows/ci.yml"),
    ("pip install ./python", ".github/workflows/ci.yml"),
    ("cargo run --release -- run chain --quick", ".github/workflows/ci.yml"),
    ("cargo test --workspace", ".ci/run"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Markdown files below a folder, in order.
fn markdown(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(markdown(&path));
        } else if path.extension().is_some_and(|e| e == "md") {
            out.push(path);
        }
    }
    out.sort();
    out
}

/// Pages whose blocks are run here: README and the guide.
fn pages() -> Vec<Page> {
    let mut files = vec![root().join("README.md")];
    files.extend(markdown(&root().join("docs/src")));
    files.iter().map(|f| Page::read(f, &root())).collect()
}

/// Runs the tasks on as many threads as there are cores, and returns what they say, in order.
fn side_by_side<T: Sync>(tasks: &[T], of: impl Fn(&T) -> Vec<String> + Sync) -> Vec<String> {
    let (next, said) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(tasks.len()) {
            scope.spawn(|| {
                while let Some((i, task)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, tasks.get(i)?)))
                {
                    said.lock().unwrap().push((i, of(task)));
                }
            });
        }
    });
    let mut said = said.into_inner().unwrap();
    said.sort();
    said.into_iter().flat_map(|(_, lines)| lines).collect()
}

#[test]
fn every_block_runs_and_prints_what_its_page_shows() {
    let pages = pages();
    let glossary = pages.iter().find(|p| p.name == "docs/src/glossary.md").unwrap();
    let metrics: BTreeSet<String> = inline_code(&glossary.text).into_iter().map(|(_, c)| c).collect();
    let wrong = side_by_side(&pages, |page| {
        let started = std::time::Instant::now();
        let mut session = Session::new(page);
        session.run();
        println!("{}: {:.1} s", page.name, started.elapsed().as_secs_f64());
        session.missing_metrics(&metrics);
        session.wrong
    });
    let blocks: usize = pages.iter().map(|p| p.blocks.len()).sum();
    assert!(blocks > 60, "only {blocks} blocks seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_inline_command_exists() {
    let tool = Tool::new();
    let mut all = Vec::new();
    for page in pages() {
        for (line, code) in inline_code(&page.text) {
            if code.starts_with("popgrad ") {
                all.push((format!("{}:{line}", page.name), code));
            }
        }
    }
    assert!(all.len() > 100, "only {} commands seen", all.len());
    let wrong = side_by_side(&all, |(at, code)| {
        tool.check(code).err().map(|e| format!("{at}: `{code}`: {e}")).into_iter().collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The glossary has every key that a recorded run of any preset logs.
#[test]
fn every_recorded_metric_is_in_the_glossary() {
    let text = std::fs::read_to_string(root().join("docs/src/glossary.md")).unwrap();
    let known: BTreeSet<String> = inline_code(&text).into_iter().map(|(_, c)| c).collect();
    let mut wrong = BTreeSet::new();
    let mut files = 0;
    for entry in std::fs::read_dir(root().join("tests/values/portable")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            wrong.extend(session::unknown_keys(&text, &known));
        }
    }
    assert!(files > 30, "only {files} records seen");
    assert!(wrong.is_empty(), "not in docs/src/glossary.md: {wrong:?}");
}

/// The table of keys is what `popgrad keys` says.
#[test]
fn every_key_has_its_row() {
    let page = std::fs::read_to_string(root().join("docs/src/reference/keys.md")).unwrap();
    let rows: BTreeSet<&str> = page.lines().filter(|l| l.starts_with("| `")).collect();
    let wanted = session::rows_of_keys();
    let missing: Vec<&String> = wanted.iter().filter(|r| !rows.contains(r.as_str())).collect();
    assert!(missing.is_empty(), "docs/src/reference/keys.md lacks these rows: {missing:#?}");
    assert_eq!(rows.len(), wanted.len(), "docs/src/reference/keys.md has rows of keys that are gone");
}

#[test]
fn install_lines_are_those_that_ci_runs() {
    for (line, file) in INSTALL {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        assert!(text.contains(line), "{file} does not run `{line}`");
    }
    let mut files = vec![root().join("README.md"), root().join("python/README.md")];
    files.extend(markdown(&root().join("docs/src")));
    let mut seen = 0;
    for file in files {
        let page = Page::read(&file, &root());
        for block in page.blocks.iter().filter(|b| b.directive.as_deref() == Some("install")) {
            for (at, line) in block.lines() {
                let line = page::without_comment(&line);
                let known = INSTALL.iter().any(|(l, _)| *l == line);
                assert!(known, "{}:{at}: `{line}` is not among the lines of installation", page.name);
                seen += 1;
            }
        }
    }
    assert!(seen > 4, "only {seen} lines seen");
}

/// Rust blocks are examples of the crate's documentation tests.
#[test]
fn rust_blocks_are_doctests() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for page in pages() {
        if page.blocks.iter().any(|b| b.lang == "rust") {
            let included = format!("include_str!(\"../{}\")", page.name);
            assert!(lib.contains(&included), "src/lib.rs does not include {}", page.name);
        }
    }
}

#[test]
fn links_and_images_resolve() {
    let names = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "python/README.md"];
    let mut files: Vec<PathBuf> = names.iter().map(|n| root().join(n)).collect();
    files.extend(markdown(&root().join("docs/src")));
    let (mut wrong, mut targets) = (Vec::new(), BTreeSet::new());
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        for (line, target) in links::targets(&text) {
            match links::resolve(file, &target) {
                Ok(Some(path)) => {
                    // The book holds its own pages and nothing else.
                    let guide = root().join("docs/src");
                    if file.starts_with(&guide) && !path.starts_with(&guide) {
                        wrong.push(format!("{name}:{line}: {target} is outside docs/src"));
                    }
                    targets.insert(path);
                }
                Ok(None) => {}
                Err(e) => wrong.push(format!("{name}:{line}: {target}: {e}")),
            }
        }
    }
    assert!(targets.len() > 30, "only {} targets seen", targets.len());
    for entry in std::fs::read_dir(root().join("docs/src/img")).unwrap() {
        let path = entry.unwrap().path();
        if !targets.contains(&path) {
            wrong.push(format!("{}: no page shows it", path.display()));
        }
    }
    let summary = root().join("docs/src/SUMMARY.md");
    let text = std::fs::read_to_string(&summary).unwrap();
    let listed: Vec<_> = links::targets(&text).into_iter().map(|(_, t)| summary.with_file_name(t)).collect();
    for page in markdown(&root().join("docs/src")) {
        if page != summary && !listed.contains(&page) {
            wrong.push(format!("{}: SUMMARY.md does not list it", page.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
