//! The parts of XLA's C interface for foreign functions that the handlers use, version 0.3.
//!
//! Layouts are those of `xla/ffi/api/c_api.h`, as jaxlib ships it (`jax.ffi.include_dir()`).
//! Enumerations are integers here, so that a value that is unknown is no invalid one. Structures
//! that callers own begin with their size; what lies behind it is not read.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// The version that these are the layouts of. Later minor versions only add to it.
pub(super) const VERSION: (c_int, c_int) = (0, 3);

/// A call is a question for [`Metadata`].
pub(super) const EXTENSION_METADATA: c_uint = 1;
/// An argument or result is a [`Buffer`].
pub(super) const BUFFER: c_uint = 1;
/// An attribute is a [`Scalar`].
pub(super) const ATTRIBUTE_SCALAR: c_uint = 3;
/// The stages in which handlers are called.
pub(super) const STAGE_INSTANTIATE: c_uint = 0;
pub(super) const STAGE_EXECUTE: c_uint = 3;
/// Codes of errors.
pub(super) const INVALID_ARGUMENT: c_uint = 3;
pub(super) const INTERNAL: c_uint = 13;
/// Element types.
pub(super) const S32: c_uint = 4;
pub(super) const S64: c_uint = 5;
pub(super) const U32: c_uint = 8;
pub(super) const U64: c_uint = 9;
pub(super) const F32: c_uint = 11;
pub(super) const F64: c_uint = 12;

#[repr(C)]
pub(super) struct Extension {
    pub(super) size: usize,
    pub(super) kind: c_uint,
    pub(super) next: *mut Extension,
}

#[repr(C)]
pub(super) struct Version {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) major: c_int,
    pub(super) minor: c_int,
}

#[repr(C)]
pub(super) struct Metadata {
    pub(super) size: usize,
    pub(super) version: Version,
    pub(super) traits: u32,
    /// Not counted by `size`; there since 0.3.
    pub(super) state_type: i64,
}

#[repr(C)]
pub(super) struct MetadataExtension {
    pub(super) base: Extension,
    pub(super) metadata: *mut Metadata,
}

#[repr(C)]
pub(super) struct Buffer {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) dtype: c_uint,
    pub(super) data: *mut c_void,
    pub(super) rank: i64,
    pub(super) dims: *mut i64,
}

/// Arguments, and results too.
#[repr(C)]
pub(super) struct Buffers {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) count: i64,
    pub(super) kinds: *mut c_uint,
    pub(super) all: *mut *mut c_void,
}

#[repr(C)]
pub(super) struct Text {
    pub(super) data: *const c_char,
    pub(super) len: usize,
}

#[repr(C)]
pub(super) struct Scalar {
    pub(super) dtype: c_uint,
    pub(super) value: *mut c_void,
}

#[repr(C)]
pub(super) struct Attributes {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) count: i64,
    pub(super) kinds: *mut c_uint,
    pub(super) names: *mut *mut Text,
    pub(super) all: *mut *mut c_void,
}

/// What a handler is called with. XLA's own has one more field, which its size leaves out.
#[repr(C)]
pub(super) struct CallFrame {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) api: *const Api,
    pub(super) context: *mut c_void,
    pub(super) stage: c_uint,
    pub(super) args: Buffers,
    pub(super) results: Buffers,
    pub(super) attributes: Attributes,
}

/// XLA's error, which only XLA looks into.
#[repr(C)]
pub(super) struct Error {
    _private: [u8; 0],
}

#[repr(C)]
pub(super) struct ErrorCreate {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) message: *const c_char,
    pub(super) code: c_uint,
}

#[repr(C)]
pub(super) struct ErrorDestroy {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) error: *mut Error,
}

/// Sets the state of a compiled call, or gets it.
#[repr(C)]
pub(super) struct State {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) context: *mut c_void,
    pub(super) stage: c_uint,
    pub(super) type_id: *mut i64,
    pub(super) state: *mut c_void,
}

/// How XLA ends a state.
#[repr(C)]
pub(super) struct TypeInfo {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) deleter: unsafe extern "C" fn(*mut c_void),
}

type Function = Option<unsafe extern "C" fn()>;

/// XLA's functions, as far as the last one used here.
#[repr(C)]
pub(super) struct Api {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) version: Version,
    pub(super) internal: *const c_void,
    pub(super) error_create: Option<unsafe extern "C" fn(*mut ErrorCreate) -> *mut Error>,
    pub(super) error_message: Function,
    pub(super) error_destroy: Option<unsafe extern "C" fn(*mut ErrorDestroy)>,
    pub(super) handler_register: Function,
    pub(super) stream_get: Function,
    pub(super) type_register: Function,
    pub(super) context_get: Function,
    pub(super) state_set: Option<unsafe extern "C" fn(*mut State) -> *mut Error>,
    pub(super) state_get: Option<unsafe extern "C" fn(*mut State) -> *mut Error>,
}

/// Sizes as a C compiler for a 64-bit machine finds them.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<Extension>() == 24 && size_of::<Version>() == 24);
    assert!(size_of::<Metadata>() == 48 && std::mem::offset_of!(Metadata, traits) == 32);
    assert!(size_of::<MetadataExtension>() == 32 && size_of::<Buffer>() == 48);
    assert!(size_of::<Buffers>() == 40 && size_of::<Attributes>() == 48);
    assert!(size_of::<CallFrame>() == 168 && size_of::<State>() == 48);
    assert!(std::mem::offset_of!(Api, error_create) == 48 && size_of::<Api>() == 120);
};
