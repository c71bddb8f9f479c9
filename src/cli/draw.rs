//! `popgrad draw`: figures again from the records beside them, in another size or format.

use super::output::outside_runs;
use super::show;
use crate::input;
use crate::report::files::write_bytes_atomic;
use crate::report::plot::{Figure, Format, Look, RECORD_ENDING, Width};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

pub(super) const AFTER_HELP: &str = "\
Every figure is saved with its record, NAME.figure.json. Beside the records lies redraw.py, a script that draws them by matplotlib.

Examples:
  popgrad draw runs/chain-quick/figures/loss.figure.json --format pdf --width column
  popgrad draw runs/chain-quick/figures/*.figure.json --format png --dpi 600 --out pictures";

/// Arguments of `popgrad draw`.
#[derive(Debug, Args)]
pub(super) struct DrawArgs {
    /// Records of figures.
    #[arg(required = true, value_name = "FILE")]
    records: Vec<PathBuf>,
    /// Formats: svg, png, pdf.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "pdf", value_parser = format)]
    format: Vec<Format>,
    /// natural, column (3.4 inches), page (7 inches), or a number of inches.
    #[arg(long, value_name = "WIDTH", default_value = "natural", value_parser = width, allow_negative_numbers = true)]
    width: Width,
    /// Pixels an inch of a PNG.
    #[arg(long, value_name = "N", default_value = "192", allow_negative_numbers = true)]
    dpi: f64,
    /// Folder for the pictures, created if need be; pictures of the same name are replaced.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

fn format(text: &str) -> std::result::Result<Format, String> {
    let found = Format::ALL.into_iter().find(|f| f.name() == text);
    found.ok_or_else(|| Format::ALL.map(Format::name).join(", "))
}

fn width(text: &str) -> std::result::Result<Width, String> {
    match text {
        "natural" => Ok(Width::Natural),
        "column" => Ok(Width::Column),
        "page" => Ok(Width::Page),
        _ => match text.parse() {
            Ok(inches) => Ok(Width::Inches(inches)),
            Err(_) => Err("natural, column, page or a number of inches".into()),
        },
    }
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Printed {
    pictures: Vec<PathBuf>,
}

pub(super) fn draw(args: &DrawArgs) -> Result<()> {
    let look = Look { width: args.width, dpi: args.dpi };
    // Everything is drawn before anything is written.
    let mut drawn: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for record in &args.records {
        let figure = Figure::from_json(record, &input::bytes(record, input::RECORDS)?)?;
        for format in &args.format {
            let path = place(record, *format, &args.out)?;
            outside_runs("out", &path)?;
            if drawn.iter().any(|(other, _)| *other == path) {
                let allowed = "records of different names, or formats once each";
                return Err(Error::invalid("FILE", format!("{} twice", path.display()), allowed));
            }
            drawn.push((path, figure.to_bytes(*format, look)?));
        }
    }
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io(&args.out, "cannot create", e))?;
    for (path, bytes) in &drawn {
        write_bytes_atomic(path, bytes)?;
    }
    let printed = Printed { pictures: drawn.into_iter().map(|(path, _)| path).collect() };
    show(&printed, || printed.pictures.iter().map(|p| format!("{}\n", p.display())).collect())
}

/// Where the picture of `record` goes.
fn place(record: &Path, format: Format, out: &Path) -> Result<PathBuf> {
    let Some(name) = record.file_name().map(|n| n.to_string_lossy()) else {
        return Err(Error::invalid("FILE", record.display().to_string(), "the record of a figure"));
    };
    let stem = name.strip_suffix(RECORD_ENDING).or(name.strip_suffix(".json")).unwrap_or(&name);
    Ok(out.join(format!("{stem}.{}", format.name())))
}
