//! Priors of transition matrices: from a file, by quadrature, or drawn at random.

use super::Found;
use super::methods::Evaluator;
use super::problem::TreeProblem;
use crate::cli::grad::{held_names, missing, shape_error, take};
use crate::exact::{AtomRoots, Cost, FinitePrior, Prior, RootLaw, quadrature};
use crate::report::arrays::ArrayFile;
use crate::rng::{Key, Purpose};
use crate::task::Roots;
use crate::{Error, Result};
use popgrad_kernels::Elem;
use std::path::Path;
use std::time::{Duration, Instant};

/// Evaluates over the prior that the keys or the file name. Also returns the prior, unless matrices
/// were drawn from it.
pub(super) fn over<E: Elem>(
    of: &Evaluator<'_, E>,
    x: &TreeProblem,
    file: Option<Prior>,
) -> Result<(Found, Option<Prior>)> {
    if let Some(prior) = file {
        if let Some(alpha) = x.alpha {
            return Err(Error::invalid("alpha", alpha.to_string(), "no alpha beside a prior file"));
        }
        return Ok((of.over(x, &prior)?, Some(prior)));
    }
    let alpha = x.alpha.ok_or_else(|| missing("alpha"))?;
    if !x.stationary && x.gamma.is_none() {
        let prior = Prior::dirichlet(x.symbols, alpha, RootLaw::Uniform)?;
        return Ok((of.over(x, &prior)?, Some(prior)));
    }
    if let Some(draws) = x.draws {
        return Ok((drawn(of, x, alpha, draws)?, None));
    }
    if x.symbols > 2 {
        return Err(no_quadrature(x));
    }
    let loss = |p: &FinitePrior| {
        let found = of.over(x, &Prior::Finite(of_rows(x, p)?))?;
        // An infinite loss cannot converge; use the size of the gradient, which is finite.
        let size = || found.grad.iter().map(|g| g.abs()).sum();
        Ok(if found.loss.is_finite() { found.loss } else { size() })
    };
    let nodes = quadrature::until_converged(alpha, loss)?.nodes;
    let prior = Prior::Finite(of_rows(x, &quadrature::stationary_pairs(alpha, nodes)?)?);
    let mut found = of.over(x, &prior)?;
    found.method += &format!(", quadrature with {nodes} nodes per axis");
    Ok((found, Some(prior)))
}

/// A prior that is neither in closed form nor of two symbols.
fn no_quadrature(x: &TreeProblem) -> Error {
    let s = x.symbols;
    match x.gamma {
        Some(_) => {
            let allowed =
                "dirichlet, or draws=N, or a prior file: a floored prior has no quadrature beyond S=2";
            Error::invalid("prior", format!("floored with S={s}"), allowed)
        }
        None => {
            let allowed =
                "uniform, or draws=N, or a prior file: stationary roots have no quadrature beyond S=2";
            Error::invalid("roots", format!("stationary with S={s}"), allowed)
        }
    }
}

/// Drawn or computed rows of the Dirichlet prior as those of the problem.
pub(super) fn of_rows(x: &TreeProblem, rows: &FinitePrior) -> Result<FinitePrior> {
    rows.of_task(x.gamma, if x.stationary { Roots::Stationary } else { Roots::Uniform })
}

/// Refuses `draws` evaluations when the first of them show that all would take too long.
pub(super) struct Watch {
    draws: u64,
    done: u64,
    start: Instant,
    /// None once the estimate was made, or where any length is allowed.
    after: Option<Duration>,
}

impl Watch {
    pub(super) fn new(draws: u64, force: bool) -> Self {
        let after = (!force).then_some(Duration::from_millis(200));
        Watch { draws, done: 0, start: Instant::now(), after }
    }

    /// To be called after every evaluation. Its first error comes as soon as enough time has passed
    /// for an estimate.
    pub(super) fn one_more(&mut self) -> Result<()> {
        self.done += 1;
        let Some(after) = self.after else { return Ok(()) };
        let spent = self.start.elapsed();
        if spent < after {
            return Ok(());
        }
        self.after = None;
        let each = spent.as_secs_f64() / self.done as f64;
        let seconds = each * self.draws as f64;
        if seconds <= Cost::PATIENCE {
            return Ok(());
        }
        let found = format!("{}: about {seconds:.0} s by the first {}", self.draws, self.done);
        let most = (Cost::PATIENCE / each) as u64;
        let allowed = format!("about {most} ({} s), or --force", Cost::PATIENCE);
        Err(Error::invalid("draws", found, allowed))
    }
}

