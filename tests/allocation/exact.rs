//! An evaluation of the exact population after the first allocates nothing.

use crate::{counted, least, pools, wake_all_threads};
use popgrad::exact::{Orbits, Prior, RootLaw, Tree};
use popgrad::task::Forest;

fn allocations(pool: &rayon::ThreadPool) -> usize {
    let forest = Forest::chain(9).unwrap();
    let prior = Prior::dirichlet(3, 0.1, RootLaw::Uniform).unwrap();
    pool.install(|| {
        wake_all_threads();
        let mut tree = Tree::<f64>::new(&forest, &prior, 1e-2, false).unwrap();
        let mut orbits = Orbits::<f64>::new(&forest, &prior, 1e-2, false).unwrap();
        let a1: Vec<f64> = (0..81).map(|i| f64::from(i % 7)).collect();
        let a2: Vec<f64> = (0..9).map(|i| f64::from(i % 4)).collect();
        let mut evaluate = |times: usize| {
            for _ in 0..times {
                tree.gradients(&a1, &a2).unwrap();
                orbits.gradients(&a1, 1.0).unwrap();
            }
        };
        evaluate(20);
        least(|| counted(|| evaluate(20)))
    })
}

pub(crate) fn a_warm_evaluation() {
    for pool in pools() {
        assert_eq!(allocations(pool), 0, "{} threads", pool.current_num_threads());
    }
}
