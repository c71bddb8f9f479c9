//! Checks that fuzz targets, proptest and the committed corpora share: a description of a problem,
//! and a function that runs it on every instruction set and panics where a result is wrong. Not
//! part of the API.

pub(crate) mod attention;
pub(crate) mod elementwise;
mod gemm;
pub(crate) mod mask;
pub(crate) mod one_hot;
pub(crate) mod peak;
pub(crate) mod prefix_tree;
pub(crate) mod sampling;
#[cfg(test)]
mod small;
pub(crate) mod testkit;
pub mod ulps;
pub(crate) mod vecmath;

pub use gemm::{GemmCase, Layout, Values, dot2, gamma};

/// The fuzz target `gemm`: any bytes are a case, checked for both types.
pub fn gemm(data: &[u8]) {
    if let Some(case) = GemmCase::decode(data) {
        case.check::<f32>();
        case.check::<f64>();
    }
}

/// The fuzz target `attention`: any bytes are a case, checked for both types.
pub fn attention(data: &[u8]) {
    let case = attention::AttentionCase::decode(data);
    case.check::<f32>();
    case.check::<f64>();
}

/// The fuzz target `elementwise`: any bytes are an operation and the bit patterns of its operands,
/// checked for both types.
pub fn elementwise(data: &[u8]) {
    elementwise::check::<f32>(data);
    elementwise::check::<f64>(data);
}

/// The fuzz target `prefix_tree`: any bytes are a small tree, checked against enumeration.
pub fn prefix_tree(data: &[u8]) {
    prefix_tree::run(data);
}

/// The fuzz target `one_hot`: any bytes are sizes and a seed, checked for both types.
pub fn one_hot(data: &[u8]) {
    let case = one_hot::decode(data);
    one_hot::check::<f32>(case);
    one_hot::check::<f64>(case);
}

/// The fuzz target `peak`: any bytes are a slice to sweep.
pub fn peak(data: &[u8]) {
    peak::run(data);
}

/// The fuzz target `vecmath`: any bytes are an operation and its operands, checked for both types.
pub fn vecmath(data: &[u8]) {
    vecmath::check::<f32>(data);
    vecmath::check::<f64>(data);
}

/// The fuzz target `sampling`: any bytes are addresses, rows and a forest, checked against the
/// twins bit for bit.
pub fn sampling(data: &[u8]) {
    sampling::run(data);
}

#[cfg(test)]
mod tests {
    /// Stable `cargo test` runs what fuzzing has found worth keeping, and every beginning of it.
    fn replay(target: &str, run: fn(&[u8])) {
        let dir = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<_> = match std::fs::read_dir(&dir) {
            Ok(entries) => entries.map(|e| e.unwrap().path()).collect(),
            // A published crate comes without the workspace around it.
            Err(_) => return println!("skipped: no corpus at {dir}"),
        };
        files.sort();
        assert!(!files.is_empty());
        for file in files {
            let data = std::fs::read(&file).unwrap();
            for len in (0..=data.len()).rev() {
                println!("{}, {len} bytes", file.display());
                run(&data[..len]);
            }
        }
    }

    #[test]
    fn gemm_corpus_passes() {
        replay("gemm", super::gemm);
    }

    #[test]
    fn attention_corpus_passes() {
        replay("attention", super::attention);
    }

    #[test]
    fn elementwise_corpus_passes() {
        replay("elementwise", super::elementwise);
    }

    #[test]
    fn prefix_tree_corpus_passes() {
        replay("prefix_tree", super::prefix_tree);
    }

    #[test]
    fn one_hot_corpus_passes() {
        replay("one_hot", super::one_hot);
    }

    #[test]
    fn peak_corpus_passes() {
        replay("peak", super::peak);
    }

    #[test]
    fn vecmath_corpus_passes() {
        replay("vecmath", super::vecmath);
    }

    #[test]
    fn sampling_corpus_passes() {
        replay("sampling", super::sampling);
    }
}
