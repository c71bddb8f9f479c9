//! Filling a batch allocates nothing.

use crate::counted;
use popgrad::rng::{Key, Purpose};
use popgrad::source::{LossOn, Sampled, Source, TriggerPopulation, TriggerSource};
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use popgrad::task::{CausalDag, CausalTree, Dag, DagRoots, Forest, Roots, TriggerBigram};
use std::sync::Arc;

pub(crate) fn filling_a_batch() {
    // 0.1 takes the plain elimination, 0.001 the one with extended exponents.
    for alpha in [0.1, 0.001] {
        let tree = CausalTree::new(Forest::chain(20).unwrap(), 10, alpha, Roots::Stationary).unwrap();
        let dag = CausalDag::new(Dag::two_parents(20).unwrap(), 10, alpha, DagRoots::Shared).unwrap();
        let key = Key::new(1, Purpose::Train);
        // All rows at once, and token by token.
        let few = CausalDag::new(Dag::ngram(20, 1).unwrap(), 10, alpha, DagRoots::Shared).unwrap();
        for source in [Sampled::new(tree, key), Sampled::new(dag, key), Sampled::new(few, key)] {
            nothing_allocated(&source);
        }
    }
    for law in [Outputs::Uniform, Outputs::Bigram] {
        let (laws, outputs) =
            (Bigrams::dirichlet(4, 0.5, 1).unwrap(), OutputLaw { law, no_repeat: true, allowed: vec![] });
        let task = Arc::new(TriggerBigram::new(laws, 5, Triggers::Random { count: 2 }, outputs).unwrap());
        nothing_allocated(&TriggerPopulation::new(&task, LossOn::Head).unwrap());
        nothing_allocated(&TriggerSource::new(task, Key::new(1, Purpose::Train), LossOn::Head));
    }
}

fn nothing_allocated(source: &dyn Source) {
    let mut work = source.work();
    let mut batch = source.batch(64).unwrap();
    let count = counted(|| {
        source.fill(0, 64, &mut work, &mut batch);
        source.fill(64, 10, &mut work, &mut batch);
    });
    assert_eq!(count, 0, "allocations while a batch is filled");
    assert_eq!(batch.seqs(), 10);
}
