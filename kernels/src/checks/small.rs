//! Small shapes of every kernel, through the bodies of the fuzz targets: what Miri can run in a
//! minute or two. Miri reports no vector extensions, so that only the portable path runs there;
//! pointers, strides and edges are those of every instruction set.
//!
//! `cargo +nightly miri test -p popgrad-kernels --lib checks::small`

use crate::checks;

/// `head`, then bytes from a generator.
fn bytes(head: &[u8], len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut data = head.to_vec();
    data.extend((0..len).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    }));
    data
}

#[test]
fn gemm() {
    // Sizes m, k, n; layouts; flags: unpacked, packed with tiny blocks, transposed operands, added
    // to.
    for head in [
        [5, 7, 9, 0, 0, 0, 0x00, 4],
        [7, 5, 6, 1, 1, 1, 0x11, 4],
        [9, 8, 11, 0x12, 0x21, 0x10, 0x1E, 3],
        [1, 6, 5, 0, 1, 0, 0x2F, 4],
        [6, 0, 3, 0, 0, 0, 0x01, 4],
    ] {
        checks::gemm(&bytes(&head, 12));
    }
}

#[test]
fn attention() {
    // Problems, queries, further keys, columns; layout; which gradients.
    for head in [[2, 4, 0, 3, 5, 0, 0], [1, 5, 2, 6, 0, 5, 8], [2, 3, 1, 4, 4, 9, 4], [1, 0, 4, 5, 3, 2, 1]] {
        checks::attention(&bytes(&head, 6));
    }
}

#[test]
fn elementwise() {
    // Operation (tame from 4 on), columns, rows, layouts.
    for what in 0..8 {
        for (cols, layouts) in [(11, [0; 4]), (6, [0x11, 0x02, 0x13, 0x24])] {
            let mut head = vec![what, cols, 2];
            head.extend(layouts);
            checks::elementwise(&bytes(&head, 90));
        }
    }
}

#[test]
fn vecmath() {
    // Operation (tame from 8 on), columns, rows, layouts, parameters.
    for what in 0..16 {
        for (cols, layouts) in [(11, [0; 4]), (6, [0x11, 0x02, 0x13, 0x24]), (66, [0; 4])] {
            let mut head = vec![what, cols, 2];
            head.extend(layouts);
            head.extend([200, 230, 250, 12]);
            checks::vecmath(&bytes(&head, 120));
        }
    }
}

#[test]
fn prefix_tree() {
    // Symbols − 2, positions − 2, weights.
    for weights in 0..3 {
        checks::prefix_tree(&bytes(&[0, 2, weights, 1, 2, 0], 4));
        checks::prefix_tree(&bytes(&[1, 1, weights, 3, 0, 1], 4));
    }
}

#[test]
fn sampling() {
    // Entries, rows, envelope, depth, positions, lanes.
    for head in [[2, 2, 85, 0, 1, 4, 6, 0], [8, 1, 0, 3, 5, 3, 2, 1], [0, 3, 255, 7, 6, 2, 0, 1]] {
        checks::sampling(&bytes(&head, 4));
    }
}
