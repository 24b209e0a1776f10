//! Runs a model on a reference's inputs. Decoders get each row as a sequence of its own, encoders each row; padding is
//! left out of both. Knows no files, and not what outputs should be.

use super::{Error, Expected, Reference, argmax, hidden::HiddenStates};
use ir::{Positions, Task};
use runtime::{Chunk, EncoderInput, Model, Options, Rows, Select, Session, Trace};
use std::sync::Arc;

/// What a model gave.
pub(super) struct Found {
    /// For each of the outputs asked for, its rows in the reference's layout.
    pub outputs: Vec<Vec<f32>>,
    /// Continuations.
    pub greedy: Vec<Vec<u32>>,
}

/// Runs `model` on all inputs of `reference`, for these of its outputs and its continuations. `hidden` tells where
/// hidden states among them are found. `progress` is told `(rows done, of)`.
///
/// # Errors
/// Inputs that the model does not take, or an output that it does not give.
pub(super) fn forward(
    model: &Arc<Model>,
    reference: &Reference,
    outputs: &[&Expected],
    hidden: Option<&HiddenStates>,
    threads: Option<usize>,
    progress: &dyn Fn(usize, usize),
) -> Result<Found, Error> {
    let more = reference.greedy.as_ref().map_or(0, |g| g[0].len());
    if more > 0 && model.description().task != Task::CausalLm {
        return Err(lacks("greedy", "no continuations"));
    }
    let mut session = session(model, reference.length + more, threads)?;
    session.trace(hidden.is_some());
    let mut found = Found {
        outputs: vec![vec![]; outputs.len()],
        greedy: vec![],
    };
    for sequence in 0..reference.sequences {
        progress(sequence, reference.sequences);
        if !outputs.is_empty() {
            let given = run(&mut session, reference, sequence, reference.length, &[])?;
            for (expected, to) in outputs.iter().zip(&mut found.outputs) {
                let rows = match (expected.hidden_state(), hidden) {
                    (Some(n), Some(hidden)) => {
                        let kept = kept(reference, sequence, reference.length);
                        let packed = hidden.rows(n, session.traces());
                        spread(&packed, hidden.width, &kept, reference.length)
                    }
                    _ => named(&given, &expected.name)?,
                };
                fits(expected, &rows, reference)?;
                to.extend(rows.data);
            }
        }
        if more > 0 {
            session.reset(0)?;
            let kept = kept(reference, sequence, reference.length);
            let prompt = tokens(reference, sequence, &kept);
            let tokens = session
                .generate(0, &prompt, more, |row| Ok(argmax(row) as u32))
                .ignore_eos(true);
            found.greedy.push(tokens.collect::<Result<_, _>>()?);
        }
    }
    progress(reference.sequences, reference.sequences);
    Ok(found)
}

/// Runs the first `columns` of a row layer by layer; for a decoder with `more` tokens after them, where there are such.
///
/// # Errors
/// Inputs that the model does not take.
pub(super) fn traced(
    model: &Arc<Model>,
    reference: &Reference,
    (sequence, columns): (usize, usize),
    more: &[u32],
    threads: Option<usize>,
) -> Result<Vec<Trace>, Error> {
    let mut session = session(model, columns + more.len(), threads)?;
    session.trace(true);
    run(&mut session, reference, sequence, columns, more)?;
    Ok(session.traces().to_vec())
}

fn session(model: &Arc<Model>, tokens: usize, threads: Option<usize>) -> Result<Session, Error> {
    let description = model.description();
    let options = Options {
        threads,
        // An encoder keeps nothing.
        context: (description.task == Task::CausalLm).then_some(tokens.min(description.context)),
        ..Options::default()
    };
    Ok(Session::new(model, options)?)
}

