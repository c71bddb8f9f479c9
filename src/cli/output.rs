//! What commands print, and the options of every command that decide it; folders that they make.
//!
//! Results go to stdout, as text for people or as one JSON document; all else to stderr.

use crate::input;
use crate::report::arrays::Format;
use crate::report::digest::DIGESTS_FILE;
use crate::report::files::{FolderLock, claim_folder, create_numbered, create_run_dir, write_bytes_atomic};
use crate::report::plot::{Figure, Format as Picture, Look};
pub(super) use crate::report::records::shell_word;
use crate::run::folder::CONFIG_FILE;
use crate::study::STUDY_FILE;
use crate::{Error, Result};
use anstyle::Style;
use clap::builder::Styles;
use clap::{Args, ColorChoice};
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Options of every command.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Options of every command")]
pub(super) struct Global {
    /// Nothing on stderr but errors and warnings; results on stdout stay.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Also say what is resolved, where and on what: configuration, folder, memory, instruction
    /// set.
    #[arg(short, long, global = true)]
    verbose: bool,
    /// When to colour: NO_COLOR, or an output that is no terminal, means never in `auto`.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    /// Results as one JSON document on stdout, with all digits, instead of text for people.
    #[arg(long, global = true)]
    json: bool,
}

/// Those of this process, once they are read.
static GLOBAL: OnceLock<Global> = OnceLock::new();

impl Global {
    /// Keeps them for this process.
    ///
    /// # Errors
    /// Quiet and verbose at once: the parser does not see that where one of them stands before the
    /// command.
    pub(super) fn keep(self) -> Result<()> {
        if self.quiet && self.verbose {
            return Err(Error::invalid("verbose", "given with --quiet", "one of the two"));
        }
        GLOBAL.get_or_init(|| self);
        Ok(())
    }
}

/// The choice of colours in these arguments, which the parser's own errors follow too; from here on
/// that of the process.
pub(super) fn choose_color(args: impl Iterator<Item = OsString>) -> ColorChoice {
    let args: Vec<String> = args.map(|a| a.to_string_lossy().into_owned()).collect();
    let at = |i: usize| match args[i].strip_prefix("--color") {
        Some("") => args.get(i + 1).map(String::as_str),
        Some(rest) => rest.strip_prefix('='),
        None => None,
    };
    let choice = match (0..args.len()).find_map(at) {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    };
    match choice {
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
        ColorChoice::Auto => anstream::ColorChoice::Auto,
    }
    .write_global();
    choice
}

/// True if results are to be JSON.
pub(super) fn wants_json() -> bool {
    GLOBAL.get().is_some_and(|g| g.json)
}

/// True if only errors and warnings are to be on stderr.
pub(super) fn is_quiet() -> bool {
    GLOBAL.get().is_some_and(|g| g.quiet)
}

/// True if more is to be said.
pub(super) fn is_verbose() -> bool {
    GLOBAL.get().is_some_and(|g| g.verbose)
}

/// Prints a line on stderr, `head` of it in `style`. Control characters are escaped, so that it
/// stays one line whatever the user typed. A closed stderr is ignored.
fn line(head: &str, style: Style, text: &str) {
    let line: String = text
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    let _ = writeln!(anstream::stderr().lock(), "{style}{head}{style:#}{line}");
}

/// An error, on stderr.
pub(super) fn fail(text: &str) {
    line("error:", *Styles::styled().get_error(), &format!(" {text}"));
}

/// A warning, on stderr.
pub(super) fn warn(text: &str) {
    line("warning:", *Styles::styled().get_invalid(), &format!(" {text}"));
}

/// A line on stderr that stays whatever is asked for: tips that belong to an error.
pub(super) fn insist(text: &str) {
    line("", Style::new(), text);
}

/// A line on stderr, unless it is to be quiet.
pub(super) fn say(text: &str) {
    if !is_quiet() {
        insist(text);
    }
}

/// A line on stderr, where more is asked for.
pub(super) fn detail(text: impl FnOnce() -> String) {
    if is_verbose() {
        insist(&text());
    }
}

/// Prints text on stdout. A closed pipe (`| head`) is not an error.
pub(super) fn tell(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("stdout", "cannot write", e)),
        _ => Ok(()),
    }
}

