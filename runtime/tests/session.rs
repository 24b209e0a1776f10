//! What sessions compute and refuse, on models whose outputs can be said in a line.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{CONTEXT, EOS, STEP, VOCABULARY, WIDTH, artifact, decoder, encoder, row};
use ir::Positions;
use proptest::prelude::*;
use runtime::{Chunk, Continuation, EncoderInput, Error, Finish, Model, Options, Select, Session};

const SEQUENCES: usize = 3;

fn decoder_session(threads: usize) -> Session {
    let model = Model::from_bytes(artifact(&decoder())).unwrap();
    let options = Options {
        threads: Some(threads),
        sequences: SEQUENCES,
        context: None,
    };
    Session::new(&model, options).unwrap()
}

fn encoder_session() -> Session {
    let model = Model::from_bytes(artifact(&encoder())).unwrap();
    Session::new(&model, Options::default()).unwrap()
}

fn chunk(sequence: usize, tokens: &[u32]) -> Chunk<'_> {
    Chunk {
        sequence,
        tokens,
        positions: None,
    }
}

/// The logits' rows without the last element, which depends on how a step was cut.
fn rows(session: &mut Session, batch: &[Chunk<'_>], select: Select) -> Vec<Vec<f32>> {
    let logits = session.step(batch, select).unwrap();
    assert_eq!(logits.vocabulary, WIDTH);
    logits.rows().map(|r| r[..WIDTH - 1].to_vec()).collect()
}

fn expected(history: &[u32], at: usize) -> Vec<f32> {
    row(&history[..=at], at as i32, history[at], 0)[..WIDTH - 1].to_vec()
}

#[test]
fn steps_carry_the_symbols_values() {
    let mut session = decoder_session(1);
    let batch = [chunk(0, &[1, 2]), chunk(1, &[3])];
    let logits = session.step(&batch, Select::All).unwrap();
    let wanted = [
        row(&[1], 0, 1, 3),
        row(&[1, 2], 1, 2, 3),
        row(&[3], 0, 3, 3),
    ];
    assert_eq!(logits.data, wanted.as_flattened());
    assert_eq!(logits.row(1), wanted[1]);
}

#[test]
fn a_prompt_longer_than_a_step_takes_several() {
    let prompt: Vec<u32> = (1..=13).collect();
    assert!(prompt.len() > 2 * STEP as usize);
    let mut session = decoder_session(2);
    let all = rows(&mut session, &[chunk(1, &prompt)], Select::All);
    let wanted: Vec<_> = (0..prompt.len()).map(|i| expected(&prompt, i)).collect();
    assert_eq!(all, wanted);
    session.reset(1).unwrap();
    assert_eq!(
        rows(&mut session, &[chunk(1, &prompt)], Select::Last),
        wanted[12..]
    );
}

#[test]
fn positions_are_the_callers_where_given() {
    let mut session = decoder_session(1);
    let given = Chunk {
        sequence: 0,
        tokens: &[4, 5],
        positions: Some(&[9, 3]),
    };
    let logits = session.step(&[given], Select::All).unwrap();
    assert_eq!(
        logits.data,
        [row(&[4], 9, 4, 2), row(&[4, 5], 3, 5, 2)].as_flattened()
    );
}

/// One thing done to a session: chunks of a step, or a truncation.
#[derive(Clone, Debug)]
enum Action {
    Step(Vec<(usize, Vec<u32>)>, bool),
    Truncate(usize, usize),
}

fn action() -> impl Strategy<Value = Action> {
    let tokens = prop::collection::vec(0..VOCABULARY as u32, 1..8);
    let chunks = prop::collection::vec((0..SEQUENCES, tokens), 1..5);
    prop_oneof![
        3 => (chunks, any::<bool>()).prop_map(|(c, all)| Action::Step(c, all)),
        1 => (0..SEQUENCES, 0..CONTEXT).prop_map(|(s, len)| Action::Truncate(s, len)),
    ]
}

proptest! {
    /// Whatever is appended to whichever sequences in whatever portions, each token sees its own sequence.
    #[test]
    fn sequences_are_independent_of_batching(
        actions in prop::collection::vec(action(), 1..12),
        threads in 1..4usize,
    ) {
        let mut session = decoder_session(threads);
        let mut histories = vec![vec![]; SEQUENCES];
        for action in actions {
            match action {
                Action::Truncate(sequence, len) => {
                    session.truncate(sequence, len).unwrap();
                    histories[sequence].truncate(len);
                }
                Action::Step(chunks, all) => {
                    let batch: Vec<_> = chunks.iter().map(|(s, t)| chunk(*s, t)).collect();
                    let (mut after, mut wanted) = (histories.clone(), vec![]);
                    for (sequence, tokens) in &chunks {
                        for (i, token) in tokens.iter().enumerate() {
                            after[*sequence].push(*token);
                            if all || i + 1 == tokens.len() {
                                let at = after[*sequence].len() - 1;
                                wanted.push(expected(&after[*sequence], at));
                            }
                        }
                    }
                    let select = if all { Select::All } else { Select::Last };
                    if after.iter().any(|h| h.len() > CONTEXT) {
                        let error = session.step(&batch, select).unwrap_err();
                        prop_assert!(matches!(error, Error::Context { .. }), "{error}");
                    } else {
                        prop_assert_eq!(rows(&mut session, &batch, select), wanted);
                        histories = after;
                    }
                }
            }
            for (sequence, history) in histories.iter().enumerate() {
                prop_assert_eq!(session.length(sequence).unwrap(), history.len());
            }
        }
    }
}

#[test]
fn refusals_name_both_sides_and_change_nothing() {
    let mut session = decoder_session(2);
    session.step(&[chunk(1, &[7, 8])], Select::Last).unwrap();
    let long = [1; CONTEXT - 1];
    let positions = |positions| Chunk {
        sequence: 1,
        tokens: &[1, 2],
        positions: Some(positions),
    };
    for (bad, words) in [
        (chunk(1, &[]), "sequence 1: the prompt is empty"),
        (
            chunk(1, &long),
            "sequence 1: 17 tokens do not fit the context of 16",
        ),
        (
            chunk(1, &[3, 100]),
            "sequence 1: token 100 at position 3 is not in the vocabulary of 100",
        ),
        (
            chunk(3, &[1]),
            "sequence 3 does not exist: the session was made for 3",
        ),
        (positions(&[1]), "1 positions for 2 tokens"),
        (
            positions(&[1, 16]),
            "position 16 is out of range, the model has 0 to 15",
        ),
        (positions(&[-1, 1]), "position -1 is out of range"),
    ] {
        // Behind a chunk that could run.
        let error = session
            .step(&[chunk(0, &[5]), bad], Select::Last)
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
        assert_eq!([0, 1].map(|s| session.length(s).unwrap()), [0, 2]);
    }
    assert!(
        session
            .step(&[], Select::Last)
            .unwrap_err()
            .to_string()
            .contains("batch is empty")
    );
    assert!(
        session
            .truncate(9, 0)
            .unwrap_err()
            .to_string()
            .contains("sequence 9")
    );
    assert!(
        session
            .encode(&[])
            .unwrap_err()
            .to_string()
            .contains("logits: f32[L,4]")
    );
    assert_eq!(
        rows(&mut session, &[chunk(1, &[9])], Select::Last),
        [expected(&[7, 8, 9], 2)]
    );
    let mut encoder = encoder_session();
    let error = encoder
        .step(&[chunk(0, &[5])], Select::Last)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("TinyModel, which gives last_hidden_state: f32[T,4]"),
        "{error}"
    );
}

