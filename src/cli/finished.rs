//! Reading the folders of runs and studies that commands are given.

use crate::config::Config;
use crate::paper::{self, Papers};
use crate::report::files::expect;
use crate::run::{Trained, folder};
use crate::study::{STUDY_FILE, Study};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// True if `folder` is that of a run.
fn is_run(folder: &Path) -> bool {
    folder.join(folder::CONFIG_FILE).is_file()
}

/// The configuration of the run in `run`.
///
/// # Errors
/// No folder of a run; as [`folder::read_config`].
pub(super) fn run_config(run: &Path) -> Result<Config> {
    check_run(run)?;
    folder::read_config(run)
}

/// The weights of the run in `run` after `step` updates, at its end if `None`.
///
/// # Errors
/// No folder of a run; as [`Trained::load`].
pub(super) fn trained(run: &Path, step: Option<u64>) -> Result<Trained> {
    check_run(run)?;
    Trained::load(run, step, paper::experiment)
}

fn check_run(run: &Path) -> Result<()> {
    if run.join(STUDY_FILE).is_file() {
        let found = format!("{} is the folder of a study", run.display());
        return Err(Error::invalid("run", found, "the folder of a run"));
    }
    expect("run", run, folder::CONFIG_FILE, "the folder of a run")
}

/// The runs in `folder`, itself or those of a study, with their names and configurations.
///
/// # Errors
/// A folder of neither; damaged files.
pub(super) fn runs_in(folder: &Path) -> Result<Vec<(String, PathBuf, Config)>> {
    let plain = |p: &Path| {
        let name = p.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        name.unwrap_or_else(|| p.display().to_string())
    };
    if !folder.join(STUDY_FILE).is_file() {
        return Ok(vec![(plain(folder), folder.to_path_buf(), run_config(folder)?)]);
    }
    let study = Study::load(folder, &Papers)?;
    let one = |m: &crate::study::Member| {
        let run = study.folder_of(folder, m);
        let config = if is_run(&run) { folder::read_config(&run)? } else { m.config.clone() };
        Ok((format!("{}/{}", plain(folder), m.name), run, config))
    };
    study.runs.iter().map(one).collect()
}
