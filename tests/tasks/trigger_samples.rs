//! The trigger-bigram sampler: bits that stay, whether sequences are drawn alone or side by side,
//! on every instruction set.

use popgrad::batch::Batch;
use popgrad::rng::{Key, Purpose};
use popgrad::source::{LossOn, Source, TriggerSource};
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use popgrad::task::{Corpus, TriggerBigram};
use popgrad_kernels::{Isa, Kernels};
use std::sync::Arc;

fn shipped() -> Bigrams {
    let c = Corpus::shipped();
    Bigrams::new(c.unigram_law(), c.bigram_law()).unwrap()
}

/// Triggers with every way to draw outputs.
fn tasks(laws: &Bigrams, len: usize, most: usize) -> Vec<TriggerBigram> {
    let n = laws.vocab();
    let mut out = Vec::new();
    for triggers in [
        Triggers::Fixed { count: most, offset: 0 },
        Triggers::Fixed { count: 1, offset: 1 },
        Triggers::Random { count: 1 },
        Triggers::Random { count: most },
    ] {
        for (law, no_repeat, all) in [
            (Outputs::Uniform, false, true),
            (Outputs::Bigram, false, true),
            (Outputs::Uniform, true, true),
            (Outputs::Uniform, false, false),
        ] {
            let allowed = if all { vec![] } else { (0..n).map(|o| o % 3 != 1).collect() };
            let outputs = OutputLaw { law, no_repeat, allowed };
            out.push(TriggerBigram::new(laws.clone(), len, triggers, outputs).unwrap());
        }
    }
    out
}

/// FNV-1a.
fn digest(words: impl Iterator<Item = u64>) -> u64 {
    words
        .flat_map(u64::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn batch_digest(b: &Batch) -> u64 {
    let words = b.tokens().iter().chain(b.labels()).chain(b.seen().unwrap()).map(|x| u64::from(*x));
    digest(words.chain(b.weights().iter().map(|w| w.to_bits())))
}

#[test]
fn samples_keep_their_bits() {
    let mut found = Vec::new();
    for (laws, len) in [(shipped(), 256), (Bigrams::dirichlet(300, 0.2, 5).unwrap(), 33)] {
        for (i, task) in tasks(&laws, len, 5).into_iter().enumerate() {
            let loss = if i % 2 == 0 { LossOn::Head } else { LossOn::All };
            let source = TriggerSource::new(Arc::new(task), Key::new(11, Purpose::Train), loss);
            let mut batch = source.batch(40).unwrap();
            source.fill((1 << 32) - 9, 40, &mut source.work(), &mut batch);
            found.push(batch_digest(&batch));
        }
    }
    assert!(found == GOLDEN, "samples changed; now:\n{found:#018x?}");
}

/// Frozen: a change here changes every result drawn before it.
const GOLDEN: &[u64] = &[
    0x55d9_573c_be44_491b,
    0xc5e9_ff7f_6c44_5458,
    0x6602_b7e6_23b7_458d,
    0x0503_cb4f_6091_3ee3,
    0x0c04_d3cd_6f86_d29e,
    0x7138_4fd7_597b_80e5,
    0x4be8_0227_7f63_1f9a,
    0x6a33_5f8f_3abc_4348,
    0xd9b2_87d5_910e_baa6,
    0x5646_cbb2_78ae_99c2,
    0x3dea_99a1_568f_2977,
    0x0ffc_437e_84a4_96aa,
    0x0914_11d4_825f_40bd,
    0x4f37_3416_7b7d_483e,
    0xfce4_a760_e067_5be9,
    0xfb28_bcd4_358c_6bf5,
    0x90e0_9711_a306_0972,
    0xac79_cba6_af06_6fe4,
    0xd11a_1f79_5cd5_579b,
    0x43a1_af94_5053_253f,
    0x8c4a_6ab9_a320_e738,
    0x7737_95e8_7125_0918,
    0xca5c_f5ad_1a03_815c,
    0x65a4_97e6_57c8_f08c,
    0x78a2_ac73_b19b_c96a,
    0xbb4a_591a_51db_3ea1,
    0xcf23_62d7_62df_ee8a,
    0x2132_74a2_7dab_e5c9,
    0x2d9f_ba89_c5c5_a0b5,
    0x99d7_3f17_6923_5406,
    0xabf8_a4f1_fc05_a7f9,
    0x7b3a_04ff_bed9_30f0,
];

/// Sequences in pieces, side by side, against one after the other.
fn check(task: &TriggerBigram, kernels: Kernels<f64>, first: u64, pieces: &[usize]) {
    let (key, t) = (Key::new(3, Purpose::Test), task.seq_len());
    let n: usize = pieces.iter().sum();
    let (mut x, mut y, mut seen) = (vec![u32::MAX; n * t], vec![u32::MAX; n * t], vec![u32::MAX; n * t]);
    let (mut block, mut at) = (task.block(kernels), 0);
    for piece in pieces {
        let rows = at * t..(at + piece) * t;
        let (x, y, seen) = (&mut x[rows.clone()], &mut y[rows.clone()], &mut seen[rows]);
        task.sample_block(&key, first.wrapping_add(at as u64), &mut block, x, y, seen);
        at += piece;
    }
    let (mut work, mut tokens, mut outs) = (task.work(), vec![0; t + 1], vec![0; t]);
    for i in 0..n {
        task.sample(&key, first.wrapping_add(i as u64), &mut work, &mut tokens, &mut outs);
        let row = i * t..(i + 1) * t;
        let same = x[row.clone()] == tokens[..t] && y[row.clone()] == tokens[1..] && seen[row] == outs;
        assert!(same, "{:?}, sequence {first} + {i}", kernels.isa());
    }
}

#[test]
fn side_by_side_draws_the_bits_of_one() {
    for (laws, len, most) in [
        (shipped(), 37, 6),
        (Bigrams::dirichlet(2, 1.0, 1).unwrap(), 2, 1),
        (Bigrams::dirichlet(6, 0.3, 1).unwrap(), 3, 6),
        (Bigrams::dirichlet(1024, 0.01, 2).unwrap(), 4, 3),
    ] {
        for task in tasks(&laws, len, most) {
            for isa in Isa::available() {
                let kernels = Kernels::new(isa).unwrap();
                for pieces in [&[64][..], &[1], &[1, 7, 8, 9, 3], &[0, 5]] {
                    check(&task, kernels, 0, pieces);
                }
                check(&task, kernels, u64::MAX - 5, &[11]);
                check(&task, kernels, u64::from(u32::MAX) - 3, &[12]);
            }
        }
    }
}

#[test]
#[should_panic(expected = "work storage of another task")]
fn work_of_another_task_is_refused() {
    let all = tasks(&Bigrams::dirichlet(6, 0.3, 1).unwrap(), 5, 1);
    let mut work = all[0].block(Kernels::new(Isa::Portable).unwrap());
    let [mut x, mut y, mut seen] = [[0; 5]; 3];
    // Random triggers, drawn from words that fixed triggers do not use.
    all[8].sample_block(&Key::new(1, Purpose::Test), 0, &mut work, &mut x, &mut y, &mut seen);
}
