use super::*;
use crate::task::Corpus;

fn shipped() -> Bigrams {
    let c = Corpus::shipped();
    Bigrams::new(c.unigram_law(), c.bigram_law()).unwrap()
}

const ANY: OutputLaw = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: Vec::new() };

fn chi2(counts: &[u64], law: impl Fn(usize) -> f64) -> (f64, usize) {
    let total: u64 = counts.iter().sum();
    let mut cells = 0;
    let sum = counts.iter().enumerate().map(|(i, &c)| {
        let expected = law(i) * total as f64;
        if expected == 0.0 {
            assert_eq!(c, 0, "symbol {i} is impossible");
            return 0.0;
        }
        cells += 1;
        (c as f64 - expected).powi(2) / expected
    });
    (sum.sum(), cells - 1)
}

/// Mean d, variance 2d: five and a half standard deviations.
fn plausible((chi2, d): (f64, usize)) -> bool {
    chi2 < d as f64 + 5.5 * (2.0 * d as f64).sqrt()
}

#[test]
fn sequences_follow_their_rules_and_count_their_triggers() {
    let outputs = OutputLaw { law: Outputs::Bigram, no_repeat: true, allowed: Vec::new() };
    for triggers in [Triggers::Fixed { count: 5, offset: 2 }, Triggers::Random { count: 5 }] {
        let task = TriggerBigram::new(shipped(), 64, triggers, outputs.clone()).unwrap();
        let n = task.vocab();
        let (key, mut work) = (Key::new(3, Purpose::Test), task.work());
        let (mut tokens, mut seen) = (vec![0; 65], vec![0; 64]);
        for number in 0..500 {
            task.sample(&key, number, &mut work, &mut tokens, &mut seen);
            let (q, o) = (work.triggers(), work.outputs());
            assert_eq!(q.iter().collect::<std::collections::BTreeSet<_>>().len(), 5, "distinct");
            assert!(q.iter().zip(o).all(|(q, o)| q != o));
            if let Some(fixed) = task.fixed_triggers() {
                assert_eq!(q, fixed);
            }
            for i in 0..64 {
                let z = tokens[i];
                match q.iter().position(|q| *q == z) {
                    Some(k) => {
                        assert_eq!(tokens[i + 1], o[k]);
                        let count = tokens[..=i].iter().filter(|t| **t == z).count();
                        assert_eq!(seen[i] as usize, count);
                    }
                    None => {
                        assert_eq!(seen[i], 0);
                        assert!(task.laws().bigram()[z as usize * n + tokens[i + 1] as usize] > 0.0);
                    }
                }
            }
        }
    }
}

#[test]
fn laws_are_those_of_the_definition() {
    let laws = Bigrams::dirichlet(6, 0.5, 4).unwrap();
    let outputs = OutputLaw { law: Outputs::Bigram, no_repeat: true, allowed: vec![] };
    let task = TriggerBigram::new(laws, 8, Triggers::Random { count: 2 }, outputs).unwrap();
    let (key, mut work) = (Key::new(8, Purpose::Test), task.work());
    let (mut tokens, mut seen) = ([0; 9], [0; 8]);
    let u = task.laws().unigram().to_vec();
    let (mut first, mut pairs, mut trigger_pairs) = ([0; 6], [0; 36], [0; 36]);
    let mut out_of = [[0u64; 6]; 6];
    for number in 0..60_000 {
        task.sample(&key, number, &mut work, &mut tokens, &mut seen);
        first[tokens[0] as usize] += 1;
        let (q, o) = (work.triggers(), work.outputs());
        trigger_pairs[(q[0] * 6 + q[1]) as usize] += 1;
        out_of[q[0] as usize][o[0] as usize] += 1;
        // One transition a sequence, so that they are independent.
        if !q.contains(&tokens[3]) {
            pairs[(tokens[3] * 6 + tokens[4]) as usize] += 1;
        }
    }
    assert!(plausible(chi2(&first, |s| u[s])), "{first:?}");
    let two = |i: usize| if i / 6 == i % 6 { 0.0 } else { u[i / 6] * u[i % 6] / (1.0 - u[i / 6]) };
    assert!(plausible(chi2(&trigger_pairs, two)), "{trigger_pairs:?}");
    for a in 0..6 {
        assert!(plausible(chi2(&pairs[a * 6..(a + 1) * 6], |b| task.laws().bigram()[a * 6 + b])));
        let total: f64 = (0..6).map(|o| task.output_weight(a, o)).sum();
        assert!(plausible(chi2(&out_of[a], |o| task.output_weight(a, o) / total)));
    }
}

