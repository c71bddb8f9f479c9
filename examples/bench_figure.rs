//! Share of the multiply-add peak against the size of square products, one curve for each
//! implementation: from a record that the driver in benches/rivals wrote, as `bench-gemm.svg` in a
//! folder. Sizes that vectors fill; the tables have the others.
//!
//! `cargo run --release --example bench_figure -- RECORD.csv FOLDER`
#![forbid(unsafe_code)]

use popgrad::report::files::write_bytes_atomic;
use popgrad::report::plot::{Figure, LineChart, Panels, RefLine, Series};
use popgrad::{Error, Result};
use std::path::Path;
use std::process::ExitCode;

/// Names in the record, in the order of colours.
const CURVES: [&str; 7] =
    ["popgrad-avx512-plan", "popgrad-avx2", "faer", "libxsmm", "matrixmultiply", "openblas", "numpy"];

/// The columns that a curve needs.
struct Row<'a> {
    dtype: &'a str,
    threads: &'a str,
    name: &'a str,
    /// log2 of the size.
    n: f64,
    share: f64,
    cpu: &'a str,
}

/// Square products of a record.
fn rows<'a>(path: &Path, text: &'a str) -> Result<Vec<Row<'a>>> {
    let mut lines = text.lines().map(|l| l.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap_or_default();
    let column = |name: &str| {
        header
            .iter()
            .position(|c| *c == name)
            .ok_or_else(|| Error::format(path, format!("no column `{name}`")))
    };
    let names =
        ["op", "batch", "m", "k", "n", "dtype", "threads", "impl", "share_of_peak", "cpu"].map(column);
    let mut at = [0; 10];
    for (at, found) in at.iter_mut().zip(names) {
        *at = found?;
    }
    let mut out = Vec::new();
    for line in lines.filter(|l| l.len() == header.len()) {
        let [op, batch, m, k, n, dtype, threads, name, share, cpu] = at.map(|i| line[i]);
        let square = op == "nn" && batch == "1" && m == k && k == n;
        if let (true, Ok(n), Ok(share)) = (square, n.parse::<u32>(), share.parse())
            && n % 8 == 0
        {
            out.push(Row { dtype, threads, name, n: f64::from(n).log2(), share, cpu });
        }
    }
    Ok(out)
}

fn panel(rows: &[Row<'_>], dtype: &str, threads: &str) -> Option<Figure> {
    let series = CURVES.iter().enumerate().map(|(color, name)| {
        let of = |r: &&Row<'_>| r.dtype == dtype && r.threads == threads && r.name == *name;
        let mut points: Vec<(f64, f64)> = rows.iter().filter(of).map(|r| (r.n, 100.0 * r.share)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series::new(*name, points, color)
    });
    let series: Vec<Series> = series.filter(|s| !s.points.is_empty()).collect();
    let plural = if threads == "1" { "" } else { "s" };
    (!series.is_empty()).then(|| {
        Figure::Line(LineChart {
            title: format!("{dtype}, {threads} thread{plural}"),
            x_label: "log2 n, for n x n x n".into(),
            y_label: "% of multiply-add peak".into(),
            series,
            reference_lines: vec![RefLine::new("peak", 100.0)],
            y_range: Some((0.0, 105.0)),
            ..LineChart::default()
        })
    })
}

fn draw(record: &Path, folder: &Path) -> Result<()> {
    let text = std::fs::read_to_string(record).map_err(|e| Error::io(record, "cannot read", e))?;
    let rows = rows(record, &text)?;
    let kinds = [("f32", "1"), ("f64", "1"), ("f32", "2"), ("f64", "2")];
    let figures: Vec<Figure> = kinds.iter().filter_map(|(d, t)| panel(&rows, d, t)).collect();
    if figures.is_empty() {
        return Err(Error::format(record, "no square products"));
    }
    let title = format!("Matrix products on {}", rows[0].cpu);
    let svg = Figure::Panels(Panels { title, columns: 2, figures }).to_svg()?;
    write_bytes_atomic(&folder.join("bench-gemm.svg"), svg.as_bytes())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.as_slice() {
        [record, folder] => draw(record.as_ref(), folder.as_ref()),
        _ => Err(Error::invalid("arguments", format!("{} of them", args.len()), "RECORD.csv FOLDER")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(1))
        }
    }
}
