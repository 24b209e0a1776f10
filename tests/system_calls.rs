//! Decode steps make no system call: they wait for no lock, ask for no memory, read no file. A thread warms up, gives up the
//! right to any system call but `read` and `write` (seccomp's strict mode, which the kernel enforces by killing it),
//! decodes alone, and says so.
//!
//! With more threads than one a step may call the system where one of them is late: who waits longer than a few hundred
//! spins offers the core to others (`sched_yield`), and a worker that has been idle for a fifth of a millisecond sleeps and
//! has to be woken (`futex`). What steps compute, lock and allocate is the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() {
    linux::main();
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod linux {
    use compiler::{Options, checkpoint::Checkpoint};
    use runtime::{
        Chunk, Model, Select, Session,
        devices::cpu,
        sample::{Sampler, SamplerOptions},
    };
    use rustix::thread::{SecureComputingMode, sched_yield, set_secure_computing_mode};
    use satura::{compiler, runtime};
    use std::{
        fs,
        io::{Cursor, stdout},
        os::unix::process::ExitStatusExt,
        path::Path,
        process::{Command, Stdio},
        sync::Arc,
        time::Duration,
    };

    const SIGKILL: i32 = 9;
    const DONE: &[u8] = b"decoded\n";

    /// Says what to do confined; without it this is the process that tests the others.
    const WORK: &str = "SATURA_CONFINED_WORK";

    pub fn main() {
        match std::env::var(WORK).as_deref() {
            Ok("step") => confined(&mut steps()),
            Ok("generate") => confined(&mut generation()),
            Ok("yield") => confined(&mut sched_yield),
            Ok(other) => panic!("{WORK} is {other:?}"),
            Err(_) => {
                for (work, done) in [("step", true), ("generate", true), ("yield", false)] {
                    check(work, done);
                }
                println!("3 passed, 0 failed");
            }
        }
    }

    /// Runs this program on `work`, which should get done, or not.
    fn check(work: &str, done: bool) {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let mut child = child
            .env(WORK, work)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // To end is a system call too, so the confined thread is killed sooner or later. It is the process's first, which
        // stays to be seen when it is dead, while threads that loading has left behind (they sleep) live on.
        let stat = format!("/proc/{}/stat", child.id());
        let state = || {
            let stat = fs::read_to_string(&stat).unwrap();
            stat.rsplit(") ").next().unwrap().chars().next()
        };
        while state() != Some('Z') {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        let ended = child.wait_with_output().unwrap();
        // Whoever ended otherwise was never confined.
        assert_eq!(
            ended.status.signal(),
            Some(SIGKILL),
            "{work}: {:?}",
            ended.status
        );
        assert_eq!(ended.stdout == DONE, done, "{work}: {:?}", ended.stdout);
        println!("{work} ... ok");
    }

    /// Does `work` as a thread that may call the system to write alone, and then writes.
    fn confined(work: &mut dyn FnMut()) {
        set_secure_computing_mode(SecureComputingMode::Strict).unwrap();
        work();
        rustix::io::write(stdout(), DONE).unwrap();
    }

    fn model() -> Arc<Model> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama_gqa");
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let options = Options::new(cpu::host());
        let out = Cursor::new(vec![]);
        let artifact = compiler::compile(&checkpoint, &options, out, &|_, _, _| {}).unwrap();
        Model::from_bytes(artifact.into_inner()).unwrap()
    }

    fn session() -> Session {
        let options = runtime::Options {
            threads: Some(1),
            ..runtime::Options::default()
        };
        Session::new(&model(), options).unwrap()
    }

    /// A prompt now, forty steps of a token later.
    fn steps() -> impl FnMut() {
        let mut session = session();
        let mut step = move |tokens: &[u32]| {
            let chunk = Chunk {
                sequence: 0,
                tokens,
                positions: None,
            };
            session.step(&[chunk], Select::Last).unwrap();
        };
        step(&[5, 6, 7]);
        step(&[8]);
        move || (9..49).for_each(|token| step(&[token]))
    }

    /// A prompt and some tokens now, as many again later, each drawn from the model's distribution.
    fn generation() -> impl FnMut() {
        let mut session = session();
        let mut sampler = Sampler::new(SamplerOptions {
            temperature: 0.8,
            top_k: 50,
            top_p: 0.95,
            seed: 3,
            ..SamplerOptions::default()
        })
        .unwrap();
        let mut last = 5;
        let mut generate = move |count| {
            let tokens = session.generate(0, &[last], count, |logits| sampler.sample(logits));
            for token in tokens.ignore_eos(true) {
                last = token.unwrap();
            }
        };
        generate(20);
        move || generate(20)
    }
}