#[test]
fn allowed_outputs_split_train_and_test() {
    let n = shipped().vocab();
    let even: Vec<bool> = (0..n).map(|i| i % 2 == 0).collect();
    let outputs = OutputLaw { allowed: even, ..ANY };
    let task = TriggerBigram::new(shipped(), 4, Triggers::Fixed { count: 3, offset: 0 }, outputs).unwrap();
    let (key, mut work) = (Key::new(8, Purpose::Test), task.work());
    let (mut tokens, mut seen) = ([0; 5], [0; 4]);
    let mut counts = vec![0; n];
    for number in 0..20_000 {
        task.sample(&key, number, &mut work, &mut tokens, &mut seen);
        work.outputs().iter().for_each(|o| counts[*o as usize] += 1);
    }
    let share = 1.0 / n.div_ceil(2) as f64;
    assert!(plausible(chi2(&counts, |o| if o % 2 == 0 { share } else { 0.0 })));
}

#[test]
fn every_symbol_can_be_a_trigger() {
    // K = N: drawing without replacement must end, though some symbols are one in a million.
    let task = TriggerBigram::new(shipped(), 4, Triggers::Random { count: shipped().vocab() }, ANY).unwrap();
    let (mut work, mut tokens, mut seen) = (task.work(), [0; 5], [0; 4]);
    task.sample(&Key::new(1, Purpose::Test), 0, &mut work, &mut tokens, &mut seen);
    let mut all = work.triggers().to_vec();
    all.sort_unstable();
    assert!(all.iter().enumerate().all(|(i, q)| *q as usize == i));
}

#[test]
fn what_cannot_be_sampled_is_refused() {
    let n = shipped().vocab();
    let message = |len, triggers, outputs: OutputLaw| {
        TriggerBigram::new(shipped(), len, triggers, outputs).unwrap_err().to_string()
    };
    let fixed = |count, offset| Triggers::Fixed { count, offset };
    assert_eq!(message(1, fixed(1, 0), ANY), "T: 1; allowed: 2 <= T <= 65536");
    assert_eq!(message(9, fixed(0, 0), ANY), format!("K: 0; allowed: 1 to {n}: {n} symbols less offset = 0"));
    assert!(message(9, fixed(5, n - 4), ANY).starts_with("K: 5; allowed: 1 to 4"));
    assert!(message(9, Triggers::Random { count: n + 1 }, ANY).starts_with("K: "));
    let none = OutputLaw { allowed: vec![false; n], ..ANY };
    assert!(message(9, fixed(1, 0), none).starts_with("outputs: trigger"));
    let short = OutputLaw { allowed: vec![true; 3], ..ANY };
    assert!(message(9, fixed(1, 0), short).starts_with("allowed outputs: 3 entries"));
    // A symbol that only ever follows itself.
    let stuck = Bigrams::new(vec![0.5, 0.5], vec![1.0, 0.0, 0.5, 0.5]).unwrap();
    let no_repeat = OutputLaw { law: Outputs::Bigram, no_repeat: true, allowed: vec![] };
    let e = TriggerBigram::new(stuck, 4, Triggers::Random { count: 1 }, no_repeat).unwrap_err();
    assert!(e.to_string().contains("trigger 0 has no possible output"), "{e}");
    for (u, b) in [(vec![1.0], vec![1.0]), (vec![0.5; 2], vec![0.5; 3]), (vec![0.5; 2], vec![0.6; 4])] {
        assert!(Bigrams::new(u, b).is_err());
    }
    assert!(Bigrams::new(vec![f64::NAN, 1.0], vec![0.5; 4]).is_err());
    assert!(Bigrams::dirichlet(1, 0.5, 0).is_err() && Bigrams::dirichlet(4, 0.0, 0).is_err());
}

#[test]
fn sequences_keep_their_bits() {
    let task = TriggerBigram::new(shipped(), 24, Triggers::Random { count: 3 }, ANY).unwrap();
    let (mut work, mut tokens, mut seen) = (task.work(), [0; 25], [0; 24]);
    task.sample(&Key::new(5, Purpose::Train), 7, &mut work, &mut tokens, &mut seen);
    let text: String = tokens.iter().map(|t| Corpus::shipped().symbols()[*t as usize]).collect();
    assert_eq!(text, GOLDEN);
}

/// Frozen: a change here changes every result drawn before it.
const GOLDEN: &str = "angit?\nQUTHEd if is. isir";
