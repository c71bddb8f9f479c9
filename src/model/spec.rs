//! What models are built from: one enum, its variants told apart by `model` in configurations. A
//! model is registered by one line of [`registry`].

use super::{
    Disentangled, DisentangledSpec, Memory, MemorySpec, MlpTransformer, MlpTransformerSpec, Model,
    Simplified, SimplifiedSpec, Transformer, TransformerSpec,
};
use crate::Result;
use popgrad_kernels::Elem;
use serde::{Deserialize, Serialize};

macro_rules! registry {
    ($($name:literal => $model:ident($spec:ident)),* $(,)?) => {
        /// Names of the models.
        pub const MODELS: &[&str] = &[$($name),*];

        /// What a model is built from, sizes of the task aside.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "model")]
        pub enum Spec {
            $(
                #[doc = concat!("`", $name, "`.")]
                #[serde(rename = $name)]
                $model($spec),
            )*
        }

        impl Spec {
            /// Its name, one of [`MODELS`].
            pub fn name(&self) -> &'static str {
                match self { $(Spec::$model(_) => $name,)* }
            }

            /// The model over `vocab` symbols (S) on sequences of `seq_len` tokens (T).
            ///
            /// # Errors
            /// Sizes out of range, options that exclude each other; an instruction set forced that
            /// this CPU lacks.
            pub fn build<E: Elem>(&self, vocab: usize, seq_len: usize) -> Result<Box<dyn Model<E>>> {
                match self { $(Spec::$model(spec) => Ok(Box::new($model::<E>::new(vocab, seq_len, spec)?)),)* }
            }
        }
    };
}

registry! {
    "disentangled" => Disentangled(DisentangledSpec),
    "simplified" => Simplified(SimplifiedSpec),
    "mlp_transformer" => MlpTransformer(MlpTransformerSpec),
    "memory" => Memory(MemorySpec),
    "transformer" => Transformer(TransformerSpec),
}

/// What follows attention in a block of width d.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForward {
    /// Nothing.
    #[default]
    None,
    /// h + W h, W (d, d).
    Linear,
    /// h + W2 relu(W1 h), W1 (4d, d), W2 (d, 4d).
    Relu,
}

/// How a model knows positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// Random vectors, never trained (`pe`).
    Random,
    /// Sines and cosines of geometric frequencies, never trained (`pe`).
    SinCos,
    /// Rotation of queries and keys in the first layer; nothing is added to the tokens.
    Rotary,
    /// Vectors that train (`pos_embeddings.weight`).
    Learned,
}

/// The output matrix W_U.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// A matrix of its own, which trains.
    #[default]
    Free,
    /// The same, never trained.
    Frozen,
    /// The token embeddings, gradients from both places.
    Tied,
    /// A copy of the token embeddings (memory model: of E/√d) as they are at the start, never
    /// trained.
    TiedFrozen,
}
