//! A pool of threads for regions of a few microseconds: idle workers spin for a bounded time, then yield, then sleep.
//!
//! A region makes no system call but where a thread is late: one that waits longer than a few hundred spins offers its core to
//! others (`sched_yield`), and a worker that sleeps has to be woken (`futex`). A pool of one thread makes none at all.
//!
//! Work is claimed in chunks from a counter, so a thread that the system has taken away delays only the chunk it holds,
//! and a region ends without waiting for workers that never came. Knows nothing of what it runs.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker watches for a region before it sleeps: longer than the serial gaps within a step (waking a
/// sleeper costs 10 to 60 us), shorter than anything a person would call idle.
const SPIN: Duration = Duration::from_micros(200);
/// Spin-loop hints between two offers of the core to others.
const HINTS: u32 = 256;

/// What a region runs: `f(thread, begin, end)` covers tasks `begin..end`.
pub type Job<'a> = dyn Fn(usize, u64, u64) + Sync + 'a;

/// Kept off its neighbours' cache lines (a pair of lines: the prefetcher fetches both).
#[repr(align(128))]
struct Padded<T>(T);

/// In [`Shared::state`]: the region is open, workers may enter. Below it the number of workers inside, above it the
/// number of the region.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const REGION: u64 = 1 << 32;

/// The open region. The job's lifetime is erased: it is dereferenced only inside the region, which `run` outlives.
#[derive(Clone, Copy)]
struct Region {
    job: *const Job<'static>,
    tasks: u64,
    grain: u64,
    chunks: u64,
}

struct Shared {
    /// Number of the region, [`OPEN`], and how many workers are inside.
    state: Padded<AtomicU64>,
    /// Next chunk of the region to claim.
    next: Padded<AtomicU64>,
    /// Held by the thread that runs a region.
    busy: Padded<AtomicBool>,
    stop: AtomicBool,
    region: UnsafeCell<Region>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `region` is written only by the holder of `busy` while the region is closed and no worker is inside, and read
// only by workers inside; `state` orders the two. The job it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

thread_local! {
    /// The pool whose region this thread is inside, and its number there.
    static INSIDE_OF: Cell<(*const Shared, usize)> = const { Cell::new((std::ptr::null(), 0)) };
}

struct Worker {
    asleep: Arc<Padded<AtomicBool>>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// A fixed set of threads that run regions of independent tasks. The caller of [`Pool::run`] is thread 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .finish()
    }
}

