//! What the kernels' tests and the fuzz targets share: seeded numbers, strided memory with
//! canaries, error terms.

use crate::elem::Elem;
use crate::kernels::Kernels;
use crate::simd::Isa;
use crate::view::{Mat, MatMut, Mats, MatsMut};

/// splitmix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// Uniform in [-1, 1).
    pub(crate) fn signed(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

#[cfg(test)]
impl Rng {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
    pub(crate) fn vec<E: Elem>(&mut self, n: usize, scale: f64) -> Vec<E> {
        (0..n).map(|_| E::from_f64(scale * self.signed())).collect()
    }
}

/// The value between the entries of a strided buffer.
pub(crate) const CANARY: f64 = 12345.0;

/// Memory of a batch of matrices: entries start as given, gaps and margins hold canaries.
#[derive(Clone)]
pub(crate) struct Block<E> {
    pub(crate) data: Vec<E>,
    pub(crate) shape: [usize; 3],
    pub(crate) bs: usize,
    pub(crate) rs: usize,
    pub(crate) cs: usize,
}

impl<E: Elem> Block<E> {
    /// Rows `pad` longer than the columns; `heads`: the matrices lie side by side in each row.
    pub(crate) fn new([count, rows, cols]: [usize; 3], pad: usize, heads: bool) -> Self {
        let (bs, rs) =
            if heads { (cols + pad, count * (cols + pad)) } else { (rows * (cols + pad) + pad, cols + pad) };
        Self::with_strides([count, rows, cols], bs, rs, 1)
    }
    pub(crate) fn with_strides(shape: [usize; 3], bs: usize, rs: usize, cs: usize) -> Self {
        let len = shape[0] * bs + shape[1] * rs + shape[2] * cs + 9;
        let mut b = Block { data: vec![E::from_f64(CANARY); len], shape, bs, rs, cs };
        b.fill(|_| E::NAN);
        b
    }
    pub(crate) fn at(&self, b: usize, i: usize, j: usize) -> usize {
        b * self.bs + i * self.rs + j * self.cs
    }
    pub(crate) fn fill(&mut self, mut f: impl FnMut(usize) -> E) {
        let mut n = 0;
        for b in 0..self.shape[0] {
            for i in 0..self.shape[1] {
                for j in 0..self.shape[2] {
                    let at = self.at(b, i, j);
                    self.data[at] = f(n);
                    n += 1;
                }
            }
        }
    }
    pub(crate) fn random(mut self, rng: &mut Rng, scale: f64) -> Self {
        self.fill(|_| E::from_f64(scale * rng.signed()));
        self
    }
    /// A batch: columns are contiguous.
    pub(crate) fn mats(&self) -> Mats<'_, E> {
        Mats::new(&self.data, self.shape, self.bs, self.rs).unwrap()
    }
    pub(crate) fn mats_mut(&mut self) -> MatsMut<'_, E> {
        MatsMut::new(&mut self.data, self.shape, self.bs, self.rs).unwrap()
    }
    /// The first matrix, of any strides.
    pub(crate) fn mat(&self) -> Mat<'_, E> {
        Mat::with_strides(&self.data, self.shape[1], self.shape[2], self.rs, self.cs).unwrap()
    }
    pub(crate) fn mat_mut(&mut self) -> MatMut<'_, E> {
        MatMut::with_strides(&mut self.data, self.shape[1], self.shape[2], self.rs, self.cs).unwrap()
    }
    /// The entries in order, in f64.
    pub(crate) fn dense(&self) -> Vec<f64> {
        let mut out = Vec::new();
        for b in 0..self.shape[0] {
            for i in 0..self.shape[1] {
                for j in 0..self.shape[2] {
                    out.push(self.data[self.at(b, i, j)].to_f64());
                }
            }
        }
        out
    }
    /// Nothing outside the entries has changed.
    pub(crate) fn assert_canaries(&self) {
        let mut inside = vec![false; self.data.len()];
        for b in 0..self.shape[0] {
            for i in 0..self.shape[1] {
                for j in 0..self.shape[2] {
                    inside[self.at(b, i, j)] = true;
                }
            }
        }
        for (at, (x, inside)) in self.data.iter().zip(inside).enumerate() {
            assert!(inside || x.to_f64() == CANARY, "element {at} between the entries was overwritten: {x}");
        }
    }
}

/// γ_n = n u / (1 − n u): what n roundings do at most.
pub(crate) fn gamma<E: Elem>(n: usize) -> f64 {
    super::gamma(n, E::UNIT_ROUNDOFF)
}

/// Smallest subnormal: what an operation loses at most, absolutely, when it underflows.
pub(crate) fn tiny<E: Elem>() -> f64 {
    E::TINY.to_f64()
}

/// What softmax sets to zero, at most: e^SOFTMAX_MIN of the row's largest entry.
pub(crate) fn softmax_floor<E: Elem>() -> f64 {
    E::SOFTMAX_MIN.to_f64().exp() * (1.0 + E::UNIT_ROUNDOFF * 128.0)
}

/// The kernels of every instruction set of this CPU.
pub(crate) fn available<E: Elem>() -> impl Iterator<Item = Kernels<E>> {
    Isa::available().map(|isa| Kernels::new(isa).unwrap())
}

/// The same for tests, which print what they skip.
#[cfg(test)]
pub(crate) fn every_isa<E: Elem>() -> Vec<Kernels<E>> {
    for e in Isa::ALL.into_iter().filter_map(|isa| Kernels::<E>::new(isa).err()) {
        println!("skipped: {e}");
    }
    available().collect()
}

/// Equal bits, or both NaN.
pub(crate) fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}
