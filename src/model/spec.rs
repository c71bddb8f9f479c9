//! Specifications of models: one enum, whose variants are named by the key `model` in
//! configurations. One line of [`registry`] registers a model.

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

        /// The options of a model; the sizes S and T come from the task.
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
            /// Sizes out of range; options that exclude each other; `POPGRAD_ISA` names an
            /// instruction set that this CPU lacks.
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

/// The feed-forward part that follows attention in a block of width d.
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

/// How positions are encoded.
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
    /// A separate matrix, which trains.
    #[default]
    Free,
    /// A separate matrix, never trained.
    Frozen,
    /// The token embeddings; their gradient is the sum over both uses.
    Tied,
    /// A copy of the initial token embeddings (memory model: of E/√d), never trained.
    TiedFrozen,
}
