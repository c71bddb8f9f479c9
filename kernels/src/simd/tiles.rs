//! Register tiles of every instruction set: one page of measured data.

use crate::simd::{BASELINE_REGISTERS, Isa};

/// Lanes of the widest vector: any number of lanes divides it, so that scratch depends on the sizes
/// alone.
pub(crate) const MAX_LANES: usize = 16;

/// Register tiles: up to `nv` vectors wide; a tile of `v` vectors has up to `mr[v - 1]` rows, all
/// accumulators in registers. A block in place that is `alone` vectors wide is one panel, whose
/// operands are then read and written once, row by row as they lie (1024 of 20x30x30 f64 from
/// memory on Zen 5: 45 -> 50 GFLOP/s).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) mr: [usize; 4],
    /// The same where two or four rows share the last vector ([`Simd::PARTS`](crate::simd::Simd)).
    pub(crate) shared: [usize; 4],
    pub(crate) nv: usize,
    pub(crate) alone: usize,
}

/// The tallest tile that the kernels are compiled for.
pub(crate) const MAX_ROWS: usize = 16;

/// The register tiles. What has to fit: rows times vectors accumulators, the vectors of B, one
/// broadcast of A, and one mask on AVX2. On AVX-512 narrow tiles are taller, so that as many FMAs
/// as the registers hold hide one another's latency (against 8 rows throughout, f32, on an Intel
/// Xeon with two 512-bit FMA units: 32^3 142 -> 155, 65^3 138 -> 149, 20x30x30 113 -> 120 GFLOP/s;
/// on Zen 5 16, 14 and 9 rows against 16, 12 and 8: 1 to 2%); on AVX2 that gained nothing.
pub(crate) const fn gemm_tile(isa: Isa) -> Tile {
    match isa {
        // 27 + 3 + 1 of 32 registers for three vectors, 28 + 2 + 1 for two; one is read 17 times
        // for 16 FMAs. With an edge for four rows 20 + 3 + 3 + 4.
        Isa::Avx512 => Tile { mr: [16, 14, 9, 6], shared: [16, 16, 10, 6], nv: 3, alone: 4 },
        // 12 + 2 + 1 + 1 of 16 registers; 12 FMAs for 8 loads.
        Isa::Avx2 => Tile { mr: [6, 6, 0, 0], shared: [0; 4], nv: 2, alone: 2 },
        // NEON: 24 + 3 + 1 of 32 registers, as on AVX-512; narrow tiles keep their 24 or 16 chains,
        // what four pipes of latency 4 need.
        Isa::Portable if BASELINE_REGISTERS == 32 => {
            Tile { mr: [16, 12, 8, 0], shared: [0; 4], nv: 3, alone: 3 }
        }
        // 8 + 2 + 1 of 16 (SSE2 multiplies into a temporary).
        Isa::Portable => Tile { mr: [4, 4, 0, 0], shared: [0; 4], nv: 2, alone: 2 },
    }
}

/// Rows of the tallest tile of attention, two vectors wide: 24 + 2 + 1 of 32 registers (AVX-512,
/// NEON), else 12 + 2 + 1 of 16 or 8 + 2 + 1.
pub(crate) const fn attention_rows(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 12,
        Isa::Avx2 => 6,
        Isa::Portable if BASELINE_REGISTERS == 32 => 12,
        Isa::Portable => 4,
    }
}