/// The number of threads that this process may run at once without sharing a core: hardware threads available to it,
/// less the second and later of each core.
pub fn default_threads() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let first_of_core = |cpu: &usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let siblings = std::fs::read_to_string(path).ok()?;
        let first: usize = siblings.split(['-', ',', '\n']).next()?.parse().ok()?;
        Some(first == *cpu)
    };
    let mut cpus = (0..)
        .map(|cpu| first_of_core(&cpu))
        .map_while(|first| first);
    let (mut cores, mut threads) = (0, 0);
    cpus.by_ref().for_each(|first| {
        threads += 1;
        cores += usize::from(first);
    });
    match threads {
        0 => available,
        _ => (available * cores).div_ceil(threads).max(1),
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller included; at least one.
    ///
    /// Where the system refuses a thread, the pool has as many as it gave.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            state: Padded(AtomicU64::new(0)),
            next: Padded(AtomicU64::new(0)),
            busy: Padded(AtomicBool::new(false)),
            stop: AtomicBool::new(false),
            region: UnsafeCell::new(Region {
                job: &|_, _, _| {},
                tasks: 0,
                grain: 1,
                chunks: 0,
            }),
            panic: Mutex::new(None),
        });
        let spawn = |number: usize| {
            let asleep = Arc::new(Padded(AtomicBool::new(false)));
            let (shared, flag) = (Arc::clone(&shared), Arc::clone(&asleep));
            let handle = std::thread::Builder::new()
                .name(format!("satura-{number}"))
                .spawn(move || serve(&shared, &flag, number))
                .ok()?;
            Some(Worker {
                asleep,
                thread: handle.thread().clone(),
                handle: Some(handle),
            })
        };
        let workers = (1..threads.max(1)).map_while(spawn).collect();
        Pool { shared, workers }
    }

    /// Threads of a region, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(thread, begin, end)` over chunks of at most `grain` tasks (0 counts as 1) until `0..tasks` is covered,
    /// each task exactly once, and returns when all have finished. No two calls at the same time have the same `thread`.
    ///
    /// A region of one chunk runs in place, and so does a region started inside another region of this pool. Regions
    /// started by different threads take turns.
    ///
    /// # Panics
    /// With the panic of `f`, once no thread is inside it any more; the remaining tasks are then skipped.
    pub fn run(&self, tasks: u64, grain: u64, f: &(dyn Fn(usize, u64, u64) + Sync)) {
        if tasks == 0 {
            return;
        }
        let shared = &*self.shared;
        let (pool, thread) = INSIDE_OF.get();
        if std::ptr::eq(pool, shared) {
            return f(thread, 0, tasks);
        }
        wait_until(|| {
            shared
                .busy
                .0
                .compare_exchange(false, true, Acquire, Relaxed)
                .is_ok()
        });
        let outer = INSIDE_OF.replace((shared, 0));
        let grain = grain.max(1);
        let chunks = tasks.div_ceil(grain);
        let outcome = if chunks == 1 || self.workers.is_empty() {
            catch_unwind(AssertUnwindSafe(|| f(0, 0, tasks)))
        } else {
            self.share(Region {
                job: erase(f),
                tasks,
                grain,
                chunks,
            })
        };
        INSIDE_OF.set(outer);
        shared.busy.0.store(false, Release);
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    }

    /// Runs a region on all threads. The caller holds `busy`.
    fn share(&self, region: Region) -> std::thread::Result<()> {
        let shared = &*self.shared;
        // SAFETY: the last region is closed and empty, and none opens but through the holder of `busy`.
        unsafe { *shared.region.get() = region };
        shared.next.0.store(0, Relaxed);
        let number = shared.state.0.load(Relaxed) & !(OPEN | INSIDE);
        // SeqCst pairs with the worker's announcement of its sleep: one of the two sees the other.
        shared
            .state
            .0
            .store(number.wrapping_add(REGION) | OPEN, SeqCst);
        for worker in self
            .workers
            .iter()
            .take(usize::try_from(region.chunks - 1).unwrap_or(usize::MAX))
        {
            if worker.asleep.0.load(SeqCst) && worker.asleep.0.swap(false, SeqCst) {
                worker.thread.unpark();
            }
        }
        let mine = work(shared, region, 0);
        shared.state.0.fetch_and(!OPEN, AcqRel);
        // A worker still inside has a chunk to finish: usually less than the time that sleeping takes.
        wait_until(|| shared.state.0.load(Acquire) & INSIDE == 0);
        match shared
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            Some(panic) => Err(panic),
            None => mine,
        }
    }
}

/// The job without its lifetime.
fn erase(f: &(dyn Fn(usize, u64, u64) + Sync)) -> *const Job<'static> {
    // SAFETY: only the lifetime changes; `share` returns after the last use.
    unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(f) }
}

/// Claims and runs chunks until none is left. After a panic nobody claims more.
fn work(shared: &Shared, region: Region, thread: usize) -> std::thread::Result<()> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: this thread is inside the region, so `run` has not returned and the job lives.
        let job = unsafe { &*region.job };
        loop {
            let chunk = shared.next.0.fetch_add(1, Relaxed);
            if chunk >= region.chunks {
                return;
            }
            let begin = chunk * region.grain;
            job(
                thread,
                begin,
                region.tasks.min(begin.saturating_add(region.grain)),
            );
        }
    }));
    if outcome.is_err() {
        shared.next.0.store(region.chunks, Relaxed);
    }
    outcome
}

/// Spins, and now and then offers the core to whoever wants it: the thread waited for may need this very core.
fn wait_until(done: impl Fn() -> bool) {
    loop {
        for _ in 0..HINTS {
            if done() {
                return;
            }
            std::hint::spin_loop();
        }
        std::thread::yield_now();
    }
}

