//! A page of Markdown: its fenced blocks, the comments before them, and code between backticks.

use std::path::Path;

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// Line of its first line, from 1.
    pub(crate) line: usize,
    pub(crate) lang: String,
    /// The HTML comment before it.
    pub(crate) directive: Option<String>,
    pub(crate) text: String,
}

impl Block {
    /// The commands of a block with their lines: joined at trailing backslashes, without empty
    /// lines and comments.
    pub(crate) fn lines(&self) -> Vec<(usize, String)> {
        let (mut out, mut open): (Vec<(usize, String)>, bool) = (Vec::new(), false);
        for (i, line) in self.text.lines().enumerate() {
            let (body, goes_on) = match line.strip_suffix('\\') {
                Some(body) => (body, true),
                None => (line, false),
            };
            match out.last_mut().filter(|_| open) {
                Some((_, command)) => command.push_str(body),
                None => out.push((self.line + i, body.to_string())),
            }
            open = goes_on;
        }
        out.retain(|(_, c)| !c.trim().is_empty() && !c.trim_start().starts_with('#'));
        out
    }
}

/// A command without the comment behind it: two blanks and `#`.
pub(crate) fn without_comment(command: &str) -> &str {
    command.split("  #").next().unwrap_or(command).trim_end()
}

/// A Markdown file.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// Its path from the root of the repository.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) blocks: Vec<Block>,
    /// What cannot be right about its form.
    pub(crate) wrong: Vec<String>,
}

impl Page {
    pub(crate) fn read(file: &Path, root: &Path) -> Page {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_string();
        Page::parse(name, std::fs::read_to_string(file).unwrap())
    }

    pub(crate) fn parse(name: String, text: String) -> Page {
        let (mut blocks, mut wrong) = (Vec::new(), Vec::new());
        let (mut open, mut directive): (Option<Block>, Option<(usize, String)>) = (None, None);
        for (i, line) in text.lines().enumerate() {
            let at = i + 1;
            if let Some(mut block) = open.take() {
                if line.trim() == "```" {
                    blocks.push(block);
                } else {
                    block.text += line;
                    block.text.push('\n');
                    open = Some(block);
                }
                continue;
            }
            if let Some(lang) = line.strip_prefix("```") {
                let lang = lang.trim().to_string();
                if lang.is_empty() {
                    wrong.push(format!("{name}:{at}: a block without a language"));
                }
                let directive = directive.take().map(|(_, d)| d);
                open = Some(Block { line: at + 1, lang, directive, text: String::new() });
            } else if let Some(words) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) {
                directive = Some((at, words.to_string()));
            } else if !line.trim().is_empty() {
                directive = None;
                let command = line.strip_prefix("    ").unwrap_or("");
                if ["popgrad ", "cargo ", "pip ", "python ", "benches/"]
                    .iter()
                    .any(|w| command.starts_with(w))
                {
                    wrong.push(format!("{name}:{at}: a command that no test sees: it needs a fence"));
                }
                if line.trim_start().starts_with("```") {
                    wrong.push(format!("{name}:{at}: an indented fence"));
                }
            }
        }
        if let Some(block) = open {
            wrong.push(format!("{name}:{}: a block without an end", block.line));
        }
        wrong.extend(formulas(&text).into_iter().map(|w| format!("{name}: {w}")));
        Page { name, text, blocks, wrong }
    }
}

/// What Markdown would take away from the formulas of a page: MathJax reads the HTML. In formulas
/// `_` and `*` are written `\_` and `\*`, and a command of punctuation with two backslashes: `\\,`.
fn formulas(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for formula in text.split("\\\\[").skip(1) {
        let Some((formula, _)) = formula.split_once("\\\\]") else {
            out.push("a formula without an end".into());
            continue;
        };
        let mut chars = formula.chars().peekable();
        while let Some(c) = chars.next() {
            let lost = match (c, chars.peek()) {
                ('\\', Some(next)) if next.is_ascii_punctuation() => {
                    let kept = "_*\\".contains(*next);
                    chars.next();
                    !kept
                }
                ('_' | '*', _) => true,
                _ => false,
            };
            if lost {
                out.push(format!("Markdown changes the formula{formula}"));
                break;
            }
        }
    }
    out
}

/// Code between single backticks outside fenced blocks, with its line. `\|` is a `|` of a table.
pub(crate) fn inline_code(text: &str) -> Vec<(usize, String)> {
    let (mut out, mut fenced) = (Vec::new(), false);
    for (i, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let parts: Vec<&str> = line.split('`').collect();
            let inside = parts.iter().enumerate().filter(|(k, _)| k % 2 == 1 && k + 1 < parts.len());
            out.extend(inside.map(|(_, code)| (i + 1, code.replace("\\|", "|"))));
        }
    }
    out
}

/// The lines of `text` outside fenced blocks, with code between backticks left out.
pub(crate) fn prose(text: &str) -> Vec<(usize, String)> {
    let (mut out, mut fenced) = (Vec::new(), false);
    for (i, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let outside: Vec<&str> = line.split('`').step_by(2).collect();
            out.push((i + 1, outside.join("`")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Page {
        Page::parse("x.md".into(), text.into())
    }

    #[test]
    fn blocks_have_their_language_their_comment_and_their_lines() {
        let text = "# A\n\n<!-- exit 2 -->\n```sh\n# c\npopgrad run \\\n  x\n\npopgrad y  # why\n```\n\n```text\n0\n```\n";
        let page = parsed(text);
        assert_eq!(page.wrong, Vec::<String>::new());
        let [sh, out] = &page.blocks[..] else { panic!("{:?}", page.blocks) };
        assert_eq!((sh.lang.as_str(), sh.directive.as_deref(), sh.line), ("sh", Some("exit 2"), 5));
        let lines = sh.lines();
        assert_eq!(lines, [(6, "popgrad run   x".to_string()), (9, "popgrad y  # why".to_string())]);
        assert_eq!(without_comment(&lines[1].1), "popgrad y");
        assert_eq!((out.directive.clone(), out.text.as_str()), (None, "0\n"));
    }

    #[test]
    fn a_comment_belongs_to_the_block_right_after_it_alone() {
        let page = parsed("<!-- dry -->\n\n```sh\na\n```\n<!-- dry -->\nwords\n```sh\nb\n```\n");
        let directives: Vec<_> = page.blocks.iter().map(|b| b.directive.as_deref()).collect();
        assert_eq!(directives, [Some("dry"), None]);
    }

    #[test]
    fn commands_that_no_test_would_see_are_found() {
        for text in ["a\n\n    popgrad run x\n", "```\na\n```\n", "```sh\na\n", "- x\n  ```sh\n  a\n  ```\n"]
        {
            assert!(!parsed(text).wrong.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn formulas_survive_markdown() {
        assert_eq!(
            formulas("a \\\\[ x\\_{ij}\\\\,y \\\\frac12 \\\\] b_c \\\\[ z \\\\]"),
            Vec::<String>::new()
        );
        for bad in ["\\\\[ x_{ij} \\\\]", "\\\\[ x\\,y \\\\]", "\\\\[ x"] {
            assert_eq!(formulas(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn code_between_backticks_is_found_outside_blocks() {
        let text = "`a` b `popgrad x \\| y`\n```sh\n`no`\n```\nodd ` one\n";
        assert_eq!(inline_code(text), [(1, "a".into()), (1, "popgrad x | y".into())]);
        assert_eq!(prose(text)[0], (1, "` b `".to_string()));
    }
}
