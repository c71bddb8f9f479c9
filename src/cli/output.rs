//! Folders that commands make.

use crate::Result;
use crate::report::files::{create_numbered, create_run_dir};
use std::path::{Path, PathBuf};

/// Folder of the folders that nobody named.
const RUNS: &str = "runs";

/// The folder of a command, created: `out`, which must be new or empty, or the first of
/// `runs/NAME`, `runs/NAME-2`, .. that did not exist, which no other process gets then.
pub(super) fn new_folder(out: Option<&Path>, name: &str, quick: bool) -> Result<PathBuf> {
    match out {
        Some(folder) => create_run_dir(folder).map(|()| folder.to_path_buf()),
        None => create_numbered(Path::new(RUNS), &format!("{name}{}", if quick { "-quick" } else { "" })),
    }
}

/// A word that a shell leaves as it is.
pub(super) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./:,^@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
