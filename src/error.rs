//! The error type, and the exit code of each error.

use popgrad_kernels::KernelError;
use std::path::{Path, PathBuf};

/// `std::result::Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error caused by input, files or the system. Every message is one line that names the field
/// and, if a value was rejected, the allowed values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value outside its domain.
    #[error("{field}: {problem}; allowed: {allowed}")]
    Invalid {
        /// Configuration key, array name or argument.
        field: String,
        /// What was found, value included.
        problem: String,
        /// What would have been accepted.
        allowed: String,
    },
    /// A name (key, preset, model, graph) that does not exist.
    #[error("unknown {kind} `{name}`{}; known: {known}", suggestion(.near))]
    Unknown {
        /// What sort of name: `key`, `preset`, `model`, ..
        kind: &'static str,
        /// The name as given.
        name: String,
        /// The closest known name, when one is close.
        near: Option<String>,
        /// The names that exist.
        known: String,
    },
    /// A file that could be read but has wrong contents.
    #[error("{}: {problem}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what is expected.
        problem: String,
    },
    /// An error of the operating system.
    #[error("{}: {action}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, e.g. `cannot write`.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An exact evaluation that would take longer than the limit.
    #[error("{words:.3e} words: about {seconds:.0} s and {:.0} MB each time; allowed unless forced: {limit} s", .bytes / 1e6)]
    TooLong {
        /// Words to visit.
        words: f64,
        /// Estimated seconds.
        seconds: f64,
        /// Estimated bytes.
        bytes: f64,
        /// Seconds allowed.
        limit: f64,
    },
    /// Training diverged: a loss or parameter is not finite.
    #[error(
        "lr, weight_decay: training diverged: {what} is {value} at step {step}; \
         allowed: rates at which everything stays finite"
    )]
    Diverged {
        /// What is not finite.
        what: String,
        /// Its value.
        value: f64,
        /// Updates done.
        step: u64,
    },
    /// Training was asked to stop, and saved what it had.
    #[error("stopped after {done}, which {} holds", .folder.display())]
    Stopped {
        /// What is done, e.g. `update 12 of 100`.
        done: String,
        /// Folder of the run or study.
        folder: PathBuf,
    },
    /// Figures that could not be drawn; everything else was written.
    #[error("figures: {source}; all else is written in {}", folder.display())]
    Figures {
        /// Folder of the run or study.
        folder: PathBuf,
        /// Why the first of them could not.
        source: Box<Error>,
    },
    /// A kernel rejected its operands, or an instruction set is unknown or unavailable.
    #[error("kernel: {0}")]
    Kernel(#[from] KernelError),
}

fn suggestion(near: &Option<String>) -> String {
    near.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default()
}

/// Most digits of a number in a message: those of the largest u64.
const DIGITS: usize = 20;

/// `text` with numbers of more digits, such as 1 followed by 300 zeros, in the form 1e300. Digits
/// within a name, such as that of a file, stay.
pub(crate) fn brief(text: String) -> String {
    if text.len() <= DIGITS {
        return text;
    }
    let mut out = String::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let digit = |c: char| c.is_ascii_digit() || c == '.';
        let (run, after) = rest.split_at(rest.find(|c| !digit(c)).unwrap_or(rest.len()));
        let in_name = ends_in_name(&out) || after.starts_with(|c| of_name(c) || c == '-');
        match run.parse::<f64>() {
            Ok(x) if !in_name && run.len() > DIGITS && x.is_finite() => out += &format!("{x:e}"),
            Ok(_) if !in_name && run.len() > DIGITS => out += &format!("{}..", &run[..DIGITS]),
            _ => out += run,
        }
        let (other, after) = after.split_at(after.find(digit).unwrap_or(after.len()));
        out += other;
        rest = after;
    }
    out
}

fn of_name(c: char) -> bool {
    c.is_alphanumeric() || "/\\_".contains(c)
}

/// Whether digits after `text` go on with a name. A minus sign before them is no such sign, unless
/// a name ends before it.
fn ends_in_name(text: &str) -> bool {
    let mut back = text.chars().rev();
    match back.next() {
        Some('-') => back.next().is_some_and(of_name),
        last => last.is_some_and(of_name),
    }
}

impl Error {
    /// A value outside its domain: the field, what was found, what is allowed.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>, allowed: impl Into<String>) -> Self {
        Error::Invalid { field: field.into(), problem: brief(problem.into()), allowed: brief(allowed.into()) }
    }

    /// A name that is not among `known`, with the nearest one suggested.
    pub fn unknown<'a>(kind: &'static str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let near = known
            .iter()
            // Of equally near ones that of the same length: letters change places more often than
            // they get lost.
            .map(|k| {
                let same = k.eq_ignore_ascii_case(name);
                (!same, strsim::damerau_levenshtein(name, k), k.len().abs_diff(name.len()), *k)
            })
            .min()
            .filter(|(other, d, _, k)| !other || *d <= 1 + k.len() / 3 && *d < k.len().max(name.len()))
            .map(|(.., k)| k.to_string());
        Error::Unknown { kind, name: name.to_string(), near, known: known.join(", ") }
    }

    /// A file whose content is wrong.
    pub fn format(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Error::Format { path: path.as_ref().to_path_buf(), problem: brief(problem.into()) }
    }

    /// An I/O failure while doing `action` to `path`.
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), action, source }
    }

    /// That the figures of the run or study in `folder` failed by `self`, all else being written.
    pub fn of_figures(self, folder: impl AsRef<Path>) -> Self {
        Error::Figures { folder: folder.as_ref().to_path_buf(), source: Box::new(self) }
    }

    /// True for [`Error::Figures`].
    pub fn is_of_figures(&self) -> bool {
        matches!(self, Error::Figures { .. })
    }

    /// True for [`Error::Diverged`].
    pub fn is_divergence(&self) -> bool {
        matches!(self, Error::Diverged { .. })
    }

    /// Process exit code: 2 for usage (a bad value or name given on the command line or in a
    /// configuration), 1 for everything found in files or the system.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Invalid { .. }
            | Error::Unknown { .. }
            | Error::TooLong { .. }
            | Error::Diverged { .. } => 2,
            // The value of POPGRAD_ISA is usage, too.
            Error::Kernel(KernelError::UnknownIsa { .. } | KernelError::IsaUnavailable { .. }) => 2,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_many_digits_are_short_in_messages() {
        for (value, shown) in [
            (1e300f64.to_string(), "1e300"),
            (1e-300f64.to_string(), "1e-300"),
            ((-1.5e200f64).to_string(), "-1.5e200"),
            (format!("[{}, 2]", f64::MAX), "[1.7976931348623157e308, 2]"),
            (u64::MAX.to_string(), "18446744073709551615"),
            (0.1f64.to_string(), "0.1"),
            ("9".repeat(400), "99999999999999999999.."),
            ("1.2.3".repeat(9), &*"1.2.3".repeat(9)),
            (format!("`{}`", 1e60), "`1e60`"),
            (format!("runs/{}", 1e60), &*format!("runs/{}", 1e60)),
            (format!("chain-{} or", 1e60), &*format!("chain-{} or", 1e60)),
            (format!("{}.csv", 1e60), &*format!("{}.csv", 1e60)),
        ] {
            let e = Error::invalid("alpha", value, "1 to 2");
            assert_eq!(e.to_string(), format!("alpha: {shown}; allowed: 1 to 2"));
        }
        let e = Error::format("f.csv", format!("line 3: {} is too large", 2e99));
        assert_eq!(e.to_string(), "f.csv: line 3: 2e99 is too large");
    }
}
