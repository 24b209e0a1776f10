//! Tags entities with a token classifier: `cargo run --release --example tag -- MODEL TEXT...`.

use satura::{
    Hub, Opening, Source,
    ir::Task,
    runtime::{EncoderInput, Options, Session},
};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, texts @ ..] = &args[..] else {
        return Err("usage: tag MODEL TEXT...".into());
    };
    let (source, _) = Source::find(Some(name), &Hub::of_user(), &|_, _| {})?;
    let model = satura::open(&source, &Opening::default())?.model;
    let Task::TokenClassification { labels } = &model.description().task else {
        return Err(format!(
            "{name} is a {}, no tagger",
            model.description().architecture
        )
        .into());
    };
    let tokenizer = satura::tokenizer(&model)?;
    let mut session = Session::new(&model, Options::default())?;

    // All texts in one step.
    let encodings = texts.iter().map(|text| tokenizer.encode(text, true));
    let encodings = encodings.collect::<Result<Vec<_>, _>>()?;
    let input = |ids| EncoderInput {
        ids,
        ..EncoderInput::default()
    };
    let inputs: Vec<_> = encodings.iter().map(|e| input(&e.ids[..])).collect();
    for ((text, encoding), outputs) in texts.iter().zip(&encodings).zip(session.encode(&inputs)?) {
        println!("{text}");
        let logits = outputs.get("logits").ok_or("the model gives no logits")?;
        for entity in satura::entities(labels, logits, encoding) {
            let part = &text[entity.bytes.clone()];
            println!(
                "  {:?} {} {:.3} {part}",
                entity.chars, entity.label, entity.score
            );
        }
    }
    Ok(())
}
