//! One HTML page, complete in itself: sections with a table and figures each.

use super::files::write_bytes_atomic;
use super::plot::Figure;
use crate::Result;
use maud::{DOCTYPE, PreEscaped, html};
use std::path::Path;

/// What the page holds.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Heading.
    pub title: String,
    /// A line below it.
    pub summary: String,
    /// In order.
    pub sections: Vec<Section>,
}

/// A section.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Anchor in the page, without spaces.
    pub id: String,
    /// Heading.
    pub title: String,
    /// One of the words that [`Row::mark`] takes.
    pub mark: String,
    /// Paragraphs.
    pub text: Vec<String>,
    /// Names of the table's columns.
    pub columns: Vec<String>,
    /// The table.
    pub rows: Vec<Row>,
    /// Drawn in line, above the table.
    pub figures: Vec<Figure>,
    /// Files beside the page, above the table.
    pub images: Vec<Image>,
    /// Command shown below the text; empty for none.
    pub command: String,
    /// Files beside the page, below the table.
    pub links: Vec<String>,
}

/// A picture in a separate file.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Path from the page's folder.
    pub src: String,
    /// The same picture in another format, path likewise; empty for none.
    pub other: String,
    /// What it shows.
    pub caption: String,
}

/// A row of a table.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Decides the colour: `pass`, `fail`, `counterexample` or anything else.
    pub mark: String,
    /// One per column.
    pub cells: Vec<String>,
}

const STYLE: &str = "
body { font: 15px/1.5 sans-serif; max-width: 76em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
td, th { padding: .15em .8em .15em 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e5e5e5; }
td { font-variant-numeric: tabular-nums; }
.pass { color: #17692f; } .fail { color: #b3151f; font-weight: bold; } .counterexample { color: #8a5a00; }
.noted { color: #777; }
figure { display: inline-block; margin: 0 1em 1em 0; }
svg, img { max-width: 100%; height: auto; }
figcaption { color: #555; }
code { background: #f4f4f4; padding: .15em .4em; }
";

impl Page {
    /// The document. Text is escaped; figures are drawn in line.
    ///
    /// # Errors
    /// As [`Figure::to_svg`].
    pub fn to_html(&self) -> Result<String> {
        let mut drawn = Vec::with_capacity(self.sections.len());
        for section in &self.sections {
            drawn.push(section.figures.iter().map(Figure::to_svg).collect::<Result<Vec<_>>>()?);
        }
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (self.title) }
                    p { (self.summary) }
                    table {
                        @for s in &self.sections {
                            tr { td class=(s.mark) { (s.mark) } td { a href={ "#" (s.id) } { (s.title) } } }
                        }
                    }
                    @for (s, figures) in self.sections.iter().zip(&drawn) {
                        h2 id=(s.id) { (s.title) " " span class=(s.mark) { (s.mark) } }
                        @for text in &s.text { p { (text) } }
                        @if !s.command.is_empty() { p { code { (s.command) } } }
                        @for svg in figures { figure { (PreEscaped(svg)) } }
                        @for i in &s.images {
                            figure {
                                a href=(i.src) { img src=(i.src) alt=(i.caption) loading="lazy"; }
                                figcaption {
                                    (i.caption)
                                    @if !i.other.is_empty() { " (" a href=(i.other) { (i.other) } ")" }
                                }
                            }
                        }
                        table {
                            tr { @for c in &s.columns { th { (c) } } }
                            @for row in &s.rows {
                                tr class=(row.mark) { @for cell in &row.cells { td { (cell) } } }
                            }
                        }
                        @if !s.links.is_empty() {
                            p { @for l in &s.links { a href=(l) { (l) } " " } }
                        }
                    }
                }
            }
        };
        Ok(page.into_string())
    }

    /// Writes the document to `path`, atomically.
    ///
    /// # Errors
    /// As [`Page::to_html`] and [`write_bytes_atomic`].
    pub fn save(&self, path: &Path) -> Result<()> {
        write_bytes_atomic(path, self.to_html()?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_every_part_is_there() {
        let row = Row { mark: "fail".into(), cells: vec!["<b>&\"".into(), "2".into()] };
        let section = Section {
            id: "one".into(),
            title: "One".into(),
            mark: "fail".into(),
            text: vec!["a < b".into()],
            columns: vec!["x".into(), "y".into()],
            rows: vec![row],
            figures: vec![crate::report::plot::LineChart::default().into()],
            images: vec![Image { src: "a/b.svg".into(), other: "a/b.png".into(), caption: "c < d".into() }],
            command: "run & wait".into(),
            links: vec!["a/t.csv".into()],
        };
        let page = Page { title: "T".into(), summary: "s".into(), sections: vec![section] };
        let html = page.to_html().unwrap();
        for part in [
            "<!DOCTYPE html>",
            "&lt;b&gt;&amp;&quot;",
            "a &lt; b",
            "id=\"one\"",
            "<svg",
            "<th>y</th>",
            "<img src=\"a/b.svg\" alt=\"c &lt; d\"",
            "href=\"a/b.png\"",
            "<code>run &amp; wait</code>",
            "href=\"a/t.csv\"",
        ] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("<b>"));
        assert_eq!(html, page.to_html().unwrap());
    }
}
