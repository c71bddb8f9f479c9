//! One HTML page: sections with a table and figures each, and a box that filters them.

use super::files::write_bytes_atomic;
use super::html::{document, table};
use super::plot::Figure;
use crate::Result;
use maud::{PreEscaped, html};
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
    /// Names of runs, each with the file of it that its link opens.
    pub runs: Vec<(String, String)>,
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

const FILTER: &str = include_str!("html/filter.js");

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
        let body = html! {
            h1 { (self.title) }
            p { (self.summary) }
            p.filter hidden {
                input type="search" placeholder="filter" aria-label="Show only what holds these words" autocomplete="off";
                " " output.quiet {}
            }
            @if self.sections.len() > 1 { nav {
                (table(&[], &html! {
                    @for s in &self.sections {
                        tr { td class=(s.mark) { (s.mark) } td { a href={ "#" (s.id) } { (s.title) } } }
                    }
                }))
            } }
            @for (s, figures) in self.sections.iter().zip(&drawn) {
                section.part id=(s.id) {
                    h2 { (s.title) " " span class=(s.mark) { (s.mark) } }
                    @for text in &s.text { p { (text) } }
                    @if !s.command.is_empty() { code.line { (s.command) } }
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
                    @if !s.rows.is_empty() {
                        (table(&s.columns, &html! {
                            @for row in &s.rows {
                                tr class=(row.mark) { @for cell in &row.cells { td { (cell) } } }
                            }
                        }))
                    }
                    @if !s.runs.is_empty() {
                        details {
                            summary { (s.runs.len()) @if s.runs.len() == 1 { " run" } @else { " runs" } }
                            p { @for (name, path) in &s.runs { a href=(path) { (name) } " " } }
                        }
                    }
                    @if !s.links.is_empty() {
                        p { @for l in &s.links { a href=(l) { (l) } " " } }
                    }
                }
            }
        };
        // Pictures lie beside the page.
        Ok(document(&self.title, "'self' file: data:", &body, FILTER))
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
            runs: vec![("<r>".into(), "a/runs/r/summary.json".into())],
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
            "run &amp; wait</code>",
            "href=\"a/runs/r/summary.json\">&lt;r&gt;</a>",
            "type=\"search\"",
            "name=\"viewport\"",
            "href=\"a/t.csv\"",
        ] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("<b>"));
        assert_eq!(html, page.to_html().unwrap());
    }
}
