//! The key `snapshots`: after which updates the weights are kept.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// After how many updates the weights are kept; after the last update always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Snapshots {
    /// 0 and the numbers 2^(k/2), rounded: 1, 2, 3, 4, 6, 8, 11, 16, ..
    Log,
    /// 0 and every so many.
    Every(u64),
    /// These.
    At(Vec<u64>),
}

impl Snapshots {
    /// The numbers of updates up to `steps`, the last one included, ascending.
    pub fn up_to(&self, steps: u64) -> Vec<u64> {
        let mut all: Vec<u64> = match self {
            Snapshots::Log => {
                let powers = (0..126).map(|k| (f64::from(k) / 2.0).exp2().round() as u64);
                std::iter::once(0).chain(powers).take_while(|n| *n <= steps).collect()
            }
            // More than this nobody keeps; `check` says so.
            Snapshots::Every(n) => (0..=(steps / n).min(MOST)).map(|k| k * n).collect(),
            Snapshots::At(list) => list.iter().copied().filter(|n| *n <= steps).collect(),
        };
        all.push(steps);
        all.dedup();
        all
    }

    /// Refuses more snapshots than a folder should hold, and steps that never come.
    ///
    /// # Errors
    /// More than 100,000 snapshots; a step after the last.
    pub fn check(&self, steps: u64) -> Result<()> {
        if let Snapshots::At(list) = self
            && let Some(last) = list.last().filter(|n| **n > steps)
        {
            return Err(Error::invalid("snapshots", last.to_string(), format!("at most steps = {steps}")));
        }
        match self.up_to(steps).len() as u64 {
            n if n <= MOST => Ok(()),
            _ => Err(Error::invalid("snapshots", self.to_string(), format!("at most {MOST} in a run"))),
        }
    }
}

const MOST: u64 = 100_000;

impl FromStr for Snapshots {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            let allowed = "log, `every N`, or increasing numbers of updates such as 0,10,100";
            Error::invalid("snapshots", format!("`{text}`"), allowed)
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["log"] => Ok(Snapshots::Log),
            ["every", n] => match n.parse() {
                Ok(n) if n > 0 => Ok(Snapshots::Every(n)),
                _ => Err(refuse()),
            },
            _ => {
                let list: Vec<u64> =
                    text.split(',').map(|n| n.trim().parse().map_err(|_| refuse())).collect::<Result<_>>()?;
                if list.is_sorted_by(|a, b| a < b) { Ok(Snapshots::At(list)) } else { Err(refuse()) }
            }
        }
    }
}

impl TryFrom<String> for Snapshots {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Snapshots> for String {
    fn from(s: Snapshots) -> String {
        s.to_string()
    }
}

impl fmt::Display for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Snapshots::Log => f.write_str("log"),
            Snapshots::Every(n) => write!(f, "every {n}"),
            Snapshots::At(list) => {
                f.write_str(&list.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_and_written() {
        let of = |text: &str, steps| text.parse::<Snapshots>().unwrap().up_to(steps);
        assert_eq!(of("log", 20), [0, 1, 2, 3, 4, 6, 8, 11, 16, 20]);
        assert_eq!(of("log", 0), [0]);
        assert_eq!(of("every 5", 12), [0, 5, 10, 12]);
        assert_eq!(of("every 6", 12), [0, 6, 12]);
        assert_eq!(of("3, 7", 10), [3, 7, 10]);
        for text in ["log", "every 5", "3,7"] {
            assert_eq!(text.parse::<Snapshots>().unwrap().to_string(), text);
        }
        for bad in ["", "every", "every 0", "every -1", "7,3", "3,3", "logs", "1,", "every 2 3", "1.5"] {
            let e = bad.parse::<Snapshots>().unwrap_err().to_string();
            assert!(e.starts_with("snapshots: ") && e.contains("every N"), "{e}");
        }
        assert!(Snapshots::At(vec![11]).check(10).is_err());
        assert!(Snapshots::Every(1).check(99_999).is_ok());
        assert!(Snapshots::Every(1).check(100_000).is_err());
        assert!(Snapshots::Every(1).check(u64::MAX).is_err());
    }
}