#[test]
fn tokens_taken_for_granted_count() {
    let mut session = decoder_session(1);
    session.step(&[chunk(0, &[1, 2])], Select::Last).unwrap();
    session.assume(5).unwrap();
    let lengths = |s: &Session| [0, 1].map(|i| s.length(i).unwrap());
    assert_eq!(lengths(&session), [5, 5]);
    session.step(&[chunk(1, &[3])], Select::Last).unwrap();
    assert_eq!(lengths(&session), [5, 6]);
    let refused = session.assume(session.context() + 1).unwrap_err();
    assert!(refused.to_string().contains("16"), "{refused}");
    assert_eq!(lengths(&session), [5, 6]);
    session.assume(0).unwrap();
    assert_eq!(lengths(&session), [0, 0]);
}

#[test]
fn launches_are_measured_where_asked() {
    let mut session = decoder_session(1);
    session.measure(true);
    session.step(&[chunk(0, &[1])], Select::Last).unwrap();
    let names: Vec<&str> = session.times().map(|(name, _)| name).collect();
    assert_eq!(names, ["store", "sum"]);
    assert!(session.times().all(|(_, time)| !time.is_zero()));
    session.measure(false);
    assert_eq!(session.times().count(), 0);
}

#[test]
fn options_beyond_the_model_are_refused() {
    let model = Model::from_bytes(artifact(&decoder())).unwrap();
    let plain = Options::default();
    for (options, words) in [
        (
            Options {
                context: Some(17),
                ..plain
            },
            "context is 17, this model allows 1 to 16",
        ),
        (
            Options {
                context: Some(0),
                ..plain
            },
            "context is 0",
        ),
        (
            Options {
                sequences: 0,
                ..plain
            },
            "sequences is 0",
        ),
        (
            Options {
                sequences: 5,
                ..plain
            },
            "sequences is 5, this model allows 1 to 4",
        ),
        (
            Options {
                threads: Some(0),
                ..plain
            },
            "threads is 0",
        ),
    ] {
        let error = Session::new(&model, options).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    }
    let options = Options {
        sequences: 8,
        context: Some(8),
        ..plain
    };
    let mut session = Session::new(&model, options).unwrap();
    assert!(session.step(&[chunk(7, &[1; 8])], Select::Last).is_ok());
    assert!(session.step(&[chunk(7, &[1])], Select::Last).is_err());
}

