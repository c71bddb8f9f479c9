//! No test sequence is a training sequence, for any task.

use popgrad::batch::{Batch, Targets};
use popgrad::paper;
use popgrad::run::Setup;
use popgrad::source::Source;
use std::collections::HashSet;

/// Sequences at each place that is looked at.
const COUNT: usize = 512;

/// Sequences `first ..` of `source`, each as tokens and the bits of its targets.
fn rows(source: &dyn Source, first: u64) -> Vec<Vec<u64>> {
    let (t, s) = (source.seq_len(), source.vocab());
    let mut batch: Batch = source.batch(COUNT).unwrap();
    source.fill(first, COUNT, &mut source.work(), &mut batch);
    let row = |i: usize| {
        let mut row: Vec<u64> = batch.tokens()[i * t..][..t].iter().map(|c| u64::from(*c)).collect();
        match batch.kind() {
            Targets::Law => row.extend(batch.laws()[i * s..][..s].iter().map(|p| p.to_bits())),
            Targets::Labels => row.extend(batch.labels()[i * t..][..t].iter().map(|c| u64::from(*c))),
        }
        row
    };
    (0..COUNT).map(row).collect()
}

fn assert_disjoint(what: &str, setup: &dyn Setup, drawn: u64) {
    let train = setup.train().unwrap();
    let tests = setup.tests().unwrap();
    assert!(!tests.is_empty(), "{what}");
    // The first sequences of training, the last ones, and those in between.
    let places = [0, drawn / 2, drawn.saturating_sub(COUNT as u64), drawn];
    let mut seen: HashSet<Vec<u64>> = HashSet::new();
    places.iter().for_each(|first| seen.extend(rows(train.as_ref(), *first)));
    assert!(seen.len() > COUNT, "{what}: training draws new sequences");
    for test in &tests {
        let test = rows(test.as_ref(), 0);
        assert!(test.iter().collect::<HashSet<_>>().len() > COUNT / 2, "{what}");
        let met = test.iter().filter(|row| seen.contains(*row)).count();
        // Laws of drawn transitions are real numbers: none is met twice by chance. A text may be: a
        // trigger whose output is itself fills it to the end.
        let most = if setup.targets() == Targets::Law { 0 } else { COUNT / 50 };
        assert!(met <= most, "{what}: {met} sequences are also training sequences");
    }
}

#[test]
fn no_test_sequence_is_a_training_sequence() {
    let mut tasks = HashSet::new();
    for preset in paper::presets() {
        for quick in [false, true] {
            let config = popgrad::config::resolve(&paper::preset(&preset.name, quick).unwrap()).unwrap();
            let setup = paper::experiment(&config).unwrap().setup(&config).unwrap();
            if setup.population().unwrap().is_none() {
                let drawn = config.plan.steps.saturating_mul(config.plan.batch as u64);
                assert_disjoint(&format!("{} quick={quick}", preset.name), setup.as_ref(), drawn);
                tasks.insert(config.task.name());
            }
        }
    }
    assert_eq!(tasks.len(), popgrad::config::task::TASKS.len(), "every task: {tasks:?}");
}
