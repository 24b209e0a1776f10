//! Compiles a model into a file, then runs that file as a service would, which needs `satura-runtime` alone:
//! `cargo run --release --example compile_ahead -- [MODEL]`.

use satura::{
    Hub, Output, Source, compiler,
    runtime::{Chunk, Model, Options, Select, Session, devices::cpu},
};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let (source, _) = Source::find(
        std::env::args().nth(1).as_deref(),
        &Hub::of_user(),
        &|_, _| {},
    )?;
    let file = std::env::temp_dir().join("compile_ahead.satura");

    // Ahead of time: `"x86-64-v3".parse()?` instead of this machine gives a file for any with AVX2.
    let options = compiler::Options::new(cpu::host());
    let bytes = Output::new(&file)?.compile(&source.checkpoint()?, &options, &|_, _, _| {})?;
    println!("{}: {bytes} bytes", file.display());

    // In the service: no compiler, no model directory.
    let model = Model::open(&file)?;
    let mut session = Session::new(&model, Options::default())?;
    let prompt = Chunk {
        sequence: 0,
        tokens: &[1, 2, 3],
        positions: None,
    };
    let logits = session.step(&[prompt], Select::Last)?;
    let best = logits
        .row(0)
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1));
    println!(
        "after tokens 1, 2, 3 comes {:?}",
        best.map(|(token, _)| token)
    );
    std::fs::remove_file(&file)?;
    Ok(())
}
