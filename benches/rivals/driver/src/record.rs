//! The dated record: benches/record/CPU/DATE-KIND.csv, one row for each case and implementation.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const COLUMNS: &str = "op,dtype,batch,m,k,n,threads,impl,version,median_ns,min_ns,max_ns,rounds,rate,unit,peak_gflops,\
                       share_of_peak,commit,cpu";
/// The leading columns that name a measurement.
const KEY: usize = 8;

/// One measurement; text that goes between commas holds none.
pub struct Row {
    pub key: [String; KEY],
    pub version: String,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub rounds: usize,
    pub rate: f64,
    pub unit: &'static str,
    pub peak: Option<f64>,
}

/// Lines of a record by their key. A case measured again replaces its row, so that a record may be
/// made in pieces.
pub struct Record {
    /// `None`: nothing is written.
    path: Option<PathBuf>,
    rows: BTreeMap<Vec<String>, String>,
    tail: String,
}

/// `AMD EPYC family 25 model 17`, or what the architecture is called.
pub fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name));
        line.and_then(|l| l.split(':').nth(1)).map(|v| v.trim().replace(',', " "))
    };
    match (field("model name"), field("cpu family"), field("model")) {
        (Some(name), Some(family), Some(model)) => format!("{name} family {family} model {model}"),
        _ => std::env::consts::ARCH.to_string(),
    }
}

/// Does the CPU say that it has AVX-512?
pub fn has_avx512() -> bool {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().find(|l| l.starts_with("flags")).is_some_and(|l| l.split(' ').any(|w| w == "avx512f"))
}

/// Lower case words joined by dashes, as benches/record.py names folders.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

/// UTC date of a day since 1970, by the civil calendar (Hinnant, "chrono-compatible low-level date
/// algorithms").
fn date(days: i64) -> String {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    format!("{}-{m:02}-{d:02}", yoe + era * 400 + i64::from(m <= 2))
}

/// What git says in `root`; None outside a checkout.
fn git(root: &Path, args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).current_dir(root).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}

/// The commit that is measured; "unknown" outside a checkout. Records and the pages made from them
/// may differ from it, because a measurement writes them.
///
/// # Errors
/// Uncommitted changes of anything else: a figure nobody could measure again.
pub fn commit(root: &Path) -> Result<String, String> {
    let changed = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches/record", ":!docs"];
    match git(root, &changed) {
        Some(files) if !files.is_empty() => Err(format!("commit these changes before measuring:\n{files}")),
        _ => Ok(git(root, &["describe", "--always"]).unwrap_or_else(|| "unknown".into())),
    }
}

impl Record {
    /// Today's record of this CPU, with what it already holds; or the file `path`.
    pub fn open(root: &Path, kind: &str, path: Option<PathBuf>) -> Result<Record, String> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let path = path.unwrap_or_else(|| {
            let name = format!("{}-{kind}.csv", date((seconds / 86_400) as i64));
            root.join("benches/record").join(slug(&cpu())).join(name)
        });
        let old = fs::read_to_string(&path).unwrap_or_default();
        let lines =
            old.lines().skip(1).map(|l| (l.split(',').take(KEY).map(String::from).collect(), l.to_string()));
        let rows = if old.starts_with(COLUMNS) { lines.collect() } else { BTreeMap::new() };
        Ok(Record { path: Some(path), rows, tail: format!("{},{}", commit(root)?, cpu()) })
    }

    /// One that is never written, for measurements beside the work.
    pub fn none() -> Record {
        Record { path: None, rows: BTreeMap::new(), tail: String::new() }
    }

    /// Adds or replaces.
    pub fn put(&mut self, r: Row) {
        let Row { key, version, median, min, max, rounds, rate, unit, peak } = r;
        let version = version.replace(',', " ");
        let of_peak = peak.map_or(",".into(), |p| format!("{p:.2},{:.4}", rate / p));
        let line = format!(
            "{},{version},{median:.1},{min:.1},{max:.1},{rounds},{rate:.4},{unit},{of_peak},{}",
            key.join(","),
            self.tail
        );
        self.rows.insert(key.to_vec(), line);
    }

    /// Writes the file whole, numbers in order of value.
    pub fn save(&self) -> Result<Option<&Path>, String> {
        let Some(path) = &self.path else { return Ok(None) };
        let fail = |e: std::io::Error| format!("{}: {e}", path.display());
        let number = |s: &String| s.parse::<u64>().unwrap_or(0);
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_cached_key(|(k, _)| {
            let sizes: Vec<u64> = k[2..7].iter().map(number).collect();
            (k[0].clone(), k[1].clone(), sizes[4], sizes[0], sizes[1..4].to_vec(), k[7].clone())
        });
        let text: String = rows.into_iter().map(|(_, l)| format!("{l}\n")).collect();
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(fail)?;
        }
        let new = path.with_extension("csv.tmp");
        fs::write(&new, format!("{COLUMNS}\n{text}")).and_then(|()| fs::rename(&new, path)).map_err(fail)?;
        Ok(Some(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        for (days, text) in
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_781, "2026-11-24")]
        {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn a_case_measured_again_replaces_its_row() {
        let dir = std::env::temp_dir().join(format!("popgrad-record-{}", std::process::id()));
        let path = dir.join("a.csv");
        let row = |n: &str, rate: f64| Row {
            key: ["nn", "f32", "1", n, n, n, "1", "x"].map(String::from),
            version: "x 1, y".into(),
            median: 1.0,
            min: 0.5,
            max: 2.0,
            rounds: 3,
            rate,
            unit: "GFLOP/s",
            peak: Some(10.0),
        };
        for (n, rate) in [("64", 1.0), ("8", 2.0), ("64", 3.0)] {
            let mut r = Record::open(&dir, "test", Some(path.clone())).unwrap();
            r.put(row(n, rate));
            r.save().unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], COLUMNS);
        assert!(
            lines[1].starts_with("nn,f32,1,8,8,8,1,x,x 1  y,1.0,0.5,2.0,3,2.0000,GFLOP/s,10.00,0.2000,"),
            "{text}"
        );
        assert!(lines[2].starts_with("nn,f32,1,64,64,64,1,x,x 1  y,1.0,0.5,2.0,3,3.0000,"), "{text}");
        assert!(lines.iter().all(|l| l.split(',').count() == COLUMNS.split(',').count()), "{text}");
    }
}
