//! `popgrad compare`: what differs between runs, and what came of it.

use super::finished::runs_in;
use super::output::{check_picture, write_picture};
use super::show;
use super::table::{self, Left, Right};
use crate::config::Config;
use crate::input::{self, RECORDS};
use crate::report::metrics::{METRICS_FILE, SUMMARY_FILE};
use crate::report::plot::{Figure, LineChart, Panels, Series};
use crate::report::records::{self, Cell};
use crate::run::folder;
use crate::study::tables::NOT_OF_THE_RESULT;
use crate::study::value_text;
use crate::{Error, Result};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Arguments of `popgrad compare`.
#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Folders of runs, or of studies, whose runs are all compared; two runs or more.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Curves of all runs in one picture, .svg, .png or .pdf.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) const AFTER_HELP: &str = "\
Keys of the configuration that differ, and the summaries side by side; of a run that is not over, its last evaluation.
The curves are the test loss and the measure of the run's task: attention on the parent, or accuracy at the end.

Examples:
  popgrad compare runs/chain runs/chain-2
  popgrad compare runs/chain runs/birth --out both.svg
  popgrad compare runs/causal-seeds --json";

/// Most runs: beyond, tables and curves cannot be told apart.
const MOST_RUNS: usize = 64;

/// A run as it is compared.
struct Compared {
    name: String,
    folder: PathBuf,
    config: toml::Table,
    finished: bool,
    /// The summary, or the last record; in order.
    results: Vec<(String, Value)>,
    /// Of each curve, its key and points (step, value).
    curves: Vec<(&'static str, Vec<(f64, f64)>)>,
}

/// What a curve takes from a record.
type Measure = fn(&Record<'_>) -> Option<f64>;

/// The curves of a run: key, heading, and how a record has it.
const CURVES: [(&str, &str, Measure); 3] = [
    ("test_loss", "test loss (nats)", |r| r.number("test_loss")),
    ("attention_on_parent", "attention on the parent", |r| {
        r.number("attention_on_parent_mean").or_else(|| r.mean("attention_on_parent."))
    }),
    ("acc_end", "accuracy at the end, test", |r| r.number("acc_end_test")),
];

/// A record of a log.
struct Record<'a>(&'a [(String, Cell)]);

impl Record<'_> {
    fn number(&self, key: &str) -> Option<f64> {
        self.0.iter().find(|(k, _)| k == key)?.1.as_str().parse().ok()
    }

    /// Mean of the numbers of a list.
    fn mean(&self, prefix: &str) -> Option<f64> {
        let of = |(k, c): &(String, Cell)| k.starts_with(prefix).then(|| c.as_str().parse::<f64>().ok())?;
        let all: Vec<f64> = self.0.iter().filter_map(of).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }
}

pub(super) fn compare(args: &CompareArgs) -> Result<()> {
    args.out.as_deref().map(|out| check_picture("out", out)).transpose()?;
    let mut found = Vec::new();
    for folder in &args.runs {
        found.extend(runs_in(folder)?);
    }
    if !(2..=MOST_RUNS).contains(&found.len()) {
        let count = if found.len() == 1 { "1 run".into() } else { format!("{} runs", found.len()) };
        return Err(Error::invalid("runs", count, format!("2 to {MOST_RUNS}")));
    }
    let names: Vec<String> = found.iter().map(|f| f.0.clone()).collect();
    let mut runs = Vec::new();
    for (name, folder, config) in found {
        // Two folders of one name go by their paths.
        let alone = names.iter().filter(|n| **n == name).count() == 1;
        let name = if alone { name } else { folder.display().to_string() };
        runs.push(read(name, folder, &config)?);
    }
    if let Some(out) = &args.out {
        write_picture(out, &figure(&runs))?;
    }
    show(&as_json(&runs), || as_text(&runs))
}