/// The mean over matrices drawn from the prior; the population of each matrix is exact.
fn drawn<E: Elem>(of: &Evaluator<'_, E>, x: &TreeProblem, alpha: f64, draws: u64) -> Result<Found> {
    let key = Key::new(x.seed, Purpose::Prior);
    let (mut last, mut words) = (None, 0.0);
    let mut watch = Watch::new(draws, of.force);
    let mean = quadrature::monte_carlo(x.symbols, alpha, &key, draws, 2 + of.params.len(), |p, out| {
        let found = of.over(x, &Prior::Finite(of_rows(x, p)?))?;
        if !found.loss.is_finite() {
            let eps = of.problem.eps.unwrap_or(0.0).to_string();
            return Err(Error::invalid("eps", eps, "eps > 0 with draws: the loss is infinite"));
        }
        words += found.words;
        (out[0], out[1]) = (found.loss, found.weight);
        out[2..].copy_from_slice(&found.grad);
        last = Some(found.method);
        watch.one_more()
    })?;
    Ok(Found {
        loss: mean.mean[0],
        weight: mean.mean[1],
        grad: mean.mean[2..].to_vec(),
        method: format!("{}, {draws} matrices drawn", last.unwrap_or_default()),
        words,
        standard_error: Some(mean.standard_error[0]),
    })
}

/// S of the prior in a file.
pub(super) fn symbols(path: &Path) -> Result<usize> {
    let file = ArrayFile::open(path)?;
    let pi = take(&mut file.read(&["pi"])?, &held_names(&file), path, "pi")?;
    match *pi.shape() {
        [_, s, _] => Ok(s),
        _ => Err(shape_error(path, "pi", &pi, "(Q, S, S)")),
    }
}

/// A finite prior from a file.
pub(super) fn read(path: &Path, x: &TreeProblem, s: usize) -> Result<Prior> {
    finite(path, x, s).map(|(prior, _)| Prior::Finite(prior))
}

/// A finite prior from a file, and whether the file gives the laws of roots.
pub(super) fn finite(path: &Path, x: &TreeProblem, s: usize) -> Result<(FinitePrior, bool)> {
    const NAMES: [&str; 3] = ["pi", "weight", "roots"];
    let file = ArrayFile::open(path)?;
    let (mut arrays, held) = (file.read(&NAMES)?, held_names(&file));
    let pi = take(&mut arrays, &held, path, "pi")?;
    let weight = take(&mut arrays, &held, path, "weight")?;
    let roots = arrays.remove("roots");
    if let Some(extra) = file.unexpected(&NAMES)? {
        let problem = format!("array `{extra}` is not expected; allowed: pi, weight, roots");
        return Err(Error::format(path, problem));
    }
    let &[q] = weight.shape() else { return Err(shape_error(path, "weight", &weight, "(Q)")) };
    if pi.shape() != [q, s, s] {
        return Err(shape_error(path, "pi", &pi, &format!("(Q, S, S) = ({q}, {s}, {s})")));
    }
    let roots = match roots {
        Some(r) if r.shape() != [q, s] => {
            return Err(shape_error(path, "roots", &r, &format!("(Q, S) = ({q}, {s})")));
        }
        Some(_) if x.roots_given => {
            return Err(Error::invalid("roots", "given beside root laws in the prior file", "one of them"));
        }
        Some(r) => AtomRoots::Given(r.to_f64_vec()),
        None if x.stationary => AtomRoots::Stationary,
        None => AtomRoots::Uniform,
    };
    let given = matches!(roots, AtomRoots::Given(_));
    let prior = FinitePrior::new(s, weight.to_f64_vec(), pi.to_f64_vec(), roots);
    // The error is in the file; the message names the entry.
    Ok((prior.map_err(|e| Error::format(path, e.to_string()))?, given))
}
