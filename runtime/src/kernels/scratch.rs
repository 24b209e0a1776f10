//! Memory that a kernel needs within one call: one buffer a thread, grown to the largest request and kept, so that
//! calls do not allocate once warm. Knows neither who asks nor what for.

use std::cell::UnsafeCell;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

thread_local! {
    static LINES: UnsafeCell<Vec<Line>> = const { UnsafeCell::new(Vec::new()) };
}

/// At least `len` f32 elements of arbitrary content, 64-byte aligned, private to this thread. Valid until the thread's
/// next call: a kernel asks once and divides what it gets.
pub(super) fn scratch(len: usize) -> *mut f32 {
    LINES.with(|lines| {
        // SAFETY: the cell is this thread's and the reference ends with this closure.
        let lines = unsafe { &mut *lines.get() };
        let need = len.div_ceil(16);
        if lines.len() < need {
            lines.clear();
            lines.resize(need, Line([0.0; 16]));
        }
        lines.as_mut_ptr().cast()
    })
}
