//! Derivatives by a tape: the oracle of tests that write a model's equations down once more.

/// Values, and for each up to two operands with the derivative in them.
#[derive(Default)]
pub(crate) struct Tape {
    pub(crate) value: Vec<f64>,
    from: Vec<[(usize, f64); 2]>,
}

pub(crate) type Var = usize;

impl Tape {
    fn push(&mut self, value: f64, from: [(Var, f64); 2]) -> Var {
        self.value.push(value);
        self.from.push(from);
        self.value.len() - 1
    }
    pub(crate) fn new_var(&mut self, x: f64) -> Var {
        self.push(x, [(0, 0.0); 2])
    }
    pub(crate) fn add(&mut self, a: Var, b: Var) -> Var {
        self.push(self.value[a] + self.value[b], [(a, 1.0), (b, 1.0)])
    }
    pub(crate) fn mul(&mut self, a: Var, b: Var) -> Var {
        let (x, y) = (self.value[a], self.value[b]);
        self.push(x * y, [(a, y), (b, x)])
    }
    pub(crate) fn affine(&mut self, a: Var, by: f64, plus: f64) -> Var {
        self.push(self.value[a] * by + plus, [(a, by), (0, 0.0)])
    }
    pub(crate) fn exp(&mut self, a: Var) -> Var {
        let y = self.value[a].exp();
        self.push(y, [(a, y), (0, 0.0)])
    }
    pub(crate) fn ln(&mut self, a: Var) -> Var {
        let x = self.value[a];
        self.push(x.ln(), [(a, 1.0 / x), (0, 0.0)])
    }
    pub(crate) fn div(&mut self, a: Var, b: Var) -> Var {
        let (x, y) = (self.value[a], self.value[b]);
        self.push(x / y, [(a, 1.0 / y), (b, -x / (y * y))])
    }
    pub(crate) fn relu(&mut self, a: Var) -> Var {
        let x = self.value[a];
        self.push(x.max(0.0), [(a, f64::from(u8::from(x > 0.0))), (0, 0.0)])
    }
    pub(crate) fn dot(&mut self, a: &[Var], b: &[Var]) -> Var {
        let mut sum = self.new_var(0.0);
        for (a, b) in a.iter().zip(b) {
            let term = self.mul(*a, *b);
            sum = self.add(sum, term);
        }
        sum
    }
    pub(crate) fn plus(&mut self, a: &[Var], b: &[Var]) -> Vec<Var> {
        a.iter().zip(b).map(|(a, b)| self.add(*a, *b)).collect()
    }
    /// W x.
    pub(crate) fn apply(&mut self, w: &[Var], x: &[Var]) -> Vec<Var> {
        w.chunks(x.len()).map(|row| self.dot(row, x)).collect()
    }
    /// Softmax; the largest logit, a constant, keeps it finite.
    pub(crate) fn softmax(&mut self, z: &[Var]) -> Vec<Var> {
        let max = z.iter().map(|z| self.value[*z]).fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<Var> = z
            .iter()
            .map(|z| {
                let shifted = self.affine(*z, 1.0, -max);
                self.exp(shifted)
            })
            .collect();
        let total = e[1..].iter().fold(e[0], |sum, e| self.add(sum, *e));
        e.iter().map(|e| self.div(*e, total)).collect()
    }
    /// Derivatives of `of` in the first `n` values, and the sums of their terms' absolute values,
    /// which rounding is a share of.
    pub(crate) fn gradient(&self, of: Var, n: usize) -> [Vec<f64>; 2] {
        let [mut d, mut size] = [(); 2].map(|()| vec![0.0; self.value.len()]);
        (d[of], size[of]) = (1.0, 1.0);
        for i in (0..=of).rev() {
            for (from, by) in self.from[i] {
                d[from] += by * d[i];
                size[from] += by.abs() * size[i];
            }
        }
        d.truncate(n);
        size.truncate(n);
        [d, size]
    }
}
