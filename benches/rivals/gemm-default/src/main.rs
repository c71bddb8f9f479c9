//! The `gemm` crate, default features: AVX2 with FMA at most.

rival_worker::gemm_crate!("gemm 0.19.0");
