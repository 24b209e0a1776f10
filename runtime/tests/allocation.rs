//! A decode step allocates nothing. Alone in its process, since the allocator counts for all threads.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use runtime::{Chunk, Model, Options, Select, Session};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

struct Counting;
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn decode_steps_do_not_allocate() {
    let model = Model::from_bytes(common::artifact(&common::decoder())).unwrap();
    let options = Options {
        threads: Some(2),
        sequences: 3,
        context: None,
    };
    let mut session = Session::new(&model, options).unwrap();
    let mut step = |token: u32| {
        let chunk = |sequence, tokens| Chunk {
            sequence,
            tokens,
            positions: None,
        };
        let tokens = [token, token + 1];
        let batch = [chunk(0, &tokens[..1]), chunk(2, &tokens[1..])];
        session.step(&batch, Select::Last).unwrap().data[0]
    };
    step(1);
    let before = ALLOCATIONS.load(SeqCst);
    let last = (2..12).map(&mut step).last().unwrap();
    assert_eq!(ALLOCATIONS.load(SeqCst), before);
    assert_eq!(last, common::SCALE * (1..12).sum::<u32>() as f32);
}
