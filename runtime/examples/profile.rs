//! Where the time of a step goes, kernel by kernel: of a decoder's after `context` tokens, of an encoder's over as many:
//! `cargo run --release -p satura-runtime --example profile -- MODEL.satura [context] [threads]`.

use runtime::{Chunk, EncoderInput, Model, Options, Select, Session};
use std::{collections::BTreeMap, time::Duration};

/// Steps that are measured.
const STEPS: usize = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("give a compiled model")?;
    let context: usize = args.next().map_or(Ok(256), |a| a.parse())?;
    let threads = args.next().map(|a| a.parse()).transpose()?;
    let mut session = Session::new(
        &Model::open(path)?,
        Options {
            threads,
            ..Options::default()
        },
    )?;
    let decodes = session.model().description().task == ir::Task::CausalLm;
    let tokens: Vec<u32> = (1..=context as u32).collect();
    let step = |session: &mut Session, tokens: &[u32]| {
        if !decodes {
            let ids = tokens;
            let input = EncoderInput {
                ids,
                ..EncoderInput::default()
            };
            return session.encode(&[input]).map(drop);
        }
        let chunk = Chunk {
            sequence: 0,
            tokens,
            positions: None,
        };
        session.step(&[chunk], Select::Last).map(drop)
    };
    let measured = if decodes { &tokens[..1] } else { &tokens[..] };
    step(&mut session, &tokens)?;
    step(&mut session, measured)?;
    session.measure(true);
    for _ in 0..STEPS {
        session.truncate(0, context)?;
        step(&mut session, measured)?;
    }
    let mut kernels: BTreeMap<String, (u32, Duration)> = BTreeMap::new();
    for (name, time) in session.times() {
        let (call, kernel) = name.split_once(": ").unwrap_or(("", name));
        let graph = call.trim_end_matches(|c: char| c == '.' || c.is_ascii_digit());
        let entry = kernels.entry(format!("{graph}: {kernel}")).or_default();
        *entry = (entry.0 + 1, entry.1 + time);
    }
    let total: Duration = kernels.values().map(|k| k.1).sum();
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by_key(|k| std::cmp::Reverse(k.1.1));
    let us = |t: Duration| t.as_secs_f64() * 1e6 / STEPS as f64;
    println!(
        "{:.1} us a step after {context} tokens, {} threads",
        us(total),
        session.threads()
    );
    for (name, (launches, time)) in kernels {
        println!(
            "{:>9.1} us {:>5.1} % {launches:>4} launches {:>8.2} us each  {name}",
            us(time),
            100.0 * time.as_secs_f64() / total.as_secs_f64(),
            us(time) / f64::from(launches)
        );
    }
    Ok(())
}
