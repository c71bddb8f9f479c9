//! Ordered, compensated sums.
/// Neumaier sum.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sum {
    s: f64,
    c: f64,
}
impl Sum {
    /// zero
    pub fn new() -> Self {
        Sum::default()
    }
    /// add
    pub fn add(&mut self, x: f64) {
        let t = self.s + x;
        if self.s.abs() >= x.abs() {
            self.c += (self.s - t) + x
        } else {
            self.c += (x - t) + self.s
        };
        self.s = t;
    }
    /// value
    pub fn value(&self) -> f64 {
        self.s + self.c
    }
    /// parts
    pub fn parts(&self) -> [f64; 2] {
        [self.s, self.c]
    }
    /// from
    pub fn from_parts(p: [f64; 2]) -> Self {
        Sum { s: p[0], c: p[1] }
    }
}