/// Every output of one row, in the row's layout: where the row is padded there are zeros.
fn run(
    session: &mut Session,
    reference: &Reference,
    sequence: usize,
    columns: usize,
    more: &[u32],
) -> Result<Vec<(String, Rows)>, Error> {
    if let Some(pixels) = &reference.pixels {
        let size = pixels.len() / reference.sequences;
        let image = &pixels[sequence * size..][..size];
        let outputs = session.encode_images(&[image])?.swap_remove(0);
        let outputs = outputs.iter();
        return Ok(outputs
            .map(|(name, rows)| (name.into(), rows.clone()))
            .collect());
    }
    let first = sequence * reference.length;
    let range = first..first + columns;
    if session.model().description().task != Task::CausalLm {
        let input = EncoderInput {
            ids: &reference.ids[range.clone()],
            token_types: reference.token_types.as_ref().map(|t| &t[range.clone()]),
            positions: reference.positions.as_ref().map(|p| &p[range.clone()]),
            mask: reference.mask.as_ref().map(|m| &m[range.clone()]),
            ..EncoderInput::default()
        };
        let outputs = session.encode(&[input])?.swap_remove(0);
        let outputs = outputs.iter();
        return Ok(outputs
            .map(|(name, rows)| (name.into(), rows.clone()))
            .collect());
    }
    let kept = kept(reference, sequence, columns);
    let mut ids = tokens(reference, sequence, &kept);
    ids.extend(more);
    // Without positions the reference counts from the row's start, padding included, unless the model counts without;
    // continuations go without padding.
    let unmasked = session.model().description().positions == Positions::Unmasked;
    let position = |(index, i): (usize, &usize)| match &reference.positions {
        Some(given) => given[first + i],
        None if unmasked => index as i32,
        None => *i as i32,
    };
    let positions: Vec<i32> = kept.iter().enumerate().map(position).collect();
    session.reset(0)?;
    let chunk = Chunk {
        sequence: 0,
        tokens: &ids,
        positions: more.is_empty().then_some(&positions),
    };
    let logits = session.step(&[chunk], Select::All)?;
    let rows = spread(logits.data, logits.vocabulary, &kept, columns);
    Ok(vec![("logits".into(), rows)])
}

/// The columns of a row, among the first so many, that are no padding.
pub(super) fn kept(reference: &Reference, sequence: usize, columns: usize) -> Vec<usize> {
    let is_kept = |c: &usize| reference.is_kept(sequence * reference.length + c);
    (0..columns).filter(is_kept).collect()
}

fn tokens(reference: &Reference, sequence: usize, kept: &[usize]) -> Vec<u32> {
    let row = &reference.ids[sequence * reference.length..];
    kept.iter().map(|c| row[*c]).collect()
}

/// Puts packed rows of `width` elements back to their columns.
fn spread(packed: &[f32], width: usize, kept: &[usize], columns: usize) -> Rows {
    let mut data = vec![0.0; columns * width];
    for (column, row) in kept.iter().zip(packed.chunks_exact(width.max(1))) {
        data[column * width..][..width].copy_from_slice(row);
    }
    Rows { data, width }
}

fn named(outputs: &[(String, Rows)], name: &str) -> Result<Rows, Error> {
    let found = outputs.iter().find(|(n, _)| n == name);
    found.map(|(_, rows)| rows.clone()).ok_or_else(|| {
        let has: Vec<&str> = outputs.iter().map(|(name, _)| &**name).collect();
        lacks(name, &has.join(", "))
    })
}

/// The error for an output that a model does not have.
pub(super) fn lacks(wanted: &str, has: &str) -> Error {
    Error::Mismatch(format!(
        "the reference has `{wanted}`, this model gives {has}; compare with a reference made from the same model"
    ))
}

/// Refuses rows of one sequence that are not of the reference's shape.
fn fits(expected: &Expected, rows: &Rows, reference: &Reference) -> Result<(), Error> {
    let name = &expected.name;
    let wanted = expected.data.len() / reference.sequences;
    if expected.width != rows.width {
        let (has, wanted) = (rows.width, expected.width);
        return Err(Error::Mismatch(format!(
            "rows of `{name}` have {has} elements, those of the reference {wanted}; compare with a reference made \
             from the same model"
        )));
    }
    if rows.data.len() != wanted {
        let has = rows.data.len();
        return Err(Error::Mismatch(format!(
            "the model gives {has} elements of `{name}` a sequence, the reference has {wanted}"
        )));
    }
    Ok(())
}
