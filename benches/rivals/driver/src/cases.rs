//! Which products are measured.

use rival_worker::Case;

/// (op, batch, m, k, n).
type Shape = (&'static str, usize, usize, usize, usize);

/// Products from the models: a shard of short sequences, a layer, a head's logits, a weight
/// gradient.
const BATCH: &[Shape] = &[
    ("nn", 1024, 20, 30, 30),
    ("nn-cold", 1024, 20, 30, 30),
    ("nn", 32, 20, 30, 30),
    ("nn", 1, 256, 128, 128),
];
const TALL: &[Shape] = &[("nn", 1, 131_072, 256, 65), ("tn", 1, 256, 131_072, 256)];

const OPS: [&str; 6] = ["nn", "tn", "nt", "nn-cold", "tn-cold", "nt-cold"];

fn square(n: usize) -> Shape {
    ("nn", 1, n, n, n)
}

/// The cases of some groups and shapes.
pub fn gemm(sizes: &[String], dtype: &str, threads: usize) -> Result<Vec<Case>, String> {
    let mut out: Vec<Case> = Vec::new();
    let mut add = |(op, batch, m, k, n): Shape| {
        let case = Case::new(op, dtype, [batch, m, k, n, threads]);
        if !out.contains(&case) {
            out.push(case);
        }
    };
    for size in sizes {
        match size.as_str() {
            "squares" => [16, 24, 32, 48, 64, 96, 128, 192, 256].map(square).into_iter().for_each(&mut add),
            "odd" => [17, 33, 65, 100, 127, 255].map(square).into_iter().for_each(&mut add),
            "large" => [384, 512, 768, 1024, 1536, 2048].map(square).into_iter().for_each(&mut add),
            "batch" => BATCH.iter().copied().for_each(&mut add),
            "tall" => TALL.iter().copied().for_each(&mut add),
            shape => add(parse(shape).ok_or_else(|| {
                format!(
                    "--sizes: `{shape}`; known: squares, odd, batch, tall, large, OP:MxKxN, OP:BATCH*MxKxN"
                )
            })?),
        }
    }
    Ok(out)
}

/// `nn:64x64x64` or `tn:1024*20x30x30`.
fn parse(text: &str) -> Option<Shape> {
    let (op, rest) = text.split_once(':')?;
    let op = OPS.into_iter().find(|o| *o == op)?;
    let (batch, rest) = rest.split_once('*').unwrap_or(("1", rest));
    let sizes: Vec<usize> =
        rest.split('x').map(|w| w.parse().ok().filter(|n| *n > 0)).collect::<Option<_>>()?;
    let [m, k, n] = sizes[..] else { return None };
    Some((op, batch.parse().ok().filter(|n| *n > 0)?, m, k, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_and_nothing_else() {
        assert_eq!(parse("tn:1024*20x30x31"), Some(("tn", 1024, 20, 30, 31)));
        assert_eq!(parse("nn:1x2x3"), Some(("nn", 1, 1, 2, 3)));
        for bad in ["", "nn", "nn:", "nn:1x2", "nn:1x2x3x4", "xx:1x2x3", "nn:0x2x3", "nn:0*1x2x3", "1x2x3"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert!(gemm(&["squares".into(), "nope".into()], "f32", 1).is_err());
        assert_eq!(gemm(&["squares".into(), "nn:16x16x16".into()], "f32", 1).unwrap().len(), 9);
    }
}
