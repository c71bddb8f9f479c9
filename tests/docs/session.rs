//! A page as a session: its blocks in order, in a folder of its own.

use crate::page::{Block, Page, without_comment};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const POPGRAD: &str = env!("CARGO_BIN_EXE_popgrad");
/// Commands that plan without running.
const PLANNED: [&str; 3] = ["run", "sweep", "figures"];

/// PATH with the binary's folder first.
fn path() -> OsString {
    let mut all = vec![Path::new(POPGRAD).parent().unwrap().to_path_buf()];
    all.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    std::env::join_paths(all).unwrap()
}

/// A line in `sh`, in this folder.
fn shell(line: &str, dir: &Path) -> Output {
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).current_dir(dir).stdin(Stdio::null());
    command.env("PATH", path()).env("NO_COLOR", "1").env_remove("POPGRAD_COMMIT");
    command.output().unwrap()
}

/// True if `line` is what `shown` says. `..` stands for characters without a blank, at the end of
/// the line for any. Blanks count as one.
fn same_line(shown: &str, line: &str) -> bool {
    fn rest(shown: &str, line: &str) -> bool {
        let Some((before, after)) = shown.split_once("..") else { return shown == line };
        let Some(line) = line.strip_prefix(before) else { return false };
        if after.is_empty() {
            return true;
        }
        let ends = line.char_indices().map(|(i, _)| i).chain([line.len()]);
        ends.take_while(|i| !line[..*i].contains(' ')).any(|i| rest(after, &line[i..]))
    }
    let blanks = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    rest(&blanks(shown), &blanks(line))
}

/// The same where numbers may differ by `tolerance`: by that share of those above 1.
fn near_line(shown: &str, line: &str, tolerance: f64) -> bool {
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| c.is_whitespace() || ",()".contains(c));
        words.filter(|w| !w.is_empty()).map(String::from).collect()
    };
    let (shown, line) = (words(shown), words(line));
    for (i, word) in shown.iter().enumerate() {
        let near = match (word.parse::<f64>(), line.get(i).map(|w| w.parse::<f64>())) {
            _ if word == ".." && i + 1 == shown.len() => return true,
            (Ok(a), Some(Ok(b))) => (a - b).abs() <= tolerance * a.abs().max(1.0),
            _ => line.get(i).is_some_and(|w| same_line(word, w)),
        };
        if !near {
            return false;
        }
    }
    shown.len() == line.len()
}

/// True if the lines are those shown, by `same`. A line `..` stands for any number of lines.
fn same_lines(shown: &[&str], lines: &[&str], same: &dyn Fn(&str, &str) -> bool) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((first, more)) if first.trim() == ".." => {
            (0..=lines.len()).any(|i| same_lines(more, &lines[i..], same))
        }
        Some((first, more)) => {
            let rest = lines.split_first();
            rest.is_some_and(|(line, rest)| same(first, line) && same_lines(more, rest, same))
        }
    }
}

/// Keys of records, one JSON object a line, or of one object, that are not `known`. norm_NAME
/// stands for the norms of all blocks.
pub(crate) fn unknown_keys(text: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    let records: Vec<Value> = match serde_json::from_str(text) {
        Ok(one) => vec![one],
        Err(_) => text.lines().map(|l| serde_json::from_str(l).unwrap()).collect(),
    };
    // Recorded values have the summary as their last line, under its name.
    let own = |r| [Some(r), Value::get(r, "summary")];
    let objects = records.iter().flat_map(own).flatten().filter_map(Value::as_object);
    let keys = objects.flat_map(|r| r.keys()).filter(|k| *k != "summary");
    let general = |key: &String| match ["norm_", "gradnorm_"].iter().find(|p| key.starts_with(**p)) {
        Some(prefix) => format!("{prefix}NAME"),
        None => key.clone(),
    };
    keys.map(general).filter(|k| !known.contains(k)).collect()
}

/// Rows of a table of all keys: name, meaning, values, default.
pub(crate) fn rows_of_keys() -> Vec<String> {
    let out = Command::new(POPGRAD).args(["keys", "--json"]).output().unwrap();
    let all: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    assert!(all.len() > 40, "only {} keys seen", all.len());
    let cell = |text: &str| text.replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;");
    let row = |key: &Value| {
        let text = |name: &str| key[name].as_str().unwrap_or_default().to_string();
        let values = if text("allowed").starts_with("a text") { "text".into() } else { text("allowed") };
        let default = match &key["value"] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let [help, values, default] = [text("help"), values, default].map(|t| cell(&t));
        format!("| `{}` | {help} | {values} | {default} |", text("name"))
    };
    all.iter().map(row).collect()
}

