//! Links and images of a page.

use crate::page::prose;
use std::path::{Path, PathBuf};

/// Targets of links and images outside code, with their lines.
pub(crate) fn targets(text: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for (line, text) in prose(text) {
        let mut rest = text.as_str();
        while let Some(i) = rest.find("](") {
            rest = &rest[i + 2..];
            let Some(end) = rest.find(')') else { break };
            out.push((line, rest[..end].to_string()));
            rest = &rest[end..];
        }
    }
    out
}

/// The id of a heading, as mdBook and GitHub make it.
pub(crate) fn id_of(heading: &str) -> String {
    let of = |c: char| match c {
        c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c.to_lowercase().next().unwrap_or(c)),
        c if c.is_whitespace() => Some('-'),
        _ => None,
    };
    heading.trim().chars().filter_map(of).collect()
}

/// Ids of the headings of a page.
fn ids(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut out = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced && line.starts_with('#') {
            out.push(id_of(line.trim_start_matches('#')));
        }
    }
    out
}

/// The file that `target` of a link in `file` names; none for an address of the web.
pub(crate) fn resolve(file: &Path, target: &str) -> Result<Option<PathBuf>, String> {
    if ["https://", "http://", "mailto:"].iter().any(|p| target.starts_with(p)) {
        return Ok(None);
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(p, a)| (p, Some(a)));
    let path = if path.is_empty() { file.to_path_buf() } else { file.parent().unwrap().join(path) };
    let path = path.canonicalize().map_err(|_| "no such file".to_string())?;
    if let Some(anchor) = anchor {
        let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
        if !ids(&text).iter().any(|id| id == anchor) {
            return Err("no such heading".into());
        }
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_images_are_found_outside_code() {
        let text = "[a](b.md) and ![c](d.png), `[no](x)`\n```sh\n[no](y)\n```\n[e](f.md#g)";
        assert_eq!(targets(text), [(1, "b.md".into()), (1, "d.png".into()), (5, "f.md#g".into())]);
    }

    #[test]
    fn ids_are_those_of_the_book() {
        assert_eq!(id_of(" `popgrad grad`"), "popgrad-grad");
        assert_eq!(id_of("Arrays: loss and gradient, f64"), "arrays-loss-and-gradient-f64");
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.md");
        std::fs::write(&file, "# One two\n\n```sh\n# no heading\n```\n").unwrap();
        assert!(resolve(&file, "a.md#one-two").unwrap().is_some());
        assert!(resolve(&file, "#one-two").unwrap().is_some());
        assert!(resolve(&file, "https://example.org").unwrap().is_none());
        for target in ["b.md", "a.md#no-heading", "#two"] {
            assert!(resolve(&file, target).is_err(), "{target}");
        }
    }
}
