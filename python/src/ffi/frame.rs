//! A call of XLA, read with checks: sizes of structures, kinds, numbers and types come first.

use super::abi;
use popgrad::{Error, Result};
use std::ffi::{CString, c_uint, c_void};
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ptr::NonNull;

/// Element types of buffers, all of whose bit patterns are values.
pub(super) trait Native: Copy {
    const DTYPE: c_uint;
}
macro_rules! native {
    ($($element:ty: $dtype:ident),*) => {
        $(impl Native for $element { const DTYPE: c_uint = abi::$dtype; })*
    };
}
native!(i32: S32, i64: S64, u32: U32, u64: U64, f32: F32, f64: F64);

/// XLA's functions.
#[derive(Clone, Copy)]
pub(super) struct Api<'a>(&'a abi::Api);

/// A call, for as long as it lasts.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    raw: &'a abi::CallFrame,
    api: Api<'a>,
}

/// An argument or a result: row-major elements.
pub(super) struct Buffer<'a> {
    pub(super) dtype: c_uint,
    pub(super) dims: &'a [i64],
    data: *mut c_void,
    /// The product of `dims`.
    len: usize,
    _frame: PhantomData<&'a abi::CallFrame>,
}

/// What XLA does not hand over as version 0.3 says.
fn other(problem: &str) -> Error {
    Error::invalid("XLA", problem, "calls as in version 0.3 of its foreign functions")
}

/// A structure that begins with its size, if that is the size of `T` or more.
///
/// # Safety
/// `at` is null or points to such a structure, which lives for `'a` and is changed by nobody.
unsafe fn sized<'a, T>(at: *const T) -> Option<&'a T> {
    if at.is_null() || !at.is_aligned() {
        return None;
    }
    // SAFETY: not null and aligned, and the structure begins with its size.
    let size = unsafe { at.cast::<usize>().read() };
    // SAFETY: the structure has the bytes of a `T`, by the comparison.
    (size >= size_of::<T>()).then(|| unsafe { &*at })
}

/// A pointer that a reference can be made of, as far as its address says.
fn place<T>(at: *mut T) -> Option<NonNull<T>> {
    NonNull::new(at).filter(|at| at.is_aligned())
}

/// `count` elements at `at`.
///
/// # Safety
/// `at` is null or points to as many, which live for `'a` and are changed by nobody.
unsafe fn many<'a, T>(at: *const T, count: i64) -> Result<&'a [T]> {
    let count = usize::try_from(count).map_err(|_| other("a count below 0"))?;
    let fits = count.checked_mul(size_of::<T>()).is_some_and(|n| isize::try_from(n).is_ok());
    match count {
        0 => Ok(&[]),
        _ if at.is_null() || !at.is_aligned() || !fits => Err(other("a list that is none")),
        // SAFETY: not null, aligned, of a size that memory has, by the arm above; the caller
        // promises the elements.
        _ => Ok(unsafe { std::slice::from_raw_parts(at, count) }),
    }
}

impl<'a> Api<'a> {
    /// XLA's functions in `frame`; `None` where the handlers cannot even report an error.
    ///
    /// # Safety
    /// `frame` is null or a call frame of XLA that lives for `'a`.
    pub(super) unsafe fn of(frame: *const abi::CallFrame) -> Option<Self> {
        // SAFETY: as the caller promises; of the frame only what the size covers is read.
        let frame = unsafe { sized(frame) }?;
        // SAFETY: XLA's table lives as long as the process, and begins with its size.
        let api = unsafe { sized(frame.api) }?;
        let (major, minor) = abi::VERSION;
        let known = api.version.major == major && api.version.minor >= minor;
        (known && api.error_create.is_some()).then_some(Api(api))
    }

    /// An error of XLA with this text.
    pub(super) fn error(self, text: &str, code: c_uint) -> *mut abi::Error {
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        let mut args = abi::ErrorCreate {
            size: offset_of!(abi::ErrorCreate, code) + size_of::<c_uint>(),
            extension: std::ptr::null_mut(),
            message: text.as_ptr(),
            code,
        };
        // SAFETY: `of` checked that the table has the function; XLA copies the text.
        self.0.error_create.map_or(std::ptr::null_mut(), |create| unsafe { create(&raw mut args) })
    }

    /// Gives an error of XLA back.
    fn destroy(self, error: *mut abi::Error) {
        let mut args = abi::ErrorDestroy {
            size: size_of::<abi::ErrorDestroy>(),
            extension: std::ptr::null_mut(),
            error,
        };
        if let Some(destroy) = self.0.error_destroy {
            // SAFETY: `of` checked that the table has the function; the error is one that a
            // function of the table returned, and nobody else has it.
            unsafe { destroy(&raw mut args) };
        }
    }
}

