//! Samples with committed bits: tokens exactly, targets and π by their f64 bits, under every
//! platform, instruction set and thread count.
//!
//! These constants may change only with an entry under "changes numbers" in CHANGELOG.md;
//! everyone's recorded runs change with them. To regenerate, run the test and copy the table it
//! prints.

use popgrad::rng::{Key, Purpose};
use popgrad::task::{CausalTree, Forest, Roots, Task};

/// seed, n, alpha, S, T, graph, roots, tokens, bits of the target's first two entries, digest of
/// all bits of π.
type Golden = (u64, u64, f64, usize, usize, &'static str, Roots, &'static [u32], [u64; 2], u64);

const GOLDEN: &[Golden] = &[
    (
        0,
        0,
        0.1,
        10,
        20,
        "chain",
        Roots::Stationary,
        &[7, 7, 7, 2, 4, 0, 6, 8, 7, 7, 7, 2, 4, 5, 4, 0, 6, 8, 4, 0],
        [0x3f55b78e5b001a2e, 0x3fa84c2c6caf4835],
        0x97165fb5fb2fe2bc,
    ),
    (
        0,
        1,
        0.1,
        10,
        20,
        "chain",
        Roots::Stationary,
        &[4, 3, 4, 3, 4, 3, 4, 7, 2, 4, 3, 4, 3, 4, 3, 4, 3, 4, 9, 5],
        [0x3db1c49b39405335, 0x3f5771657b4a457a],
        0xa5d402bafd6a76d9,
    ),
    (
        0,
        1023,
        0.1,
        10,
        20,
        "icl",
        Roots::Uniform,
        &[4, 2, 9, 0, 9, 0, 4, 7, 8, 3, 7, 9, 6, 6, 0, 6, 3, 6, 5, 4],
        [0x3f8b100ca54c92cb, 0x3c7a013e27d77fb5],
        0xbde8afd7a4868dae,
    ),
    (
        42,
        7,
        0.001,
        10,
        20,
        "chain",
        Roots::Stationary,
        &[8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 3],
        [0x10bc62a109844410, 0x0000000000000000],
        0xbdaaf54cc17def9b,
    ),
    (
        42,
        1099511627779,
        0.001,
        4,
        9,
        "icl",
        Roots::Stationary,
        &[3, 0, 0, 2, 3, 0, 2, 3, 3],
        [0x3ff0000000000000, 0x0000000000000000],
        0x9107932d11124c07,
    ),
    (
        7,
        5,
        1.0,
        3,
        6,
        "manual",
        Roots::Stationary,
        &[0, 2, 2, 2, 0, 0],
        [0x3f8b8e2756113ae1, 0x3fe65ebb98e55776],
        0xea9be66672e5216d,
    ),
    (
        7,
        6,
        10.0,
        5,
        12,
        "random",
        Roots::Uniform,
        &[0, 3, 0, 0, 4, 1, 4, 2, 1, 4, 1, 1],
        [0x3fc858ebe8138ddb, 0x3fd0ac7bee414700],
        0x867eff67476db4ec,
    ),
    (
        9223372036854775808,
        2,
        0.5,
        2,
        9,
        "many_graphs",
        Roots::Stationary,
        &[0, 0, 1, 0, 0, 1, 1, 1, 1],
        [0x3fdf3d94afdbcdf7, 0x3fe06135a8121905],
        0x36e8ed905deaaca6,
    ),
];

/// FNV-1a over the bits.
fn digest(xs: &[f64]) -> u64 {
    xs.iter()
        .flat_map(|x| x.to_bits().to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[test]
fn samples_keep_their_bits() {
    let mut table = String::new();
    let mut same = true;
    for &(seed, n, alpha, s, t, graph, roots, tokens, target_bits, pi_digest) in GOLDEN {
        let task = CausalTree::new(Forest::named(graph, t, seed).unwrap(), s, alpha, roots).unwrap();
        let (mut work, mut x, mut y) = (task.work(), vec![0; t], vec![0.0; task.vocab()]);
        task.sample(&Key::new(seed, Purpose::Train), n, &mut work, &mut x, &mut y);
        let bits = [y[0].to_bits(), y[1].to_bits()];
        let d = digest(work.pi());
        same &= x == tokens && bits == target_bits && d == pi_digest;
        table += &format!(
            "    ({seed}, {n}, {alpha:?}, {s}, {t}, \"{graph}\", Roots::{roots:?}, &{x:?}, [{:#018x}, {:#018x}], {d:#018x}),\n",
            bits[0], bits[1]
        );
    }
    assert!(same, "samples changed; now:\n{table}");
}
