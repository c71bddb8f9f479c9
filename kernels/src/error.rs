//! Why a kernel refused its operands.
/// A refused call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelError;
impl std::fmt::Display for KernelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused")
    }
}
impl std::error::Error for KernelError {}
