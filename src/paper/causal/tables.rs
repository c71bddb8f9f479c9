//! A study of causal graphs in numbers: `runs.csv`, `curves.csv`, `positions.csv`, `summary.json`.

use super::draw::without_phase;
use super::drawing::Kind;
use super::gather::{BestHead, Found, by_position, curve};
use crate::report::files::write_bytes_atomic;
use crate::report::metrics::Summary;
use crate::study::gather::{Spread, groups, spread};
use crate::study::tables::{NOT_OF_THE_RESULT, Numbers, cell, of, quoted, runs};
use crate::study::{Axis, ShortTable, Study};
use crate::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// Writes everything; returns the summary.
pub(super) fn write(kind: Kind, study: &Study, folder: &Path, found: &[Found<'_>]) -> Result<Summary> {
    let put = |name: &str, text: String| write_bytes_atomic(&folder.join(name), text.as_bytes());
    put("runs.csv", runs(found.iter().map(|f| (f.member, &f.summary))))?;
    let mut curves = String::from(
        "group,step,runs,test_loss_mean,test_loss_sd,test_loss_min,test_loss_max,\
         attention_mean,attention_sd,attention_min,attention_max\n",
    );
    let mut positions =
        String::from("group,position,runs,attention_mean,attention_sd,attention_min,attention_max\n");
    for (group, of_group) in groups(found) {
        let attention = curve(&of_group, |p| p.attention_on_parent_mean);
        for (step, loss) in curve(&of_group, |p| Some(p.test_loss)) {
            let a = attention.iter().find(|(s, _)| *s == step).map(|(_, s)| *s);
            curves += &format!("{},{step},{},{},{}\n", quoted(group), loss.n, of(Some(loss)), of(a));
        }
        for (i, s) in by_position(&of_group) {
            positions += &format!("{},{i},{},{}\n", quoted(group), s.n, of(Some(s)));
        }
    }
    put("curves.csv", curves)?;
    put("positions.csv", positions)?;
    if kind == Kind::Architectures {
        put("heads.csv", best_heads_csv(found)?)?;
    }
    if kind == Kind::Grid {
        let (csv, json) = grid(study, &cells(study, found))?;
        put("grid.csv", csv)?;
        put("grid.json", json)?;
    }
    let summary = summary(kind, study, found)?;
    summary.write(folder)?;
    Ok(summary)
}

/// The results of the runs at one point of a grid.
pub(super) struct Cell {
    values: Vec<Value>,
    pub(super) runs: usize,
    pub(super) recovered: usize,
    pub(super) attention: Option<Spread>,
    pub(super) loss: Option<Spread>,
    pub(super) gap: Option<Spread>,
}

impl Cell {
    /// Share of the runs that recovered the graph.
    pub(super) fn rate(&self) -> f64 {
        self.recovered as f64 / self.runs as f64
    }
}

/// The cells of a grid, in row-major order over its axes.
pub(super) fn cells(study: &Study, found: &[Found<'_>]) -> Vec<Cell> {
    let count: usize = study.axes.iter().map(|a| a.values.len()).product();
    let per_cell = (found.len() / count.max(1)).max(1);
    let at = |(n, runs): (usize, &[Found<'_>])| {
        let mut rest = n;
        let mut values: Vec<Value> = Vec::new();
        for Axis { values: of_axis, .. } in study.axes.iter().rev() {
            let value = &of_axis[rest % of_axis.len()];
            values.push(serde_json::to_value(value).unwrap_or_default());
            rest /= of_axis.len();
        }
        values.reverse();
        let numbers = |key: &str| spread(runs.iter().filter_map(|f| f.number(key)));
        Cell {
            values,
            runs: runs.len(),
            recovered: recovered(runs.iter()),
            attention: numbers("attention_on_parent_mean"),
            loss: numbers("test_loss"),
            gap: numbers("gap"),
        }
    };
    found.chunks(per_cell).enumerate().map(at).collect()
}

fn recovered<'a>(runs: impl Iterator<Item = &'a Found<'a>>) -> usize {
    runs.filter(|f| f.summary.get("graph_recovered") == Some(&Value::Bool(true))).count()
}

#[derive(Serialize)]
struct CellRecord {
    at: serde_json::Map<String, Value>,
    runs: usize,
    recovered: usize,
    recovery_rate: f64,
    attention_on_parent: Option<Numbers>,
    test_loss: Option<Numbers>,
    gap: Option<Numbers>,
}

/// `grid.csv` and `grid.json`.
fn grid(study: &Study, cells: &[Cell]) -> Result<(String, String)> {
    let keys: Vec<&str> = study.axes.iter().map(|a| a.key.as_str()).collect();
    let mut csv = format!(
        "{},runs,recovered,recovery_rate,attention_mean,attention_sd,test_loss_mean,gap_mean\n",
        keys.join(",")
    );
    let mut records = Vec::new();
    for c in cells {
        let at: Vec<String> = c
            .values
            .iter()
            .map(|v| quoted(v.as_str().map_or(v.to_string(), String::from).as_str()))
            .collect();
        csv += &format!(
            "{},{},{},{},{},{},{},{}\n",
            at.join(","),
            c.runs,
            c.recovered,
            c.rate(),
            cell(c.attention.map(|s| s.mean)),
            cell(c.attention.and_then(|s| s.sd)),
            cell(c.loss.map(|s| s.mean)),
            cell(c.gap.map(|s| s.mean)),
        );
        records.push(CellRecord {
            at: keys.iter().map(|k| k.to_string()).zip(c.values.iter().cloned()).collect(),
            runs: c.runs,
            recovered: c.recovered,
            recovery_rate: c.rate(),
            attention_on_parent: c.attention.map(Numbers::from),
            test_loss: c.loss.map(Numbers::from),
            gap: c.gap.map(Numbers::from),
        });
    }
    let json = serde_json::to_string_pretty(&records)
        .map_err(|e| Error::invalid("grid", e.to_string(), "numbers with a JSON form"))?;
    Ok((csv, json + "\n"))
}

/// Keys: one block for each run where there are few, one for each group where runs repeat each
/// other.
fn summary(kind: Kind, study: &Study, found: &[Found<'_>]) -> Result<Summary> {
    let mut out = Summary::new();
    out.set("study", &study.name)?;
    out.set("runs", found.len())?;
    let numbers =
        |runs: &[&Found<'_>], key: &str| spread(runs.iter().filter_map(|f| f.number(key))).map(Numbers::from);
    match kind {
        Kind::Matrices | Kind::Patterns | Kind::Heads | Kind::Architectures => {
            for f in found {
                for (key, value) in f.summary.iter().filter(|(k, _)| !NOT_OF_THE_RESULT.contains(&k.as_str()))
                {
                    out.set(&format!("{}.{key}", f.member.name), value)?;
                }
            }
        }
        Kind::Positions | Kind::Seeds => {
            for (group, runs) in groups(found) {
                let key = |k: &str| if group.is_empty() { k.to_string() } else { format!("{group}: {k}") };
                out.set(&key("graphs_recovered"), recovered(runs.iter().copied()))?;
                for k in [
                    "attention_on_parent_mean",
                    "attention_on_parent_min",
                    "test_loss",
                    "gap",
                    "bayes_counts",
                    "bayes_public",
                    "bayes_posterior",
                ] {
                    out.set(&key(k), numbers(&runs, k))?;
                }
            }
        }
        Kind::Grid => {
            let all: Vec<&Found<'_>> = found.iter().collect();
            out.set("graphs_recovered", recovered(found.iter()))?;
            out.set("diverged", found.iter().filter(|f| f.summary.contains_key("diverged")).count())?;
            out.set("attention_on_parent_mean", numbers(&all, "attention_on_parent_mean"))?;
            for axis in &study.axes {
                out.set(&axis.key, &axis.values)?;
            }
            if let Some(why) = without_phase(study) {
                out.set("figure", why)?;
            }
        }
    }
    Ok(out)
}

/// Columns and rows of a short table: a row for each run, or for each group of repetitions.
///
/// # Errors
/// Parameters that cannot be read.
pub(super) fn key_numbers(kind: Kind, found: &[Found<'_>]) -> Result<ShortTable> {
    let short = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.4}"));
    let keys = [
        ("test_loss", "test loss"),
        ("bayes_counts", "Bayes, counts"),
        ("bayes_posterior", "Bayes, exact"),
        ("bayes_one_parent", "best single parent"),
        ("gap", "gap to counts"),
        ("attention_on_parent_mean", "attention on the parent"),
        ("attention_on_parent_min", "its minimum"),
    ];
    // Columns without numbers are left out.
    let keys: Vec<(&str, &'static str)> =
        keys.into_iter().filter(|(k, _)| found.iter().any(|f| f.number(k).is_some())).collect();
    let mut columns: Vec<&str> = keys.iter().map(|k| k.1).collect();
    match kind {
        Kind::Matrices | Kind::Patterns | Kind::Heads | Kind::Architectures => {
            columns.insert(0, "run");
            columns.push("graph recovered");
            match kind {
                Kind::Heads => columns.push("heads"),
                Kind::Architectures => columns.push("best head of each layer"),
                _ => {}
            }
            let row = |f: &Found<'_>| -> Result<Vec<String>> {
                let mut row = vec![f.member.name.clone()];
                row.extend(keys.iter().map(|(k, _)| short(f.number(k))));
                row.push(if recovered(std::iter::once(f)) == 1 { "yes".into() } else { "no".into() });
                match kind {
                    Kind::Heads => row.push(heads(f).unwrap_or_default()),
                    Kind::Architectures => {
                        let several = f.parents.iter().any(|set| set.len() > 1);
                        let text = |b: BestHead| {
                            let of =
                                if several { format!(" on parent {}", b.parent + 1) } else { String::new() };
                            format!("layer {}, head {}{of}: {:.3}", b.layer + 1, b.head + 1, b.attention)
                        };
                        let best = f.best_heads(&f.layers()?).into_iter().map(text);
                        row.push(best.collect::<Vec<_>>().join("; "));
                    }
                    _ => {}
                }
                Ok(row)
            };
            Ok((columns, found.iter().map(row).collect::<Result<_>>()?))
        }
        _ => {
            columns.splice(0..0, ["group", "runs"]);
            columns.push("graphs recovered");
            let row = |(group, runs): (&str, Vec<&Found<'_>>)| {
                let mut row = vec![
                    if group.is_empty() { "all".into() } else { group.to_string() },
                    runs.len().to_string(),
                ];
                for (k, _) in &keys {
                    let s = spread(runs.iter().filter_map(|f| f.number(k)));
                    row.push(match s {
                        Some(Spread { mean, sd: Some(sd), .. }) => format!("{mean:.4} ± {sd:.4}"),
                        s => short(s.map(|s| s.mean)),
                    });
                }
                row.push(recovered(runs.iter().copied()).to_string());
                row
            };
            Ok((columns, groups(found).into_iter().map(row).collect()))
        }
    }
}

/// `heads.csv`: for each run, layer and parent the head with the most attention on it.
fn best_heads_csv(found: &[Found<'_>]) -> Result<String> {
    let mut csv = String::from("run,layer,parent,head,heads,attention\n");
    for f in found {
        let layers = f.layers()?;
        for b in f.best_heads(&layers) {
            let (name, heads) = (quoted(&f.member.name), layers[b.layer].len());
            csv +=
                &format!("{name},{},{},{},{heads},{}\n", b.layer + 1, b.parent + 1, b.head + 1, b.attention);
        }
    }
    Ok(csv)
}

/// Which head has which parent, and how much attention of it, from the keys that runs with several
/// parents have.
fn heads(f: &Found<'_>) -> Option<String> {
    let of = f.summary.get("head_of_parent")?.as_array()?;
    let mean = f.summary.get("attention_of_heads")?.as_array()?;
    let part = |(k, h): (usize, &Value)| {
        let h = h.as_u64()? as usize;
        let x = mean.get(h.checked_sub(1)?)?.get(k)?.as_f64()?;
        Some(format!("parent {} by head {h} ({x:.3})", k + 1))
    };
    let mut parts: Vec<String> = of.iter().enumerate().filter_map(part).collect();
    if let Some(x) = f.number("heads_split_parents") {
        parts.push(format!("both largest at {:.0}% of positions", 100.0 * x));
    }
    Some(parts.join(", "))
}
