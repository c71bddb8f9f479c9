//! Parameters in files: an array for each block, by its name. Any program's file will do, and so
//! will the checkpoint or a snapshot of a run.

use crate::model::Layout;
use crate::report::arrays::{Array, ArrayFile};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use std::path::Path;

/// What arrays of a checkpoint that are no parameters are called, up to the dot.
pub(crate) const OF_TRAINING: [&str; 2] = ["optimizer", "interval"];

/// The blocks of `layout` in the file at `path`, in the layout's order. Entries that the model does
/// not read are 0, whatever the file holds.
///
/// # Errors
/// A file that cannot be read; as [`blocks`].
pub fn read<E: Elem>(path: &Path, layout: &Layout) -> Result<Vec<E>> {
    blocks(&ArrayFile::open(path)?, path, layout)
}

/// The same of a file that is open; `path` names it in errors.
///
/// # Errors
/// Arrays that are missing, of another shape, or too many; values that are read and not finite.
pub fn blocks<E: Elem>(file: &ArrayFile, path: &Path, layout: &Layout) -> Result<Vec<E>> {
    let names: Vec<&str> = layout.blocks().iter().map(|b| b.name()).collect();
    let mut arrays = file.read(&names)?;
    let mut params = vec![E::ZERO; layout.len()];
    for block in layout.blocks() {
        let name = block.name();
        let array = arrays.remove(name).ok_or_else(|| {
            let held = file.names().collect::<Vec<_>>().join(", ");
            Error::format(path, format!("array `{name}` is missing; the file holds: {held}"))
        })?;
        if array.shape() != block.shape() {
            let (found, expected) = (array.shape(), block.shape());
            let problem = format!("array `{name}` has shape {found:?}; expected {expected:?}");
            return Err(Error::format(path, problem));
        }
        let entries = params[block.range()].iter_mut().zip(array.to_f64_vec()).enumerate();
        for (i, (p, x)) in entries.filter(|(i, _)| block.reads(*i)) {
            *p = E::from_f64(x);
            if !p.is_finite() {
                let problem = format!("array `{name}`, entry {i} (C order) is {x}");
                return Err(Error::format(path, format!("{problem}; allowed: finite {}", E::NAME)));
            }
        }
    }
    let of_training: Vec<&str> = file.names().filter(|n| is_of_training(n)).collect();
    match file.unexpected(&[&names[..], &of_training].concat())? {
        None => Ok(params),
        Some(extra) => {
            let blocks = names.join(", ");
            let problem = format!("array `{extra}` is no block of this model; blocks: {blocks}");
            Err(Error::format(path, problem))
        }
    }
}

/// True for the name of an array of a checkpoint that is no block of the model.
pub(crate) fn is_of_training(name: &str) -> bool {
    name.split_once('.').is_some_and(|(first, _)| OF_TRAINING.contains(&first))
}

/// The blocks of `params`, by name.
///
/// # Errors
/// None: the layout gives each block its shape.
pub(crate) fn arrays<'a, E: Elem>(layout: &'a Layout, params: &[E]) -> Result<Vec<(&'a str, Array)>> {
    let of = |range: std::ops::Range<usize>| super::folder::elements(&params[range]);
    layout.blocks().iter().map(|b| Ok((b.name(), Array::new(b.shape(), of(b.range()))?))).collect()
}
