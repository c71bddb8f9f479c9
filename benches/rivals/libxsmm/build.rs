//! Links the static libraries of Debian's libxsmm-dev, or of the folder that LIBXSMM_LIB names.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBXSMM_LIB");
    let folder = std::env::var("LIBXSMM_LIB").unwrap_or_else(|_| "/usr/lib".into());
    println!("cargo::rustc-link-search=native={folder}");
    // It asks for a BLAS to fall back on; nothing here does.
    for library in ["static=xsmm", "static=xsmmnoblas", "pthread", "rt", "dl", "m"] {
        println!("cargo::rustc-link-lib={library}");
    }
}