/// A worker's life: wait for a region, enter it, work, leave.
fn serve(shared: &Shared, asleep: &Padded<AtomicBool>, thread: usize) {
    INSIDE_OF.set((shared, thread));
    let mut seen = 0;
    while let Some(state) = next_region(shared, asleep, seen) {
        seen = state & !(OPEN | INSIDE);
        // Entering and closing are atomic on one word: who is in before the close is waited for, nobody is in after.
        let enter = |s: u64| (s & OPEN != 0 && s & !(OPEN | INSIDE) == seen).then_some(s + 1);
        if shared.state.0.fetch_update(AcqRel, Acquire, enter).is_err() {
            continue;
        }
        // SAFETY: inside the region nobody writes it.
        let region = unsafe { *shared.region.get() };
        if let Err(panic) = work(shared, region, thread) {
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        shared.state.0.fetch_sub(1, Release);
    }
}

/// Waits for an open region other than `seen`; none when the pool stops.
fn next_region(shared: &Shared, asleep: &Padded<AtomicBool>, seen: u64) -> Option<u64> {
    let ready = |order| {
        let state = shared.state.0.load(order);
        (state & OPEN != 0 && state & !(OPEN | INSIDE) != seen).then_some(state)
    };
    loop {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..HINTS {
                if let Some(state) = ready(Acquire) {
                    return Some(state);
                }
                std::hint::spin_loop();
            }
            if shared.stop.load(Acquire) {
                return None;
            }
            std::thread::yield_now();
        }
        asleep.0.store(true, SeqCst);
        while asleep.0.load(SeqCst) {
            if shared.stop.load(SeqCst) {
                return None;
            }
            if ready(SeqCst).is_some() {
                asleep.0.store(false, SeqCst);
                break;
            }
            std::thread::park();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A worker catches the panics of jobs, so it cannot fail.
                let _ = handle.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a region and checks that each task ran once, in chunks of at most `grain`, by threads of the pool, never
    /// two at a time under one number.
    fn check(pool: &Pool, tasks: u64, grain: u64) {
        let counts: Vec<AtomicU64> = (0..tasks).map(|_| AtomicU64::new(0)).collect();
        let inside: Vec<AtomicBool> = (0..pool.threads())
            .map(|_| AtomicBool::new(false))
            .collect();
        pool.run(tasks, grain, &|thread, begin, end| {
            assert!(
                !inside[thread].swap(true, SeqCst),
                "two calls at once as thread {thread}"
            );
            assert!(begin < end && end <= tasks);
            assert!(end - begin <= grain.max(1) || pool.threads() == 1);
            counts[begin as usize..end as usize]
                .iter()
                .for_each(|c| _ = c.fetch_add(1, Relaxed));
            inside[thread].store(false, SeqCst);
        });
        assert!(
            counts.iter().all(|c| c.load(Relaxed) == 1),
            "{tasks} tasks of grain {grain}"
        );
    }

    #[test]
    fn each_task_runs_once() {
        for threads in 1..=4 {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for round in 0..3000 {
                check(&pool, round % 37, round % 5);
            }
        }
    }

    #[test]
    fn regions_find_sleeping_workers() {
        let pool = Pool::new(3);
        for _ in 0..5 {
            check(&pool, 100, 1);
            std::thread::sleep(SPIN * 5);
        }
    }

    #[test]
    fn both_threads_take_part() {
        let pool = Pool::new(2);
        let reached = [AtomicBool::new(false), AtomicBool::new(false)];
        // Each of the two chunks waits for the other, so one thread alone would never finish.
        pool.run(2, 1, &|_, begin, _| {
            reached[begin as usize].store(true, SeqCst);
            while !reached[1 - begin as usize].load(SeqCst) {
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_region_inside_a_region_runs_in_place() {
        let pool = Pool::new(3);
        for _ in 0..200 {
            let sum = AtomicU64::new(0);
            pool.run(10, 1, &|outer, _, _| {
                pool.run(5, 1, &|inner, begin, end| {
                    assert_eq!(inner, outer);
                    sum.fetch_add(end - begin, Relaxed);
                });
            });
            assert_eq!(sum.into_inner(), 50);
        }
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(2);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..300).for_each(|_| check(&pool, 20, 3)));
            }
        });
    }

    #[test]
    fn workers_stop_awake_or_asleep() {
        for wait in [Duration::ZERO, SPIN * 5] {
            let pool = Pool::new(4);
            check(&pool, 10, 1);
            std::thread::sleep(wait);
            drop(pool);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        for threads in 1..=3 {
            let pool = Pool::new(threads);
            for bad in 0..20 {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(20, 1, &|_, begin, end| {
                        assert!(!(begin..end).contains(&bad), "task {bad}")
                    });
                }));
                let message = result.expect_err("task must panic");
                assert_eq!(
                    message.downcast_ref::<String>(),
                    Some(&format!("task {bad}"))
                );
                check(&pool, 50, 1);
            }
        }
    }

    #[test]
    fn the_default_is_at_least_one_and_at_most_what_is_available() {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        assert!((1..=available).contains(&default_threads()));
    }
}