fn read(name: String, folder: PathBuf, config: &Config) -> Result<Compared> {
    let finished = folder.join(SUMMARY_FILE).is_file();
    if finished {
        folder::check_results(&folder)?;
    }
    let log = folder.join(METRICS_FILE);
    let records = if log.is_file() {
        // A process that is writing may be in the middle of the last line.
        let mut text = input::text(&log, RECORDS)?;
        text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
        records::cells(&log, &text)?
    } else {
        Vec::new()
    };
    let results = match finished {
        true => summary(&folder.join(SUMMARY_FILE))?,
        false => {
            records.last().map_or(Vec::new(), |r| r.iter().map(|(k, c)| (k.clone(), number(c))).collect())
        }
    };
    let points = |value: Measure| {
        let of = |r: &Vec<(String, Cell)>| {
            let r = Record(r);
            Some((r.number("step")?, value(&r)?))
        };
        records.iter().filter_map(of).collect::<Vec<_>>()
    };
    let curves = CURVES.iter().map(|(key, _, value)| (*key, points(*value)));
    let curves = curves.filter(|(_, points)| !points.is_empty()).collect();
    let results = results.into_iter().filter(|(k, _)| !NOT_OF_THE_RESULT.contains(&k.as_str())).collect();
    Ok(Compared { name, folder, config: config.table(), finished, results, curves })
}

/// A summary, in its order.
fn summary(path: &Path) -> Result<Vec<(String, Value)>> {
    let text = input::text(path, RECORDS)?;
    records::entries(path, &text)
}

/// A cell as JSON has it.
fn number(cell: &Cell) -> Value {
    match cell.as_str() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}

/// Keys of the configurations that differ, in the order of the table of keys.
fn differing(runs: &[Compared]) -> Vec<&str> {
    let known = crate::config::KEYS.iter().map(|k| k.name);
    let differs = |k: &&str| {
        let mut values = runs.iter().map(|r| r.config.get(*k));
        let first = values.next();
        values.any(|v| Some(v) != first)
    };
    known.filter(differs).collect()
}

/// Keys of the results, in order of appearance.
fn result_keys(runs: &[Compared]) -> Vec<&str> {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in runs.iter().flat_map(|r| &r.results) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    keys
}

fn as_json(runs: &[Compared]) -> Value {
    let keys = differing(runs);
    let one = |r: &Compared| {
        let config: Map<String, Value> = keys
            .iter()
            .map(|k| (k.to_string(), r.config.get(*k).map_or(Value::Null, |v| json!(v))))
            .collect();
        let results: Map<String, Value> = r.results.iter().cloned().collect();
        json!({
            "name": r.name,
            "folder": r.folder.display().to_string(),
            "finished": r.finished,
            "differs": config,
            "results": results,
        })
    };
    json!({ "runs": runs.iter().map(one).collect::<Vec<_>>() })
}

fn as_text(runs: &[Compared]) -> String {
    let in_columns = |head: &str, rows: Vec<Vec<String>>| {
        let names: Vec<&str> = runs.iter().map(|r| r.name.as_str()).collect();
        if runs.len() > BESIDE { turned(head, &names, &rows) } else { beside(head, &names, rows) }
    };
    let row = |key: &str, value: &dyn Fn(&Compared) -> String| {
        std::iter::once(key.to_string()).chain(runs.iter().map(value)).collect::<Vec<_>>()
    };
    let keys = differing(runs);
    let mut text = if keys.is_empty() {
        "no key of the configurations differs\n".into()
    } else {
        let of = |k: &str, r: &Compared| {
            r.config.get(k).map_or("-".into(), |v| crate::error::brief(value_text(v)))
        };
        in_columns("keys that differ", keys.iter().map(|k| row(k, &|r| of(k, r))).collect())
    };
    let mut rows = Vec::new();
    if runs.iter().any(|r| !r.finished) {
        rows.push(row("over", &|r| if r.finished { "yes" } else { "no" }.into()));
    }
    for key in result_keys(runs) {
        let found = |r: &Compared| {
            r.results.iter().find(|(k, _)| k == key).map_or("-".into(), |(_, v)| table::value(v))
        };
        rows.push(row(key, &found));
    }
    text.push('\n');
    text + &in_columns("results", rows)
}

