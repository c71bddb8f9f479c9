//! The paper's explicit solutions as parameters of the disentangled transformer. That of the
//! simplified model is [`Simplified::construction`](super::Simplified::construction).

use super::{Disentangled, Model, check_finite, check_parents};
use crate::{Error, Result};
use popgrad_kernels::Elem;

/// Induction heads for a graph with up to H parents per position: a model with heads \[H, 1\] whose
/// first layer's head h attends `parents[h][i]` from position i, and whose second layer compares
/// the tokens that the heads found.
///
/// A⁽¹⁾_h \[position i, position p_h(i)\] = `scale`; A⁽²⁾ \[token part of attn_h, token part of
/// attn_h\] = `beta` I for every h; W \[token part of attn⁽²⁾, ·\] = `readout` I. So f =
/// softmax(readout · v), v the distribution of tokens over the positions whose parents' symbols
/// agree best with those of the query's own parents, uniform over them as scale, β → ∞.
///
/// Each list has T entries. The last one is the target's parent, at the query or before it. For H =
/// 1 a list may have T−1 entries; parents are then compared with the query itself, as in a tree.
///
/// # Errors
/// A model with other heads; another number of lists; a list of another length; a parent that is
/// not at an earlier position; numbers that are not finite in `E`.
pub fn induction_heads<E: Elem>(
    model: &Disentangled<E>,
    parents: &[Vec<Option<usize>>],
    scale: f64,
    beta: f64,
    readout: f64,
) -> Result<Vec<E>> {
    let h = parents.len();
    let (s, t) = (model.vocab(), model.seq_len());
    if model.heads() != [h, 1] {
        return Err(Error::invalid("heads", format!("{:?}", model.heads()), format!("[{h}, 1]")));
    }
    for list in parents {
        check_parents(list, t)?;
        if list.len() != t && h > 1 {
            return Err(Error::invalid("parents", format!("{} entries", list.len()), format!("{t}")));
        }
    }
    for (field, x) in [("scale", scale), ("beta", beta), ("readout", readout)] {
        check_finite::<E>(field, x)?;
    }
    let layout = model.layout();
    let mut params = vec![E::ZERO; layout.len()];
    let [d0, d1, _] = *model.widths() else { unreachable!("two layers") };
    let (scale, beta, readout) = (E::from_f64(scale), E::from_f64(beta), E::from_f64(readout));
    let [first, second, w] = [0, 1, 2].map(|b| layout.blocks()[b].range().start);
    for (head, list) in parents.iter().enumerate() {
        for (i, p) in list.iter().enumerate() {
            if let Some(p) = p {
                params[first + head * d0 * d0 + (s + i) * d0 + s + p] = scale;
            }
        }
        let key = d0 * (1 + head);
        let query = if list.len() == t { key } else { 0 };
        (0..s).for_each(|k| params[second + (query + k) * d1 + key + k] = beta);
    }
    (0..s).for_each(|k| params[w + (d1 + k) * s + k] = readout);
    Ok(params)
}
