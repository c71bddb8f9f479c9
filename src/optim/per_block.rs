//! A separate optimiser for every block, so that blocks can be frozen always or until an update.

use super::{Optimizer, Rule};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use std::ops::Range;

/// When a block starts to train.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfreezeAt {
    /// Name of the block; its optimiser's state has this prefix in checkpoints.
    pub name: String,
    /// Its range in the flat vector.
    pub range: Range<usize>,
    /// First update (from 0) that trains it; `None` if it never trains.
    pub from: Option<u64>,
}

/// Updates every block by the same rule, each from its own first update on. A block's optimiser
/// counts that update as number 0. A frozen block accumulates no momentum and is not decayed, as in
/// PyTorch, which skips parameters without a gradient.
pub struct PerBlock<E> {
    name: &'static str,
    blocks: Vec<(UnfreezeAt, Box<dyn Optimizer<E>>)>,
}

impl UnfreezeAt {
    /// All of `blocks` (name, range, trainable) train from update 0 on; those that are not
    /// trainable never do.
    pub fn all<'a>(blocks: impl IntoIterator<Item = (&'a str, Range<usize>, bool)>) -> Vec<Self> {
        let of = |(name, range, can): (&str, Range<usize>, bool)| UnfreezeAt {
            name: name.into(),
            range,
            from: can.then_some(0),
        };
        blocks.into_iter().map(of).collect()
    }
}

impl<E: Elem> PerBlock<E> {
    /// Builds the optimiser of `rule` for each of `blocks` that ever trains.
    ///
    /// # Errors
    /// As [`Rule::build`]; no block that trains.
    pub fn new(rule: &Rule, weight_decay: f64, blocks: Vec<UnfreezeAt>) -> Result<Self> {
        let trained = blocks.into_iter().filter(|b| b.from.is_some());
        let blocks = trained
            .map(|b| {
                let optimizer = rule.build::<E>(b.range.len(), weight_decay)?;
                Ok((b, optimizer))
            })
            .collect::<Result<Vec<_>>>()?;
        match blocks.first() {
            Some((_, optimizer)) => Ok(PerBlock { name: optimizer.name(), blocks }),
            None => Err(Error::invalid("frozen", "every block", "at least one block to train")),
        }
    }
}

/// The part of `state` that belongs to `block`, under the names that its optimiser gave.
fn own<E: Elem>(state: &[(String, Vec<E>)], block: &UnfreezeAt, optimizer: &str) -> Vec<(String, Vec<E>)> {
    let prefix = format!("{}.{optimizer}.", block.name);
    let of = |(n, v): &(String, Vec<E>)| Some((n.strip_prefix(&prefix)?.to_string(), v.clone()));
    state.iter().filter_map(of).collect()
}

impl<E: Elem> Optimizer<E> for PerBlock<E> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn step(&mut self, step: u64, lr: f64, params: &mut [E], grad: &[E]) {
        for (block, optimizer) in &mut self.blocks {
            if let Some(own) = block.from.and_then(|from| step.checked_sub(from)) {
                optimizer.step(own, lr, &mut params[block.range.clone()], &grad[block.range.clone()]);
            }
        }
    }

    fn state(&self) -> Vec<(String, &[E])> {
        let own = |(block, optimizer): &'_ (UnfreezeAt, Box<dyn Optimizer<E>>)| {
            block.name.clone() + "." + optimizer.name()
        };
        let mut all = Vec::new();
        for entry in &self.blocks {
            let prefix = own(entry);
            all.extend(entry.1.state().into_iter().map(|(n, v)| (format!("{prefix}.{n}"), v)));
        }
        all
    }

    fn check_state(&self, state: &[(String, Vec<E>)]) -> Result<()> {
        let mut taken = 0;
        for (block, optimizer) in &self.blocks {
            let own = own(state, block, optimizer.name());
            taken += own.len();
            optimizer.check_state(&own)?;
        }
        if taken == state.len() {
            return Ok(());
        }
        let known =
            |n: &str| self.blocks.iter().any(|(b, o)| n.starts_with(&format!("{}.{}.", b.name, o.name())));
        let extra = state.iter().map(|(n, _)| n).find(|n| !known(n)).cloned().unwrap_or_default();
        Err(Error::invalid("optimizer state", extra, "memory of the blocks that train"))
    }

    fn restore(&mut self, state: &[(String, Vec<E>)]) -> Result<()> {
        // Check all blocks before any is written, so that nothing is restored in part.
        self.check_state(state)?;
        self.blocks.iter_mut().try_for_each(|(block, o)| o.restore(&own(state, block, o.name())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str, range: Range<usize>, from: Option<u64>) -> UnfreezeAt {
        UnfreezeAt { name: name.into(), range, from }
    }

    #[test]
    fn blocks_start_when_they_unfreeze_and_frozen_ones_keep_their_bits() {
        for rule in [Rule::Sgd { momentum: 0.5 }, Rule::AdamW { beta1: 0.9, beta2: 0.999, adam_eps: 1e-8 }] {
            let blocks = vec![block("a", 0..1, Some(0)), block("b", 1..2, Some(2)), block("c", 2..3, None)];
            let mut all = PerBlock::<f64>::new(&rule, 0.25, blocks).unwrap();
            let [mut a, mut b] = [(); 2].map(|()| rule.build::<f64>(1, 0.25).unwrap());
            let (mut p, mut pa, mut pb) = ([1.0, 2.0, 3.0], [1.0], [2.0]);
            let mut kept = None;
            for step in 0..4 {
                let g = [0.5 + step as f64, -1.0, f64::NAN];
                if step == 3 {
                    let state: Vec<_> = all.state().into_iter().map(|(n, v)| (n, v.to_vec())).collect();
                    kept = Some((state, p));
                }
                all.step(step, 0.1, &mut p, &g);
                a.step(step, 0.1, &mut pa, &g[..1]);
                if step >= 2 {
                    b.step(step - 2, 0.1, &mut pb, &g[1..2]);
                }
                assert_eq!(p, [pa[0], pb[0], 3.0]);
            }
            // The same last step from the earlier state.
            let (state, mut q) = kept.unwrap();
            let blocks = vec![block("a", 0..1, Some(0)), block("b", 1..2, Some(2))];
            let mut again = PerBlock::<f64>::new(&rule, 0.25, blocks).unwrap();
            again.restore(&state).unwrap();
            again.step(3, 0.1, &mut q, &[3.5, -1.0, 0.0]);
            assert_eq!(q, p);
            let mut more = state.clone();
            more.push(("d.sgd.momentum".into(), vec![0.0]));
            assert!(again.restore(&more).unwrap_err().to_string().contains("d.sgd.momentum"));
            assert!(again.restore(&state[1..]).is_err());
            // The last block's state has another length: that of the first is kept.
            let before = format!("{:?}", again.state());
            let mut short = state.clone();
            short.iter_mut().for_each(|(_, v)| v[0] = 64.0);
            short.last_mut().unwrap().1.clear();
            assert!(again.restore(&short).is_err());
            assert_eq!(format!("{:?}", again.state()), before, "half restored");
        }
        let e = PerBlock::<f64>::new(&Rule::Sgd { momentum: 0.0 }, 0.0, vec![block("a", 0..1, None)])
            .err()
            .unwrap();
        assert!(e.to_string().starts_with("frozen: every block"));
    }
}