/// A page being run.
pub(crate) struct Session<'a> {
    page: &'a Page,
    dir: tempfile::TempDir,
    /// What the last `sh` block printed.
    printed: String,
    pub(crate) wrong: Vec<String>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(page: &'a Page) -> Session<'a> {
        let dir = tempfile::tempdir().unwrap();
        Session { page, dir, printed: String::new(), wrong: page.wrong.clone() }
    }

    fn fault(&mut self, line: usize, text: String) {
        self.wrong.push(format!("{}:{line}: {text}", self.page.name));
    }

    pub(crate) fn run(&mut self) {
        let tool = Tool::new();
        let mut before = "";
        for block in &self.page.blocks {
            let directive = block.directive.as_deref().unwrap_or("");
            match (block.lang.as_str(), directive) {
                ("sh", "" | "dry") => self.commands(block, directive == "dry", 0),
                ("sh", d) if d.starts_with("exit ") => match d[5..].parse() {
                    Ok(code) => self.commands(block, false, code),
                    Err(_) => self.fault(block.line, format!("no exit code: {d}")),
                },
                ("sh", "install") => {}
                ("sh", "by hand" | "python") => self.named(block, &tool, directive),
                ("python", d) if ["", "python"].contains(&d) || d.starts_with("needs ") => {}
                ("rust", "") => {}
                ("text", "output") if before == "sh" => self.compare(block, &same_line),
                ("text", d) if before == "sh" && d.starts_with("output within ") => match d[14..].parse() {
                    Ok(t) => self.compare(block, &|shown, line| near_line(shown, line, t)),
                    Err(_) => self.fault(block.line, format!("no number: {d}")),
                },
                ("toml" | "json", "fragment") => {}
                ("toml" | "json", "") => self.configuration(block, &format!("block.{}", block.lang)),
                ("text" | "toml" | "json", d) if d.starts_with("file ") => {
                    std::fs::write(self.dir.path().join(&d[5..]), &block.text).unwrap();
                }
                (lang, d) => {
                    self.fault(block.line, format!("no test runs a block of `{lang}` with the comment `{d}`"))
                }
            }
            before = block.lang.as_str();
        }
    }

    fn commands(&mut self, block: &Block, dry: bool, code: i32) {
        self.printed.clear();
        let lines = block.lines();
        for (i, (at, line)) in lines.iter().enumerate() {
            let mut line = line.clone();
            if dry {
                let command = line.split_whitespace().nth(1).unwrap_or("");
                if !PLANNED.contains(&command) {
                    self.fault(*at, format!("`{command}` has no --dry-run"));
                    continue;
                }
                line = format!("{} --dry-run", without_comment(&line));
            }
            let out = shell(&line, self.dir.path());
            let expected = if i + 1 == lines.len() { code } else { 0 };
            if out.status.code() != Some(expected) {
                let err = String::from_utf8_lossy(&out.stderr).into_owned();
                self.fault(*at, format!("`{line}` ended with {}, not {expected}:\n{err}", out.status));
            }
            self.printed += &String::from_utf8_lossy(&out.stdout);
        }
    }

    fn compare(&mut self, block: &Block, same: &dyn Fn(&str, &str) -> bool) {
        let shown: Vec<&str> = block.text.lines().collect();
        let lines: Vec<&str> = self.printed.lines().collect();
        if !same_lines(&shown, &lines, same) {
            let printed = self.printed.clone();
            self.fault(block.line, format!("shown:\n{}\nprinted:\n{printed}", block.text));
        }
    }

    fn configuration(&mut self, block: &Block, name: &str) {
        std::fs::write(self.dir.path().join(name), &block.text).unwrap();
        let out = shell(&format!("popgrad run --config {name} --dry-run"), self.dir.path());
        if !out.status.success() {
            self.fault(block.line, String::from_utf8_lossy(&out.stderr).into_owned());
        }
    }

    /// Blocks that are not run here: what they name exists.
    fn named(&mut self, block: &Block, tool: &Tool, directive: &str) {
        let apart = ["docs/src/reference/", "docs/src/appendix/"];
        if directive == "by hand" && !apart.iter().any(|a| self.page.name.starts_with(a)) {
            self.fault(
                block.line,
                "blocks that no test runs belong into the reference or the appendix".into(),
            );
        }
        for (at, line) in block.lines() {
            let line = without_comment(&line).to_string();
            let first = line.split_whitespace().next().unwrap_or("");
            if first == "popgrad" {
                if let Err(e) = tool.flags(&words(&line)) {
                    self.fault(at, format!("`{line}`: {e}"));
                }
            } else if !Path::new(env!("CARGO_MANIFEST_DIR")).join(first).is_file() {
                self.fault(at, format!("no {first}"));
            }
        }
    }

    /// Metrics that the page's runs wrote and the glossary lacks.
    pub(crate) fn missing_metrics(&mut self, known: &BTreeSet<String>) {
        let mut left: Vec<PathBuf> = vec![self.dir.path().to_path_buf()];
        let mut missing = BTreeSet::new();
        while let Some(dir) = left.pop() {
            let of_run = dir.join("run.json").is_file();
            for entry in std::fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap();
                if path.is_dir() {
                    left.push(path);
                } else if of_run && (name == "metrics.jsonl" || name == "summary.json") {
                    missing.extend(unknown_keys(&std::fs::read_to_string(&path).unwrap(), known));
                }
            }
        }
        if !missing.is_empty() {
            self.fault(1, format!("its runs have metrics that docs/src/glossary.md lacks: {missing:?}"));
        }
    }
}