/// Runs that stand beside each other; of more, each has a line.
const BESIDE: usize = 4;
/// Letters in a line of a table of more runs.
const WIDTH: usize = 100;

/// A line for each key, a column for each run.
fn beside(head: &str, names: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut heads = vec![(head, Left)];
    heads.extend(names.iter().map(|name| (*name, Right)));
    table::columns(&heads, rows)
}

/// A line for each run, a column for each key, in as many tables as it takes. `rows` as for
/// [`beside`].
fn turned(head: &str, names: &[&str], rows: &[Vec<String>]) -> String {
    let letters = |text: &str| text.chars().count();
    let first = names.iter().map(|n| letters(n)).max().unwrap_or(0).max(letters(head));
    let mut tables: Vec<Vec<&Vec<String>>> = Vec::new();
    let mut left = 0;
    for row in rows {
        let own = 2 + row.iter().map(|cell| letters(cell)).max().unwrap_or(0);
        match tables.last_mut() {
            Some(table) if own <= left => table.push(row),
            _ => {
                left = WIDTH.saturating_sub(first).max(own);
                tables.push(vec![row]);
            }
        }
        left -= own;
    }
    let one = |keys: &Vec<&Vec<String>>| {
        let mut heads = vec![(head, Left)];
        heads.extend(keys.iter().map(|row| (row[0].as_str(), Right)));
        let line = |(i, name): (usize, &&str)| {
            std::iter::once(name.to_string()).chain(keys.iter().map(|row| row[1 + i].clone())).collect()
        };
        table::columns(&heads, names.iter().enumerate().map(line).collect())
    };
    tables.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// A panel for each curve that some run has.
fn figure(runs: &[Compared]) -> Figure {
    let panel = |(key, heading): (&'static str, &str)| {
        let of = |(i, r): (usize, &Compared)| {
            let (_, points) = r.curves.iter().find(|(k, _)| *k == key)?;
            // The palette has seven colours.
            Some(Series { dashed: i % 14 >= 7, ..Series::new(r.name.clone(), points.clone(), i) })
        };
        let series: Vec<Series> = runs.iter().enumerate().filter_map(of).collect();
        (!series.is_empty()).then(|| Figure::from(LineChart::over_steps(heading, heading, series, None)))
    };
    let mut figures: Vec<Figure> = CURVES.iter().filter_map(|(k, h, _)| panel((k, h))).collect();
    if figures.is_empty() {
        figures.push(LineChart::over_steps("no evaluation yet", "", Vec::new(), None).into());
    }
    Panels { title: String::new(), columns: figures.len(), figures }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_runs_than_stand_beside_each_other_have_a_line_each() {
        let names = ["a", "b", "c", "d", "e"];
        let row = |key: String| {
            let values = (0..names.len()).map(|i| format!("{key}{i}"));
            std::iter::once(key.clone()).chain(values).collect::<Vec<_>>()
        };
        let rows: Vec<Vec<String>> = (0..12).map(|k| row(format!("a-long-key-{k}"))).collect();
        let text = turned("run", &names, &rows);
        assert!(text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
        // Every value stands once, in its run's line.
        for (i, name) in names.iter().enumerate() {
            let lines: Vec<&str> = text.lines().filter(|l| l.starts_with(&format!("{name} "))).collect();
            assert_eq!(lines.len(), 2, "{text}");
            for key in &rows {
                let found = lines.iter().flat_map(|l| l.split_whitespace()).filter(|w| *w == key[1 + i]);
                assert_eq!(found.count(), 1, "{text}");
            }
        }
    }
}
