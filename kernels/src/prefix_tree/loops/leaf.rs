//! Whole words.
//!
//! With D_s = F_s + εZ and g_s = W_s / D_s: f_s + ε = D_s/Z and W_s/(f_s + ε) = Z g_s, so Q_s = g_s
//! − Σ F g / Z.

use crate::elem::real::Real;
use crate::prefix_tree::loops::Block;
use crate::prefix_tree::plan::TREE;
use crate::simd::Simd;
use crate::vecmath::log::ln;

impl<E: Real, S: Simd<E>> Block<'_, E, S> {
    /// The `SYM` words below the last node but one: sets `sums` and `pulls` of its level `l`, adds
    /// to C and to the classes.
    ///
    /// # Safety
    /// `l` is the last level but one, just entered, at `node`; products are safe.
    #[inline(always)]
    pub(super) unsafe fn leaves<const SYM: usize>(&mut self, l: usize, node: usize) {
        let (s, ws, t) = (self.s, self.ws, self.t);
        let (j, last) = (ws.width - 2, ws.width - 1);
        let (zero, one, eps) = (s.splat(E::ZERO), s.splat(E::ONE), s.splat(self.w.eps));
        // SAFETY: slots of the workspace; classes of the plan.
        unsafe {
            let open = self.get(ws.open + l * ws.width + j);
            let open_query = self.get(ws.open + l * ws.width + last);
            let mut mass = [zero; SYM];
            for b in 0..SYM {
                mass[b] = self.get(ws.mass + l * SYM + b);
            }
            let (mut sum, mut sum_query, mut pulls) = (zero, zero, [zero; SYM]);
            for c in 0..SYM {
                let own = s.mul(open, s.splat(self.factor(t - 2, c, t - 2)));
                let query = s.mul(open_query, s.splat(self.factor(t - 2, c, t - 1)));
                let class = (self.edge(node, c) & !TREE) as usize - self.first_leaf;
                let class = ws.class + class * 2 * SYM;
                let mut f = mass;
                f[c] = s.add(f[c], own);
                f[0] = s.add(f[0], query);
                let mut z = f[0];
                for b in 1..SYM {
                    z = s.add(z, f[b]);
                }
                // d, and the products of d_0 .. d_b.
                let (mut d, mut product) = ([zero; SYM], [zero; SYM]);
                for b in 0..SYM {
                    d[b] = s.fma(eps, z, f[b]);
                    product[b] = if b == 0 { d[b] } else { s.mul(product[b - 1], d[b]) };
                }
                let r = s.div(one, s.mul(product[SYM - 1], z));
                let rz = s.mul(r, product[SYM - 1]);
                let mut rest = s.mul(r, z);
                let (mut g, mut mean) = ([zero; SYM], zero);
                for b in (0..SYM).rev() {
                    let inverse = if b == 0 { rest } else { s.mul(rest, product[b - 1]) };
                    rest = s.mul(rest, d[b]);
                    g[b] = s.mul(self.get(class + b), inverse);
                    mean = s.fma(f[b], g[b], mean);
                    let at = class + SYM + b;
                    self.put(at, s.mul(self.get(at), s.mul(d[b], rz)));
                }
                let mean = s.mul(mean, rz);
                for b in 0..SYM {
                    g[b] = s.sub(g[b], mean);
                    pulls[b] = s.add(pulls[b], g[b]);
                }
                let (e, e_query) = (s.mul(own, g[c]), s.mul(query, g[0]));
                let row = ws.sum_c + ((ws.levels - 1) * SYM + c) * ws.width;
                self.put(row + j, s.add(self.get(row + j), e));
                self.put(row + last, s.add(self.get(row + last), e_query));
                sum = s.add(sum, e);
                sum_query = s.add(sum_query, e_query);
            }
            self.put(ws.sums + l * ws.width + j, sum);
            self.put(ws.sums + l * ws.width + last, sum_query);
            for b in 0..SYM {
                self.put(ws.pulls + l * SYM + b, pulls[b]);
            }
        }
    }

    /// One word per lane: sets `pulls` and the query's δ of level `l`. Where products are not safe,
    /// each reciprocal is a division and Σ_s W_s ln(f_s + ε) is returned; otherwise f + ε joins the
    /// class, and 0 is returned.
    ///
    /// # Safety
    /// `l` is the last level, just entered; `used` symbols are in use; the class is the word's.
    #[inline(always)]
    pub(super) unsafe fn leaf(&mut self, l: usize, used: usize, class: usize) -> S::V {
        let (s, ws, n) = (self.s, self.ws, self.ws.symbols);
        let (zero, one, eps) = (s.splat(E::ZERO), s.splat(E::ONE), s.splat(self.w.eps));
        let class = ws.class + class * ws.class_len;
        let (mass, pulls) = (ws.mass + l * n, ws.pulls + l * n);
        let query_at = ws.sums + l * ws.width + ws.width - 1;
        // SAFETY: slots of the workspace; classes of the plan.
        unsafe {
            let query = self.get(ws.open + l * ws.width + ws.width - 1);
            self.put(mass, s.add(self.get(mass), query));
            let mut z = self.get(mass);
            for b in 1..used {
                z = s.add(z, self.get(mass + b));
            }
            let (mut mean, mut loss) = (zero, zero);
            let rz;
            if self.fast {
                let (d_at, product_at) = (ws.inverse, ws.inverse + n);
                let mut product = one;
                for b in 0..used {
                    let d = s.fma(eps, z, self.get(mass + b));
                    self.put(d_at + b, d);
                    self.put(product_at + b, product);
                    product = s.mul(product, d);
                }
                let r = s.div(one, s.mul(product, z));
                rz = s.mul(r, product);
                let mut rest = s.mul(r, z);
                for b in (0..used).rev() {
                    let d = self.get(d_at + b);
                    let g = s.mul(self.get(class + b), s.mul(rest, self.get(product_at + b)));
                    rest = s.mul(rest, d);
                    mean = s.fma(self.get(mass + b), g, mean);
                    let at = class + ws.row + b;
                    self.put(at, s.mul(self.get(at), s.mul(d, rz)));
                    self.put(pulls + b, g);
                }
            } else {
                rz = s.div(one, z);
                let ln_z = if self.careful { ln::<E, S>(s, z) } else { zero };
                let ln_eps = s.splat(self.ln_eps);
                for b in 0..used {
                    let (w, f) = (self.get(class + b), self.get(mass + b));
                    let d = s.fma(eps, z, f);
                    // A symbol that does not occur: nothing pulls at it, and at ε = 0 the loss is
                    // infinite if it has weight.
                    let g = s.select_lt(zero, f, s.div(w, d), zero);
                    mean = s.fma(f, g, mean);
                    let ln_f = if self.careful {
                        s.select_lt(zero, f, s.sub(ln::<E, S>(s, d), ln_z), ln_eps)
                    } else {
                        ln::<E, S>(s, s.mul(d, rz))
                    };
                    let lost = s.mul(w, ln_f);
                    loss = s.add(loss, s.select_lt(zero, w, lost, zero));
                    self.put(pulls + b, g);
                }
            }
            let mean = s.mul(mean, rz);
            for b in 0..used {
                self.put(pulls + b, s.sub(self.get(pulls + b), mean));
            }
            self.put(query_at, s.mul(query, self.get(pulls)));
            loss
        }
    }
}
