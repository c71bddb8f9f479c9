//! Shared code of a study's tables. They hold no times and no paths, so a rerun gives the same
//! bytes.

use super::Member;
use super::gather::Spread;
use serde::Serialize;
use serde_json::{Map, Value};

/// Keys of a run's summary that a rerun does not reproduce.
pub const NOT_OF_THE_RESULT: [&str; 3] = ["seconds", "steps_per_second", "run_folder"];

/// Mean and spread as JSON.
#[derive(Serialize)]
pub struct Numbers {
    n: usize,
    mean: f64,
    sd: Option<f64>,
    min: f64,
    max: f64,
}

impl From<Spread> for Numbers {
    fn from(s: Spread) -> Self {
        Numbers { n: s.n, mean: s.mean, sd: s.sd, min: s.min, max: s.max }
    }
}

/// A number of a table; empty for none.
pub fn cell(x: Option<f64>) -> String {
    x.filter(|x| x.is_finite()).map_or(String::new(), |x| x.to_string())
}

/// A text of a table.
pub fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() }
}

/// Mean, standard deviation, minimum, maximum of a table.
pub fn of(s: Option<Spread>) -> String {
    let f = |of: fn(&Spread) -> f64| cell(s.as_ref().map(of));
    format!("{},{},{},{}", f(|s| s.mean), cell(s.and_then(|s| s.sd)), f(|s| s.min), f(|s| s.max))
}

/// `runs.csv`: a row for each run, with the results in its summary.
pub fn runs<'a>(found: impl Iterator<Item = (&'a Member, &'a Map<String, Value>)> + Clone) -> String {
    let mut keys: Vec<&str> = Vec::new();
    for key in found.clone().flat_map(|(_, summary)| summary.keys()) {
        if !NOT_OF_THE_RESULT.contains(&key.as_str()) && !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let mut text = format!("run,group,seed,{}\n", keys.join(","));
    for (m, summary) in found {
        let cell = |k: &&str| match summary.get(*k) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(s)) => quoted(s),
            Some(v) => quoted(&v.to_string()),
        };
        let cells: Vec<String> = keys.iter().map(cell).collect();
        let seed = m.config.plan.seed;
        text += &format!("{},{},{seed},{}\n", quoted(&m.name), quoted(&m.group), cells.join(","));
    }
    text
}
