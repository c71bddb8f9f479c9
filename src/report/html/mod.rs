//! Pages of HTML that need nothing but themselves: the shell of every page, reports of runs and
//! studies, formulas.
//!
//! | file | holds |
//! |---|---|
//! | [`data`] | what a report holds |
//! | [`parts`] | a report as a page |
//! | [`math`] | formulas as MathML |
//! | `arcs` | graphs over positions |
//! | `face` | what stands around the cells of a matrix |
//!
//! A page's policy lets it load nothing from anywhere: styles and scripts are in the page, pictures
//! too, or beside it. All text is escaped, that of scripts' data as well.

mod arcs;
pub mod data;
mod face;
pub mod math;
pub mod parts;

use crate::{Error, Result};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;

const STYLE: &str = include_str!("page.css");

/// A document. `images` are those that it may show; `script` runs at its end.
pub(super) fn document(title: &str, images: &str, body: &Markup, script: &str) -> String {
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src {images}"
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(policy);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (body)
                @if !script.is_empty() { script { (PreEscaped(script)) } }
            }
        }
    };
    page.into_string()
}

/// Data for scripts, in an element of this id: no text in it can end the element.
///
/// # Errors
/// A value without a JSON form.
fn island(id: &str, value: &impl Serialize) -> Result<Markup> {
    let text = serde_json::to_string(value)
        .map_err(|e| Error::invalid("report", e.to_string(), "values that JSON can hold"))?;
    let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    Ok(html! { script type="application/json" id=(id) { (PreEscaped(text)) } })
}

/// A table that scrolls where it does not fit.
pub(super) fn table(columns: &[String], rows: &Markup) -> Markup {
    html! {
        div.scroll {
            table {
                @if columns.iter().any(|c| !c.is_empty()) {
                    thead { tr { @for c in columns { th { (c) } } } }
                }
                tbody { (rows) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_the_data_early() {
        let odd = "</script><script>alert(1)</script><!-- & \u{2028}";
        let out = island("data", &odd).unwrap().into_string();
        assert_eq!(out.matches("</script>").count(), 1);
        assert!(!out.contains("<!--"));
        let json = out.split_once('>').unwrap().1.strip_suffix("</script>").unwrap();
        assert_eq!(serde_json::from_str::<String>(json).unwrap(), odd);
    }

    #[test]
    fn a_page_loads_nothing() {
        let page = document("<t>", "data:", &html! { p { "x" } }, "");
        for part in ["<!DOCTYPE html>", "name=\"viewport\"", "default-src 'none'", "&lt;t&gt;"] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("@import"));
    }
}
