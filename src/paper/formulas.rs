//! The equations of the models and losses, for reports; their letters are those of the headers in
//! `src/model/`.

use crate::batch::Targets;
use crate::model::{BlockKind, FeedForward, MemorySpec, Positions, Spec, TransformerSpec};
use crate::report::html::data::Formula;

/// The equations of a model.
pub(super) fn of_model(spec: &Spec) -> Vec<Formula> {
    let attention = r"\text{attn}_h(x)_i = \sum_{j≤i} \text{softmax}_{j≤i}(x_i^⊤ A_h x_j) x_j";
    match spec {
        Spec::Disentangled(_) => vec![
            Formula::new("The first layer reads one-hot tokens and positions:", r"x^0_i = [e_{s_i}, e_i]"),
            Formula::new("Each head appends what it attends to:", attention),
            Formula::new("", r"x^{l+1} = [x^l, \text{attn}_1(x^l), …, \text{attn}_H(x^l)]"),
            Formula::new("The prediction at the last position:", r"f = \text{softmax}(W^⊤ x^L_T)"),
        ],
        Spec::Simplified(_) => vec![
            Formula::new("Layer 1 attends by position:", r"M_{ij} = \text{softmax}_{j≤i}(A^1_{ij})"),
            Formula::new(
                "Layer 2 compares what it finds with the query's symbol:",
                r"z_i = \sum_{j≤i} M_{ij} A^2_{s_T s_j} ,\  v = \text{softmax}(z)",
            ),
            Formula::new("The prediction:", r"f(s′) = \sum_{i:s_i=s′} v_i"),
        ],
        Spec::MlpTransformer(_) => vec![
            Formula::new("Embeddings of tokens and positions:", r"x^0_i = E_{s_i} + P_i"),
            Formula::new("Heads:", attention),
            Formula::new(
                "Attention enters the stream through the feed-forward part alone:",
                r"y = [\text{attn}_1, …, \text{attn}_H] V ,\  x^{l+1} = x^l + W_2 \text{relu}(W_1 y + \sqrt{d} b_1) + \sqrt{d} b_2",
            ),
            Formula::new("The prediction at the last position:", r"f = \text{softmax}(W^⊤ x^L_T)"),
        ],
        Spec::Memory(m) => of_memory(m),
        Spec::Transformer(m) => of_transformer(m),
    }
}

fn of_memory(m: &MemorySpec) -> Vec<Formula> {
    let embedded = match m.positions {
        Positions::Rotary => r"x_t = w_E(z_t)",
        _ => r"x_t = w_E(z_t) + p_t",
    };
    let scores = match (m.scale_scores, m.positions) {
        (true, Positions::Rotary) => r"\frac{(R_t x_t)^⊤ R_s W_K x_s}{\sqrt{d}}",
        (false, Positions::Rotary) => r"(R_t x_t)^⊤ R_s W_K x_s",
        (true, _) => r"\frac{x_t^⊤ W_K x_s}{\sqrt{d}}",
        (false, _) => r"x_t^⊤ W_K x_s",
    };
    let mut all = vec![
        Formula::new("Embeddings of tokens and positions:", embedded),
        Formula::new(
            "Attention of each of the two layers:",
            format!(r"α_{{ts}} = \text{{softmax}}_{{s≤t}}({scores})"),
        ),
        Formula::new("What it adds to the stream:", r"h_t = x_t + W_O W_V \sum_{s≤t} α_{ts} x_s"),
    ];
    for (layer, ff) in [(1, m.ff1), (2, m.ff2)] {
        let text = match ff {
            FeedForward::None => continue,
            FeedForward::Linear => r"x_t = h_t + W_F h_t",
            FeedForward::Relu => r"x_t = h_t + W_2 \text{relu}(W_1 h_t)",
        };
        all.push(Formula::new(&format!("Feed-forward of layer {layer}:"), text));
    }
    all.push(Formula::new("The prediction at every position:", r"p̂(·|z_{1…t}) = \text{softmax}(c W_U x_t)"));
    all
}

fn of_transformer(m: &TransformerSpec) -> Vec<Formula> {
    let block = match (m.block, m.ff) {
        (BlockKind::PostNorm, FeedForward::None) => r"x ← \text{LN}(x + \text{Attn}(x))",
        (BlockKind::PostNorm, _) => r"h = \text{LN}(x + \text{Attn}(x)) ,\  x ← \text{LN}(h + \text{FF}(h))",
        (_, FeedForward::None) => r"x ← x + \text{Attn}(\text{LN}(x))",
        (BlockKind::Public, _) => r"h = x + \text{Attn}(\text{LN}(x)) ,\  x ← h + \text{FF}(\text{LN}(x))",
        (BlockKind::Standard, _) => r"h = x + \text{Attn}(\text{LN}(x)) ,\  x ← h + \text{FF}(\text{LN}(h))",
    };
    let mut all = vec![
        Formula::new("Embeddings of tokens and positions:", r"x_t = w_E(z_t) + p_t"),
        Formula::new(
            "Attention, a sum over heads:",
            r"\text{Attn}(x)_t = \sum_{h} W_O^h \sum_{s≤t} \text{softmax}_{s≤t}(\frac{(W_Q^h x_t)^⊤ W_K^h x_s}{\sqrt{d/H}}) W_V^h x_s",
        ),
        Formula::new("Each block:", if m.norm { block.into() } else { block.replace(r"\text{LN}", "") }),
    ];
    let ff = match m.ff {
        FeedForward::None => None,
        FeedForward::Linear => Some(r"\text{FF}(x) = W x"),
        FeedForward::Relu => Some(r"\text{FF}(x) = W_2 \text{relu}(W_1 x)"),
    };
    all.extend(ff.map(|text| Formula::new("Feed-forward:", text)));
    all.push(Formula::new("The prediction at every position:", r"p̂(·|z_{1…t}) = \text{softmax}(W_U x_t)"));
    all
}

/// The loss.
pub(super) fn of_loss(targets: Targets, spec: &Spec) -> Formula {
    let text = match (targets, spec) {
        (Targets::Law, Spec::Simplified(_)) => r"L = -\bf{E} \sum_{s′} y(s′) \text{log}(f(s′) + ε)",
        (Targets::Law, _) => r"L = -\bf{E} \sum_{s′} y(s′) \text{log} f(s′)",
        (Targets::Labels, _) => r"L = -\frac{\sum_{t} m_t \text{log} p̂(z_{t+1}|z_{1…t})}{\sum_{t} m_t}",
    };
    let what = match targets {
        Targets::Law => "The loss, y the law of the next symbol:",
        Targets::Labels => "The loss, m the positions that count:",
    };
    Formula::new(what, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::report::html::math::mathml;

    #[test]
    fn every_preset_has_its_equations() {
        for p in super::super::presets() {
            let config = config::resolve(&super::super::preset(&p.name, false).unwrap()).unwrap();
            let all = of_model(&config.model);
            assert!(all.len() >= 3, "{}", p.name);
            for f in &all {
                // No command that the notation lacks, which would be a word in the page.
                assert!(!mathml(&f.text).contains("mathvariant=\"normal\""), "{}", f.text);
            }
        }
    }
}
