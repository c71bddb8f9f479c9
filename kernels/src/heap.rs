//! An allocator for programs: where the system has no memory left, one line and an exit code in
//! place of an abort with a backtrace.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;

/// The system's allocator. A program that makes it its global one ends with exit code 2 and one
/// line on stderr when memory is refused, whatever asked for it, fallible allocations included.
///
/// ```
/// use popgrad_kernels::Heap;
/// #[global_allocator]
/// static HEAP: Heap = Heap;
/// assert_eq!(vec![1.0; 3].len(), 3);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Heap;

/// Exit code of a program whose memory was refused.
const REFUSED: i32 = 2;

#[cold]
#[inline(never)]
fn refused(bytes: usize) -> ! {
    // Neither allocates: stderr has no buffer, and the number is formatted on the stack.
    let _ = writeln!(
        std::io::stderr(),
        "error: memory: {bytes} bytes more are refused; allowed: what the machine, its control groups and ulimit leave"
    );
    std::process::exit(REFUSED)
}

#[inline]
fn given(pointer: *mut u8, bytes: usize) -> *mut u8 {
    if pointer.is_null() {
        refused(bytes)
    }
    pointer
}

// SAFETY: every call goes to the system's allocator as it came, and every pointer is the system's:
// its contract holds for this one.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise on `layout`.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise on `layout`.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: `pointer` is from here, hence from the system.
        given(unsafe { System.realloc(pointer, layout, size) }, size)
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as for `realloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}