/// The result of a command on stdout: `value` as JSON, or the text for people.
pub(super) fn show(value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    if wants_json() { tell(&json(value)?) } else { tell(&text()) }
}

/// Indented JSON with a line end.
pub(super) fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::invalid("json", e.to_string(), "values that JSON can hold"))?;
    Ok(text + "\n")
}

/// Folder of the folders that nobody named.
const RUNS: &str = "runs";

/// The folder of a command, created: `out`, which must be new or empty, or the first of
/// `runs/NAME`, `runs/NAME-2`, .. that did not exist, which no other process gets then.
pub(super) fn new_folder(out: Option<&Path>, name: &str, quick: bool) -> Result<PathBuf> {
    out.map(|out| outside_runs("out", out)).transpose()?;
    let folder = match out {
        Some(folder) => create_run_dir(folder).map(|()| folder.to_path_buf()),
        None => create_numbered(Path::new(RUNS), &format!("{name}{}", if quick { "-quick" } else { "" })),
    }?;
    detail(|| format!("folder: {}", folder.display()));
    Ok(folder)
}

/// Checks a place for results, given as `field`: not in the folder of a run, a study or figures,
/// whose own files stay as they are.
///
/// # Errors
/// A file or a folder there, or below.
pub(super) fn outside_runs(field: &'static str, out: &Path) -> Result<()> {
    let above = out.ancestors().skip(1).map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    let Some(start) = above.into_iter().find_map(|p| p.canonicalize().ok()) else { return Ok(()) };
    let own = [CONFIG_FILE, STUDY_FILE, super::figures::FIGURES_FILE];
    // Of a user's own files of these names there are no digests.
    let holds = |p: &&Path| p.join(DIGESTS_FILE).is_file() && own.iter().any(|name| p.join(name).is_file());
    match start.ancestors().find(holds) {
        None => Ok(()),
        Some(run) => {
            let found = format!("{} is in {}, the folder of a run or a study", out.display(), run.display());
            Err(Error::invalid(field, found, "a place elsewhere: its own files stay as they are"))
        }
    }
}

/// Checks the name of a file for arrays, given as `field`.
///
/// # Errors
/// As [`Format::of`] and [`outside_runs`].
pub(super) fn check_arrays(field: &'static str, path: &Path) -> Result<()> {
    Format::of(path)?;
    outside_runs(field, path)
}

/// Checks the name of a file for a picture, given as `field`.
///
/// # Errors
/// Another ending than those of [`Picture`].
pub(super) fn check_picture(field: &'static str, path: &Path) -> Result<()> {
    outside_runs(field, path)?;
    match picture_of(path) {
        Some(_) => Ok(()),
        None => {
            let allowed = "a file name that ends in .svg, .png or .pdf";
            Err(Error::invalid(field, path.display().to_string(), allowed))
        }
    }
}

fn picture_of(path: &Path) -> Option<Picture> {
    let ending = input::extension(path);
    Picture::ALL.into_iter().find(|p| p.name() == ending)
}

/// Writes a picture in the form that its name says.
///
/// # Errors
/// As [`Figure::to_png`]; a file that cannot be written.
pub(super) fn write_picture(path: &Path, figure: &Figure) -> Result<()> {
    let format = picture_of(path).unwrap_or(Picture::Svg);
    write_bytes_atomic(path, &figure.to_bytes(format, Look::default())?)
}

/// Takes the folder of --out, new or empty.
///
/// # Errors
/// As [`outside_runs`] and [`claim_folder`].
pub(super) fn claim_out(out: &Path) -> Result<FolderLock> {
    outside_runs("out", out)?;
    claim_folder(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_known_before_the_arguments_are_parsed() {
        let of = |words: &[&str]| choose_color(words.iter().map(OsString::from));
        assert_eq!(of(&["popgrad", "--color", "never", "run"]), ColorChoice::Never);
        assert_eq!(of(&["popgrad", "run", "--color=always"]), ColorChoice::Always);
        assert_eq!(of(&["popgrad", "run", "--colors=always", "--color"]), ColorChoice::Auto);
    }
}