impl<'a> Frame<'a> {
    /// The call `frame` in stage `stage`.
    ///
    /// # Safety
    /// `frame` is a call frame of XLA that lives for `'a`, and `api` is its own.
    pub(super) unsafe fn of(frame: *const abi::CallFrame, api: Api<'a>, stage: c_uint) -> Result<Self> {
        // SAFETY: as the caller promises; of the frame only what the size covers is read.
        let raw = unsafe { sized(frame) };
        let raw = raw.ok_or_else(|| other("a call frame of another size"))?;
        let own = [
            (raw.args.size, size_of::<abi::Buffers>()),
            (raw.results.size, size_of::<abi::Buffers>()),
            (raw.attributes.size, size_of::<abi::Attributes>()),
        ];
        if own.iter().any(|(size, least)| size < least) {
            return Err(other("a list of another size"));
        }
        match raw.stage == stage {
            true => Ok(Frame { raw, api }),
            false => Err(other("another stage")),
        }
    }

    /// Numbers of arguments and of results.
    pub(super) fn counts(self) -> (i64, i64) {
        (self.raw.args.count, self.raw.results.count)
    }

    /// Argument `i`.
    pub(super) fn argument(self, i: usize) -> Result<Buffer<'a>> {
        // SAFETY: `of` checked the list's size; the buffers live as long as the call.
        unsafe { Buffer::in_list(&self.raw.args, i) }
    }

    /// Result `i`.
    pub(super) fn result(self, i: usize) -> Result<Buffer<'a>> {
        // SAFETY: `of` checked the list's size; the buffers live as long as the call.
        unsafe { Buffer::in_list(&self.raw.results, i) }
    }

    /// The attribute `name`, an int64.
    pub(super) fn attribute(self, name: &str) -> Result<i64> {
        let list = &self.raw.attributes;
        // SAFETY: `of` checked the list's size; it has `count` names, kinds and values.
        let (names, kinds, all) = unsafe {
            (many(list.names, list.count)?, many(list.kinds, list.count)?, many(list.all, list.count)?)
        };
        let missing = || Error::invalid(name, "no attribute of a call", "an int64");
        for ((own, kind), value) in names.iter().zip(kinds).zip(all) {
            let Some(own) = place(*own).filter(|_| *kind == abi::ATTRIBUTE_SCALAR) else { continue };
            // SAFETY: not null and aligned; a name has as many bytes as it says.
            let text = unsafe { many(own.as_ref().data.cast::<u8>(), own.as_ref().len as i64)? };
            if text != name.as_bytes() {
                continue;
            }
            let scalar = place(value.cast::<abi::Scalar>()).ok_or_else(missing)?;
            // SAFETY: not null and aligned, and the kind says that it is a scalar.
            let scalar = unsafe { scalar.as_ref() };
            let number = NonNull::new(scalar.value.cast::<i64>()).filter(|_| scalar.dtype == abi::S64);
            // SAFETY: not null, and the type says that it is an int64, at any address.
            return number.map(|at| unsafe { at.read_unaligned() }).ok_or_else(missing);
        }
        Err(missing())
    }

    /// The state that [`set_state`](Self::set_state) set when this call was compiled, of the type
    /// `kind`.
    pub(super) fn state<T>(self, kind: *mut i64) -> Result<&'a T> {
        let mut args = self.state_args(kind, std::ptr::null_mut());
        let get = self.api.0.state_get.ok_or_else(|| other("no state_get"))?;
        // SAFETY: `Api::of` checked that the table has the function, and its version the layout of
        // the arguments.
        let error = unsafe { get(&raw mut args) };
        if !error.is_null() {
            self.api.destroy(error);
            return Err(other("no state of this type"));
        }
        let found = place(args.state.cast::<T>()).ok_or_else(|| other("no state"))?;
        // SAFETY: not null and aligned; XLA compared the type with that of the state, which
        // `set_state` set for a `T`, and keeps the state while the call lasts.
        Ok(unsafe { found.as_ref() })
    }

    /// Gives `state` to the compiled call, under the type `kind`; false if XLA does not take it.
    pub(super) fn set_state(self, kind: *mut i64, state: *mut c_void) -> bool {
        let mut args = self.state_args(kind, state);
        let Some(set) = self.api.0.state_set else { return false };
        // SAFETY: as in `state`. XLA ends the state by the deleter of the type.
        let error = unsafe { set(&raw mut args) };
        if !error.is_null() {
            self.api.destroy(error);
        }
        error.is_null()
    }

    fn state_args(self, kind: *mut i64, state: *mut c_void) -> abi::State {
        abi::State {
            size: size_of::<abi::State>(),
            extension: std::ptr::null_mut(),
            context: self.raw.context,
            stage: abi::STAGE_INSTANTIATE,
            type_id: kind,
            state,
        }
    }
}