/// The words of a command; quotes keep blanks.
fn words(command: &str) -> Vec<String> {
    let (mut out, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in command.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') => {
                if !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
            }
            (_, c) => word.push(c),
        }
    }
    out.extend((!word.is_empty()).then_some(word));
    out
}

/// The binary, asked what it knows.
pub(crate) struct Tool {
    help: BTreeMap<String, String>,
    keys: BTreeSet<String>,
    dir: tempfile::TempDir,
}

impl Tool {
    pub(crate) fn new() -> Tool {
        let ask = |args: &[&str]| {
            let out = Command::new(POPGRAD).args(args).output().unwrap();
            assert!(out.status.success(), "{args:?}");
            String::from_utf8(out.stdout).unwrap()
        };
        // Lines of the list of commands: two blanks, the name, blanks, what it does.
        let top = ask(&["--help"]);
        let list = top.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
        let names = list.lines().filter_map(|l| l.strip_prefix("  ")?.split(' ').next());
        let names: Vec<&str> = names.filter(|n| !n.is_empty() && *n != "help").collect();
        assert!(names.len() > 15, "{names:?}");
        let mut help: BTreeMap<String, String> =
            names.iter().map(|n| (n.to_string(), ask(&[n, "--help"]))).collect();
        help.insert("--help".into(), String::new());
        let all: Value = serde_json::from_str(&ask(&["keys", "--json"])).unwrap();
        let mut keys = BTreeSet::new();
        names_in(&all, &mut keys);
        assert!(keys.contains("alpha") && keys.contains("freeze_until"), "{keys:?}");
        Tool { help, keys, dir: tempfile::tempdir().unwrap() }
    }

