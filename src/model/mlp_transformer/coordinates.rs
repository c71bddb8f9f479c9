//! The parameters of a model with embeddings in the coordinates of tokens and positions, which are
//! those of the disentangled transformer.

use super::super::Layout;
use crate::Result;

/// With E = \[wte; wpe\] (d, d): block `A.0` holds E A_h Eᵀ of the first layer's heads, and block
/// `W` holds E W, the direct contribution of the query's token and position to the logits. `None`
/// for a model without embeddings: its blocks have these coordinates already.
///
/// # Errors
/// Never for a layout of a model.
pub fn one_hot_coordinates(layout: &Layout, params: &[f64]) -> Result<Option<(Layout, Vec<f64>)>> {
    let (Some(wte), Some(wpe), Some(a), Some(w)) =
        (layout.find("wte"), layout.find("wpe"), layout.find("A.0"), layout.find("W"))
    else {
        return Ok(None);
    };
    let d = wte.shape()[1];
    let e: Vec<f64> = params[wte.range()].iter().chain(&params[wpe.range()]).copied().collect();
    let transposed: Vec<f64> = (0..d * d).map(|i| e[i % d * d + i / d]).collect();
    let mut own = Layout::new();
    own.push("A.0", a.shape())?;
    own.push("W", w.shape())?;
    let mut values = Vec::with_capacity(own.len());
    for a in params[a.range()].chunks(d * d) {
        values.extend(product(&product(&e, a, d), &transposed, d));
    }
    values.extend(product(&e, &params[w.range()], d));
    Ok(Some((own, values)))
}

/// A B for A (.., d) and B (d, ..), by rows so that the inner loop runs along both.
fn product(a: &[f64], b: &[f64], d: usize) -> Vec<f64> {
    let n = b.len() / d;
    let mut out = vec![0.0; a.len() / d * n];
    for (row, out) in a.chunks(d).zip(out.chunks_mut(n)) {
        for (x, b) in row.iter().zip(b.chunks(n)) {
            out.iter_mut().zip(b).for_each(|(o, b)| *o += x * b);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_are_multiplied_in_and_others_left_alone() {
        // S = 1, T = 1, d = 2: E = [[1, 2], [3, 4]], A = [[0, 1], [0, 0]], so (E A Eᵀ)_ij = E_i0
        // E_j1.
        let mut layout = Layout::new();
        layout.push("wte", &[1, 2]).unwrap();
        layout.push("wpe", &[1, 2]).unwrap();
        layout.push("A.0", &[1, 2, 2]).unwrap();
        layout.push("W", &[2, 1]).unwrap();
        let params = [1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 0.0, 0.0, 10.0, 1.0];
        let (own, values) = one_hot_coordinates(&layout, &params).unwrap().unwrap();
        assert_eq!(values[own.find("A.0").unwrap().range()], [2.0, 4.0, 6.0, 12.0]);
        assert_eq!(values[own.find("W").unwrap().range()], [12.0, 34.0]);
        let mut plain = Layout::new();
        plain.push("A.0", &[1, 2, 2]).unwrap();
        plain.push("W", &[2, 1]).unwrap();
        assert!(one_hot_coordinates(&plain, &params[4..]).unwrap().is_none());
    }
}