impl<'a> Buffer<'a> {
    /// Buffer `i` of `list`.
    ///
    /// # Safety
    /// `list` has as many kinds and pointers as it says, to buffers that live for `'a`.
    unsafe fn in_list(list: &abi::Buffers, i: usize) -> Result<Self> {
        // SAFETY: as the caller promises.
        let (kinds, all) = unsafe { (many(list.kinds, list.count)?, many(list.all, list.count)?) };
        let (Some(&kind), Some(&at)) = (kinds.get(i), all.get(i)) else {
            return Err(other("fewer buffers than the objective has"));
        };
        let at: *const c_void = at;
        if kind != abi::BUFFER {
            return Err(other("an argument or result that is no buffer"));
        }
        // SAFETY: the kind says that it is a buffer, which begins with its size.
        let raw = unsafe { sized(at.cast::<abi::Buffer>()) };
        let raw = raw.ok_or_else(|| other("a buffer of another size"))?;
        // SAFETY: the structure has the size of a buffer, which has `rank` dimensions.
        let dims = unsafe { many(raw.dims, raw.rank)? };
        let product = |n: usize, d: &i64| n.checked_mul(usize::try_from(*d).ok()?);
        let len = dims.iter().try_fold(1, product).ok_or_else(|| other("dimensions out of range"))?;
        Ok(Buffer { dtype: raw.dtype, dims, data: raw.data, len, _frame: PhantomData })
    }

    /// A pointer to the elements, if they are of type `T` and memory can hold them.
    fn elements<T: Native>(&self) -> Result<*mut T> {
        let at = self.data.cast::<T>();
        let fits = self.len.checked_mul(size_of::<T>()).is_some_and(|n| isize::try_from(n).is_ok());
        match self.dtype == T::DTYPE && fits && at.is_aligned() && (self.len == 0 || !at.is_null()) {
            true => Ok(at),
            false => Err(other("a buffer of another type, or of memory that is none")),
        }
    }

    /// The elements of an argument.
    pub(super) fn read<T: Native>(&self) -> Result<&'a [T]> {
        let at = self.elements::<T>()?;
        if self.len == 0 {
            return Ok(&[]);
        }
        // SAFETY: `elements` checked type, address and size; XLA hands over a buffer of these
        // dimensions, which nobody changes while the call lasts. Results are written as pointers,
        // after the last use of arguments.
        Ok(unsafe { std::slice::from_raw_parts(at.cast_const(), self.len) })
    }

    /// Refuses `count` elements of type `T` for a result.
    pub(super) fn check<T: Native>(&self, count: usize) -> Result<()> {
        match self.elements::<T>().is_ok() && self.len == count {
            true => Ok(()),
            false => Err(other("a result of another type or size")),
        }
    }

    /// Writes the elements of a result. No slice of an argument is used any more.
    pub(super) fn write<T: Native>(&self, from: &[T]) -> Result<()> {
        self.check::<T>(from.len())?;
        let to = self.elements::<T>()?;
        // SAFETY: `check` compared type, address and number. `copy` allows memory that overlaps.
        unsafe { std::ptr::copy(from.as_ptr(), to, from.len()) };
        Ok(())
    }
}

/// Answers a question for metadata; false if `frame` is none.
///
/// # Safety
/// `frame` is null or a call frame of XLA. `state` is the type of the state that the handler sets.
pub(super) unsafe fn answer(frame: *const abi::CallFrame, state: i64) -> bool {
    // SAFETY: as the caller promises; the first two fields are all that is read below.
    let asked = unsafe { sized(frame.cast::<[usize; 2]>()) };
    if asked.is_none() {
        return false;
    }
    // SAFETY: the frame has its second field, by the check above; it is null or an extension.
    let at: *const abi::Extension = unsafe { (&raw const (*frame).extension).read() };
    // SAFETY: an extension begins with its size.
    let base = unsafe { sized(at) };
    if base.is_none_or(|base| base.kind != abi::EXTENSION_METADATA) {
        return false;
    }
    // SAFETY: of this kind, and the size is checked.
    let question = unsafe { sized(at.cast::<abi::MetadataExtension>()) };
    let least = offset_of!(abi::Metadata, traits) + size_of::<u32>();
    let Some(to) = question.map(|q| q.metadata) else { return true };
    // SAFETY: metadata begin with their size.
    let fits = !to.is_null() && to.is_aligned() && unsafe { to.cast::<usize>().read() } >= least;
    if fits {
        let (major, minor) = abi::VERSION;
        let version =
            abi::Version { size: size_of::<abi::Version>(), extension: std::ptr::null_mut(), major, minor };
        // SAFETY: the size of the metadata covers both fields.
        unsafe {
            (&raw mut (*to).version).write(version);
            (&raw mut (*to).traits).write(0);
        }
        // SAFETY: versions from 0.3 on have the field; `Api::of` compared them.
        if state != 0 && unsafe { Api::of(frame) }.is_some() {
            // SAFETY: as above.
            unsafe { (&raw mut (*to).state_type).write(state) };
        }
    }
    true
}