    /// Checks a command in running text: planned where it can be, else command, flags and keys.
    pub(crate) fn check(&self, command: &str) -> Result<(), String> {
        let all = words(command);
        self.flags(&all)?;
        let upper = |w: &str| w.len() > 1 && w.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        let placeholder =
            |w: &String| upper(w) || w.split('=').skip(1).any(|v| v.split([':', ',']).any(upper));
        let files = ["--resume", "--config", "--params", "corpus=my.txt"];
        let plain = |w: &String| !placeholder(w) && !w.contains("..") && !files.contains(&w.as_str());
        if !PLANNED.contains(&all[1].as_str()) || !all.iter().all(plain) || all.len() < 3 {
            return Ok(());
        }
        // The plan without its measurements, which take seconds at full sizes.
        let out = Command::new(POPGRAD)
            .args(all[1..].iter().filter(|w| *w != "--dry-run"))
            .arg("--print-config")
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        out.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// Checks that the command, its flags and its keys exist.
    fn flags(&self, all: &[String]) -> Result<(), String> {
        let Some(name) = all.get(1) else { return Ok(()) };
        let help = self.help.get(name).ok_or_else(|| format!("no command `{name}`"))?;
        for word in &all[2..] {
            if let Some(flag) = word.strip_prefix("--") {
                let flag = flag.split('=').next().unwrap_or(flag);
                let there =
                    help.split(|c: char| c.is_whitespace() || c == ',').any(|w| w == format!("--{flag}"));
                if !there {
                    return Err(format!("`{name}` has no --{flag}"));
                }
            } else if let Some((key, _)) = word.split_once('=') {
                let own =
                    help.contains(&format!("{key}=")) || help.contains(&format!("{key} ")) || key == "KEY";
                if !self.keys.contains(key) && !own {
                    return Err(format!("no key `{key}`"));
                }
            }
        }
        Ok(())
    }
}

/// The strings under `name` in a document, and the names of its objects.
fn names_in(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                out.insert(key.clone());
                out.extend(field.as_str().filter(|_| key == "name").map(String::from));
                names_in(field, out);
            }
        }
        Value::Array(all) => all.iter().for_each(|v| names_in(v, out)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_stand_for_digits_and_for_lines() {
        assert!(same_line("gap: 0.0699..", "gap: 0.069917"));
        assert!(same_line("a  1.89..  +0.6..  c", "a  1.8956 +0.6920   c"));
        assert!(!same_line("gap: 0.0699..", "gap: 0.0700"));
        assert!(!same_line("a 1.. c", "a 1.0 b c"));
        assert!(!same_line("a", "a b"));
        let lines = |shown: &[&str], lines: &[&str]| same_lines(shown, lines, &same_line);
        assert!(lines(&["a", "..", "d"], &["a", "b", "c", "d"]));
        assert!(lines(&["..", "d"], &["d"]));
        assert!(!lines(&["a", ".."], &["b", "a"]));
        assert!(!lines(&["a"], &["a", "b"]));
        assert!(near_line("50,0.3,1.0", "50,0.3811,1", 0.1));
        assert!(near_line("head  0.99 (e) ..", "head 0.977 (e) at 5 (0.2)", 0.1));
        assert!(!near_line("loss 3.9", "loss 3.4", 0.1));
        assert!(!near_line("loss 3.9", "loss 3.9 4", 0.1));
        assert!(!near_line("loss 3.9", "gain 3.9", 0.1));
    }

    fn wrong(text: &str) -> Vec<String> {
        let page = Page::parse("docs/src/x.md".into(), text.into());
        let mut session = Session::new(&page);
        session.run();
        session.wrong
    }

    #[test]
    fn a_session_goes_on_from_line_to_line_and_fails_where_it_should() {
        let good = "```sh\necho a > f\ncat f\n```\n<!-- output -->\n```text\na\n```\n<!-- exit 2 -->\n```sh\npopgrad run nothing\n```\n";
        assert_eq!(wrong(good), Vec::<String>::new());
        let file = "<!-- file g -->\n```text\nb\n```\n```sh\ncat g\n```\n<!-- output -->\n```text\nb\n```\n";
        assert_eq!(wrong(file), Vec::<String>::new());
        for bad in [
            "```sh\nfalse\n```\n",
            "```sh\npopgrad run nothing\n```\n",
            "<!-- exit 2 -->\n```sh\ntrue\n```\n",
            "```sh\necho a\n```\n<!-- output -->\n```text\nb\n```\n",
            "```text\nunseen\n```\n",
            "<!-- dry -->\n```sh\npopgrad verify\n```\n",
            "<!-- dry -->\n```sh\npopgrad run chain colour=red\n```\n",
            "<!-- by hand -->\n```sh\npopgrad bench\n```\n",
            "<!-- python -->\n```sh\npopgrad bench --colours\n```\n",
            "```toml\npreset = \"nothing\"\n```\n",
            "```fish\ntrue\n```\n",
        ] {
            assert_eq!(wrong(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn commands_in_text_are_checked() {
        let tool = Tool::new();
        for good in [
            "popgrad run chain lr=0.5 --quick",
            "popgrad run --resume RUN steps=N",
            "popgrad sweep chain heads='1;2;1,1'",
            "popgrad verify",
            "popgrad exact --quantities g S=2 draws=5",
        ] {
            tool.check(good).unwrap();
        }
        for bad in [
            "popgrad runs chain",
            "popgrad run chain --colour",
            "popgrad run chain colour=red",
            "popgrad run chain lr=fast",
            "popgrad run nothing --quick",
            "popgrad discover --tokens FILE --colour",
        ] {
            assert!(tool.check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_that_nobody_explains_are_found() {
        let known = BTreeSet::from(["step".to_string(), "norm_NAME".to_string()]);
        let text = "{\"step\":1,\"norm_A\":2}\n{\"step\":2,\"other\":{\"step\":1}}\n";
        assert_eq!(unknown_keys(text, &known), BTreeSet::from(["other".to_string()]));
        let text = "{\"step\":1}\n{\"summary\":{\"step\":2,\"own\":3}}\n";
        assert_eq!(unknown_keys(text, &known), BTreeSet::from(["own".to_string()]));
    }
}
