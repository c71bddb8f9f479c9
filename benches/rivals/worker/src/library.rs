//! Shared libraries loaded at run time.

#[cfg(unix)]
pub use unix::Library;

#[cfg(unix)]
mod unix {
    use std::ffi::{CStr, CString, c_char, c_int, c_void};

    unsafe extern "C" {
        fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
        fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    }
    const RTLD_NOW: c_int = 2;

    /// An open library; it stays open until the process ends.
    pub struct Library {
        handle: *mut c_void,
        name: String,
    }

    impl Library {
        /// Opens `name`, a path or what the system's loader finds.
        pub fn open(name: &str) -> Result<Self, String> {
            let path = CString::new(name).map_err(|e| e.to_string())?;
            // SAFETY: a zero-terminated path; a library's constructors run, which is what loading
            // it means.
            let handle = unsafe { dlopen(path.as_ptr(), RTLD_NOW) };
            if handle.is_null() {
                return Err(format!("{name}: cannot load"));
            }
            Ok(Library { handle, name: name.into() })
        }

        /// The address of a symbol, never null.
        pub fn symbol(&self, name: &CStr) -> Result<*mut c_void, String> {
            // SAFETY: an open library and a zero-terminated name.
            let symbol = unsafe { dlsym(self.handle, name.as_ptr()) };
            if symbol.is_null() { Err(format!("{}: no {name:?}", self.name)) } else { Ok(symbol) }
        }
    }
}

/// None elsewhere: every library is one that cannot be opened.
#[cfg(not(unix))]
pub struct Library;

#[cfg(not(unix))]
impl Library {
    /// Fails.
    pub fn open(name: &str) -> Result<Self, String> {
        Err(format!("{name}: dlopen is needed"))
    }

    /// Never called, as there is no library.
    pub fn symbol(&self, name: &std::ffi::CStr) -> Result<*mut std::ffi::c_void, String> {
        Err(format!("no {name:?}"))
    }
}
