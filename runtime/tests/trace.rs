//! Running layer by layer: what is seen of each layer, and that looking changes nothing.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{SCALE, WIDTH, artifact, decoder, encoder, row};
use ir::{Tensor, feed};
use runtime::{Chunk, EncoderInput, Model, Options, Select, Session, Trace};

fn inputs(trace: &Trace) -> Vec<(&str, &[f64])> {
    let inputs = trace.inputs.iter();
    inputs.map(|(name, t)| (&**name, &*t.data)).collect()
}

fn tensor(rows: &[[f32; WIDTH]]) -> Tensor {
    let data = rows.as_flattened().iter().map(|x| f64::from(*x));
    Tensor::new([rows.len(), WIDTH], data.collect())
}

#[test]
fn each_layer_is_seen_as_it_was() {
    let model = Model::from_bytes(artifact(&encoder())).unwrap();
    let mut session = Session::new(&model, Options::default()).unwrap();
    let input = |ids| EncoderInput {
        ids,
        ..EncoderInput::default()
    };
    // A step holds five tokens: the first two together, the third alone.
    let sequences = [input(&[1, 2, 3]), input(&[4, 5]), input(&[6])];
    let plain = session.encode(&sequences).unwrap();
    assert_eq!(session.traces(), []);
    session.trace(true);
    for _ in 0..2 {
        let traced = session.encode(&sequences).unwrap();
        assert_eq!(traced, plain, "looking changes what is seen");
    }
    let [first, second] = session.traces() else {
        panic!("{:?}", session.traces());
    };
    // What lies in the arena between layers, then the layer that writes each output.
    let stored = Tensor::new([5], vec![1.0, 2.0, 3.0, 4.0, 5.0]);
    let (one, two) = ([1, 2, 3], [4, 5]);
    let tokens = [
        row(&one, 0, 0, 5),
        row(&one, 1, 0, 5),
        row(&one, 2, 0, 5),
        row(&two, 0, 0, 5),
        row(&two, 1, 0, 5),
    ];
    let sequences = [row(&one, 0, 3, 5), row(&two, 3, 5, 5)];
    assert_eq!(
        first.layers,
        [
            vec![stored],
            vec![tensor(&tokens)],
            vec![tensor(&sequences)]
        ]
    );
    assert_eq!(second.layers[1], [tensor(&[row(&[6], 0, 0, 1)])]);
    let fed = inputs(first);
    assert!(
        fed.contains(&(feed::TOKENS, &[1.0, 2.0, 3.0, 4.0, 5.0])),
        "{fed:?}"
    );
    assert!(fed.contains(&(feed::STARTS, &[0.0, 3.0])), "{fed:?}");
    let values = first.symbols.iter().map(|(s, value)| (&*s.name, *value));
    assert_eq!(values.collect::<Vec<_>>(), [(feed::T, 5), (feed::B, 2)]);

    session.trace(false);
    session.encode(&[input(&[1])]).unwrap();
    assert_eq!(session.traces(), []);
}

#[test]
fn a_prompt_longer_than_a_step_is_several_runs() {
    let model = Model::from_bytes(artifact(&decoder())).unwrap();
    let mut session = Session::new(&model, Options::default()).unwrap();
    session.trace(true);
    let tokens: Vec<u32> = (1..=12).collect();
    let chunk = |tokens| Chunk {
        sequence: 0,
        tokens,
        positions: None,
    };
    let logits = session
        .step(&[chunk(&tokens)], Select::All)
        .unwrap()
        .data
        .to_vec();
    let seen = session
        .traces()
        .iter()
        .flat_map(|t| t.layers[0][0].data.clone());
    let seen: Vec<f32> = seen.map(|x| x as f32).collect();
    assert_eq!(session.traces().len(), 3);
    assert_eq!(seen, logits);
    let last = session.step(&[chunk(&[13])], Select::Last).unwrap().data[0];
    assert_eq!(session.traces().len(), 1, "the last step alone is kept");
    assert_eq!(last, SCALE * (1..=13).sum::<u32>() as f32);
}