#[test]
fn generations_end_where_they_should() {
    let check = |max: usize, ignore: bool, script: &[u32], wanted: &[u32], finish: Finish| {
        let mut session = decoder_session(1);
        let mut script = script.iter().cycle();
        let mut generation = session
            .generate(2, &[1, 2], max, |_| Ok(*script.next().unwrap()))
            .ignore_eos(ignore);
        let tokens: Vec<u32> = generation.by_ref().map(Result::unwrap).collect();
        assert_eq!((&*tokens, generation.finish()), (wanted, Some(finish)));
        assert!(generation.next().is_none());
    };
    check(3, false, &[5], &[5; 3], Finish::Length);
    check(0, false, &[5], &[], Finish::Length);
    check(9, false, &[5, 6, EOS, 7], &[5, 6], Finish::Eos);
    check(4, true, &[5, 6, EOS, 7], &[5, 6, EOS, 7], Finish::Length);
    // The last token given out is not in the context yet.
    check(99, false, &[5], &[5; CONTEXT - 2 + 1], Finish::Context);
}

#[test]
fn generations_choose_from_the_logits_of_all_before() {
    let mut session = decoder_session(2);
    // The next token is half the sum of all so far.
    let half = |logits: &[f32]| Ok(logits[0] as u32);
    let generated = |session: &mut Session, prompt: &[u32]| -> Vec<u32> {
        session
            .generate(0, prompt, 3, half)
            .map(Result::unwrap)
            .collect()
    };
    assert_eq!(generated(&mut session, &[8, 8]), [8, 12, 18]);
    // The sequence goes on from the token that the session has not seen.
    assert_eq!(generated(&mut session, &[18]), [27, 40, 60]);
}

#[test]
fn sequences_that_grow_together_become_what_they_become_alone() {
    let prompts: [&[u32]; 3] = [&[8, 8], &[3], &[1, 2, 3, 4, 5]];
    let most = [3, 0, 5];
    let half = |logits: &[f32]| Ok(logits[0] as u32 / 2);
    let alone = |i: usize| -> (Vec<u32>, Option<Finish>) {
        let mut session = decoder_session(1);
        let mut generation = session.generate(i, prompts[i], most[i], half);
        let tokens = generation.by_ref().map(Result::unwrap).collect();
        (tokens, generation.finish())
    };
    let mut session = decoder_session(2);
    let mut together: Vec<Continuation<_>> = (0..3)
        .map(|i| Continuation::new(i, prompts[i], most[i], half))
        .collect();
    let mut found = vec![vec![]; 3];
    let mut took_part = vec![];
    loop {
        let count = session.advance(&mut together).unwrap();
        if count == 0 {
            break;
        }
        took_part.push(count);
        for (c, tokens) in together.iter().zip(&mut found) {
            tokens.extend(c.token().filter(|_| c.finish().is_none()));
        }
    }
    for (i, (c, tokens)) in together.iter().zip(found).enumerate() {
        assert_eq!((tokens, c.finish()), alone(i), "sequence {i}");
    }
    assert!(took_part.is_sorted_by(|a, b| a >= b), "{took_part:?}");
    // One that fails fails the step.
    let mut together = [
        Continuation::new(0, &[1], 5, half),
        Continuation::new(1, &[1000], 5, half),
    ];
    assert!(session.advance(&mut together).is_err());
    assert!(together.iter().all(|c| c.finish() == Some(Finish::Error)));
}

#[test]
fn a_failed_generation_says_so_once() {
    let mut session = decoder_session(1);
    let mut generation = session.generate(0, &[1], 5, |_| Ok(1000));
    assert_eq!(generation.next().unwrap().unwrap(), 1000);
    assert!(matches!(
        generation.next(),
        Some(Err(Error::Token {
            token: 1000,
            position: 1,
            ..
        }))
    ));
    assert!(generation.next().is_none());
    assert_eq!(generation.finish(), Some(Finish::Error));
    let error = session
        .generate(0, &[], 5, |_| Ok(1))
        .next()
        .unwrap()
        .unwrap_err()
        .to_string();
    assert!(error.contains("the prompt is empty"), "{error}");
}

