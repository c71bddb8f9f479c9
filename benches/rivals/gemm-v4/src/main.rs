//! The `gemm` crate, with its AVX-512 kernels (feature \`x86-v4\`).

rival_worker::gemm_crate!("gemm 0.19.0, x86-v4");
