//! Generates text: `cargo run --release --example generate -- [MODEL] [PROMPT]`.

use satura::{
    Hub, Opening, Source,
    runtime::{
        Options, Session,
        sample::{Sampler, SamplerOptions},
    },
};
use std::{
    error::Error,
    io::{Write, stdout},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (source, _) = Source::find(args.next().as_deref(), &Hub::of_user(), &|_, _| {})?;
    let prompt = args
        .next()
        .unwrap_or_else(|| "The socket module provides".into());

    // Compiled at first, taken from the cache later.
    let model = satura::open(&source, &Opening::default())?.model;
    let tokenizer = satura::tokenizer(&model)?;
    let mut session = Session::new(&model, Options::default())?;
    let mut sampler = Sampler::new(SamplerOptions {
        temperature: 0.8,
        top_p: 0.95,
        ..SamplerOptions::default()
    })?;

    let ids = tokenizer.encode(&prompt, true)?.ids;
    let mut stream = tokenizer.stream(true);
    print!("{prompt}");
    for token in session.generate(0, &ids, 64, |logits| sampler.sample(logits)) {
        print!("{}", stream.push(token?)?);
        stdout().flush()?;
    }
    println!("{}", stream.finish()?);
    Ok(())
}