#[test]
fn encoders_drop_padding_and_put_rows_back() {
    let mut session = encoder_session();
    let inputs = [
        EncoderInput {
            ids: &[1, 2, 3],
            ..Default::default()
        },
        EncoderInput {
            ids: &[9, 4, 9, 5],
            token_types: Some(&[0, 1, 0, 2]),
            mask: Some(&[0, 1, 0, 1]),
            ..Default::default()
        },
        EncoderInput {
            ids: &[6, 7],
            positions: Some(&[3, 1]),
            ..Default::default()
        },
    ];
    // Steps hold five tokens: the first two sequences together, the third alone.
    let outputs = session.encode(&inputs).unwrap();
    let zero = [0.0; WIDTH];
    let hidden = [
        vec![
            row(&[1, 2, 3], 0, 0, 5),
            row(&[1, 2, 3], 1, 0, 5),
            row(&[1, 2, 3], 2, 0, 5),
        ],
        vec![zero, row(&[4, 5], 1, 1, 5), zero, row(&[4, 5], 3, 2, 5)],
        vec![row(&[6, 7], 3, 0, 2), row(&[6, 7], 1, 0, 2)],
    ];
    let embedding = [
        row(&[1, 2, 3], 0, 3, 5),
        row(&[4, 5], 3, 5, 5),
        row(&[6, 7], 0, 2, 2),
    ];
    for (i, output) in outputs.iter().enumerate() {
        let found = output.get("last_hidden_state").unwrap();
        assert_eq!(found.data, hidden[i].as_flattened(), "sequence {i}");
        assert_eq!(found.row(1), hidden[i][1]);
        assert_eq!(
            output.get("embedding").unwrap().data,
            embedding[i],
            "sequence {i}"
        );
        assert_eq!(output.get("logits"), None);
        assert_eq!(output.iter().count(), 2);
    }
}

#[test]
fn encoders_number_positions_before_dropping() {
    let mut manifest = encoder();
    manifest.description.positions = Positions::NonPadding { pad: 1 };
    let model = Model::from_bytes(artifact(&manifest)).unwrap();
    let mut session = Session::new(&model, Options::default()).unwrap();
    let input = EncoderInput {
        ids: &[1, 5, 1, 6],
        mask: Some(&[0, 1, 1, 1]),
        ..Default::default()
    };
    let outputs = session.encode(&[input]).unwrap();
    let hidden = outputs[0].get("last_hidden_state").unwrap();
    let positions: Vec<f32> = hidden.rows().map(|row| row[1]).collect();
    assert_eq!(positions, [0.0, 2.0, 1.0, 3.0]);
}

#[test]
fn more_sequences_than_a_step_holds_take_several() {
    let mut session = encoder_session();
    let ids: Vec<[u32; 2]> = (0..9).map(|i| [i, 10 + i]).collect();
    let inputs: Vec<_> = ids
        .iter()
        .map(|ids| EncoderInput {
            ids,
            ..Default::default()
        })
        .collect();
    let outputs = session.encode(&inputs).unwrap();
    assert_eq!(outputs.len(), 9);
    for (ids, output) in ids.iter().zip(&outputs) {
        assert_eq!(
            output.get("embedding").unwrap().data[0],
            row(ids, 0, 0, 0)[0]
        );
    }
    assert!(session.encode(&[]).unwrap().is_empty());
}

#[test]
fn encoders_refuse_what_they_cannot_take() {
    let mut session = encoder_session();
    let plain = EncoderInput {
        ids: &[1, 2],
        ..Default::default()
    };
    for (bad, words) in [
        (EncoderInput::default(), "sequence 1: no tokens"),
        (
            EncoderInput {
                mask: Some(&[0, 0]),
                ..plain
            },
            "all 2 tokens are masked",
        ),
        (
            EncoderInput {
                mask: Some(&[1]),
                ..plain
            },
            "1 mask values for 2 tokens",
        ),
        (
            EncoderInput {
                token_types: Some(&[0; 3]),
                ..plain
            },
            "3 token types for 2 tokens",
        ),
        (
            EncoderInput {
                token_types: Some(&[0, 3]),
                ..plain
            },
            "token type 3 at index 1, the model has 3",
        ),
        (
            EncoderInput {
                positions: Some(&[0, 16]),
                ..plain
            },
            "position 16 is out of range",
        ),
        (
            EncoderInput {
                ids: &[1; 6],
                ..plain
            },
            "6 tokens do not fit the context of 5",
        ),
        (
            EncoderInput {
                ids: &[1, 100],
                ..plain
            },
            "token 100 at position 1",
        ),
    ] {
        let error = session.encode(&[plain, bad]).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
        assert!(session.encode(&[plain]).is_ok());
    }
}
