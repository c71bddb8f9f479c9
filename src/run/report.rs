//! A run as a part of a report: what its folder holds, and what its experiment shows of it.

use super::folder::{self, CHECKPOINT_FILE, CONFIG_FILE};
use super::provenance::PROVENANCE_FILE;
use super::trained::kept;
use super::verdict::{self, WARNINGS_KEY};
use super::{Experiment, Results, Setup, Trained};
use crate::config::Config;
use crate::input::{self, RECORDS};
use crate::report::html::data::{Album, Frame, RunPart, numbers};
use crate::report::metrics::{METRICS_FILE, SUMMARY_FILE};
use crate::report::records::{self, shell_word};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The part of the run in `folder`, called `name`, with at most `most` numbers of matrices: of
/// more, fewer snapshots are shown. Without sentences about the experiment and without commands.
///
/// # Errors
/// Files that are damaged or edited; weights of another run.
pub fn part(
    name: &str,
    folder: &Path,
    config: &Config,
    find: fn(&Config) -> Result<&'static dyn Experiment>,
    most: usize,
) -> Result<RunPart> {
    let finished = folder.join(SUMMARY_FILE).is_file();
    if finished {
        folder::check_results(folder)?;
    }
    let results = results(folder)?;
    let mut setup = find(config)?.setup(config)?;
    let sketch = setup.sketch(&results)?;
    let mut notes = Vec::new();
    let album = album(folder, find, setup.as_mut(), most, &mut notes)?;
    let mut warnings: Vec<String> = Vec::new();
    if results.summary.iter().any(|(k, v)| k == WARNINGS_KEY && v.as_array().is_some_and(|l| !l.is_empty())) {
        let of = verdict::warnings(&verdict::curve(folder)?, setup.vocab());
        warnings.extend(of.iter().map(ToString::to_string));
    }
    let shown = match (finished, results.records.last()) {
        (true, _) | (_, None) => results.summary.clone(),
        (false, Some(last)) => last.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
    };
    let table = config.table();
    let keys = crate::config::KEYS.iter().filter_map(|k| Some((k.name.to_string(), table.get(k.name)?)));
    // Texts without their quotes.
    let keys = keys.map(|(k, v)| (k, v.as_str().map_or_else(|| v.to_string(), String::from)));
    let config_text = input::text(&folder.join(CONFIG_FILE), input::CONFIGURATION)?;
    Ok(RunPart {
        name: name.into(),
        warnings,
        // Where the folder was is no result, and the page may be elsewhere.
        results: shown.into_iter().filter(|(k, _)| k != "run_folder").collect(),
        finished,
        config: keys.collect(),
        config_text,
        sessions: sessions(folder)?,
        sketch,
        album,
        notes,
        ..RunPart::default()
    })
}

/// What the logs of the run in `folder` hold.
///
/// # Errors
/// Files that are damaged.
pub fn results(folder: &Path) -> Result<Results> {
    let path = folder.join(METRICS_FILE);
    let records = lines(&path)?.into_iter().map(|r| r.into_iter().collect()).collect();
    let path = folder.join(SUMMARY_FILE);
    let summary = match path.is_file() {
        true => records::entries(&path, &input::text(&path, RECORDS)?)?,
        false => Vec::new(),
    };
    Ok(Results { records, summary })
}

/// The lines of a log that are whole; none if there is no log.
fn lines(path: &Path) -> Result<Vec<Map<String, Value>>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    // A process that is writing may be in the middle of the last line.
    let mut text = input::text(path, RECORDS)?;
    text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
    let parse = |(n, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::format(path, format!("line {}: {e}", n + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}

/// Most sessions that are shown.
const SESSIONS: usize = 6;

/// The sessions of a run or a study, the command as one line.
///
/// # Errors
/// A damaged log.
pub fn sessions(folder: &Path) -> Result<Vec<Vec<(String, Value)>>> {
    let path = folder.join(PROVENANCE_FILE);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let mut text = input::text(&path, RECORDS)?;
    text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
    let mut out = Vec::new();
    for line in text.lines() {
        let mut entries = records::entries(&path, line)?;
        for (key, v) in &mut entries {
            if let (true, Value::Array(words)) = (key == "command", &*v) {
                let words: Vec<String> = words.iter().filter_map(Value::as_str).map(shell_word).collect();
                *v = words.join(" ").into();
            }
        }
        out.push(entries);
    }
    Ok(out.split_off(out.len().saturating_sub(SESSIONS)))
}

/// The weights that the run kept, as frames.
fn album(
    folder: &Path,
    find: fn(&Config) -> Result<&'static dyn Experiment>,
    setup: &mut dyn Setup,
    most: usize,
    notes: &mut Vec<String>,
) -> Result<Album> {
    if !folder.join(CHECKPOINT_FILE).is_file() {
        notes.push("The run has no checkpoint yet: no attention and no weights to show.".into());
        return Ok(Album::default());
    }
    let last = Trained::load(folder, None, find)?;
    let mut frame = |t: &Trained| setup.frame(&t.trace, &t.params);
    let end = frame(&last)?;
    let mut steps: Vec<u64> = kept(folder).into_iter().filter(|s| *s < last.step).collect();
    let all = steps.len() + 1;
    if steps.is_empty() {
        notes.push(
            "Only the end is shown: with snapshots=log a run keeps its weights along the way, and this page has \
             a slider over them."
                .into(),
        );
    }
    steps = thinned(&steps, (most / numbers(&end).max(1)).saturating_sub(1));
    if steps.len() + 1 < all {
        notes.push(format!("{} of {all} snapshots are shown, to keep the page small.", steps.len() + 1));
    }
    let mut frames: Vec<Frame> = Vec::new();
    for step in &steps {
        frames.push(frame(&Trained::load(folder, Some(*step), find)?)?);
    }
    frames.push(end);
    steps.push(last.step);
    Ok(Album::of(steps, &frames))
}

/// At most `most` of `steps`, evenly among them, the first one included.
fn thinned(steps: &[u64], most: usize) -> Vec<u64> {
    let n = steps.len();
    if n <= most {
        return steps.to_vec();
    }
    (0..most).map(|k| steps[k * n / most.max(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_thinned_evenly() {
        let steps: Vec<u64> = (0..10).collect();
        assert_eq!(thinned(&steps, 20), steps);
        assert_eq!(thinned(&steps, 5), [0, 2, 4, 6, 8]);
        assert_eq!(thinned(&steps, 3), [0, 3, 6]);
        assert!(thinned(&steps, 0).is_empty() && thinned(&[], 3).is_empty());
    }

    #[test]
    fn logs_end_with_their_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at(METRICS_FILE), "{\"step\":0,\"a\":1.5}\n{\"step\":4,\"a\":null}\n{\"st").unwrap();
        std::fs::write(at(SUMMARY_FILE), "{\"z\": 2, \"a\": 1}").unwrap();
        std::fs::write(at(PROVENANCE_FILE), "{\"began\":\"start\",\"command\":[\"a\",\"b c\"]}\n").unwrap();
        let r = results(dir.path()).unwrap();
        assert_eq!((r.curve("a"), r.records.len()), (vec![(0.0, 1.5)], 2));
        assert_eq!((r.number("z"), r.summary[0].0.as_str()), (Some(2.0), "z"));
        assert_eq!(sessions(dir.path()).unwrap()[0][1], ("command".into(), "a 'b c'".into()));
        std::fs::write(at(METRICS_FILE), "[1]\n").unwrap();
        assert!(results(dir.path()).unwrap_err().to_string().contains("metrics.jsonl: line 1"));
    }
}
