//! One step of any plan on given values: the door through which conformance tests compare a device with the
//! reference interpreter. Trusts its inputs, as the session does after checking them; therefore not for users.

use super::Room;
use crate::{Error, Model};
use half::{bf16, f16};
use ir::{DType, Tensor, artifact::Port};
use std::sync::Arc;

/// Outputs of a step and the states after it.
pub type Step = (Vec<Tensor>, Vec<Tensor>);

/// Runs one step. `dims` are the values of the plan's symbols; indices among the inputs must be in range.
///
/// # Errors
/// No memory for a step of this size.
pub fn evaluate(
    model: &Arc<Model>,
    threads: usize,
    dims: &[i64],
    inputs: &[Tensor],
    states: &[Tensor],
) -> Result<Step, Error> {
    let plan = &model.manifest().plan;
    let mut engine = model.engine(Room {
        threads,
        capacity: dims,
    })?;
    for (i, (tensor, port)) in inputs.iter().zip(&plan.inputs).enumerate() {
        // Buffers are words; a float's bits go in as they are.
        for (word, x) in engine.input(i).iter_mut().zip(&tensor.data) {
            *word = match port.ty.dtype {
                DType::I32 => *x as i32,
                _ => (*x as f32).to_bits().cast_signed(),
            };
        }
    }
    let at = |s: &ir::Sym| {
        let index = plan.symbols.iter().position(|p| p == s);
        index.map_or(0, |i| dims[i])
    };
    for (i, tensor) in states.iter().enumerate() {
        let mut state = engine.state(i)?;
        fill(&plan.states[i], tensor, &mut state);
        engine.set_state(i, &state)?;
    }
    engine.run(dims)?;
    let outputs = plan.outputs.iter().enumerate();
    let outputs = outputs
        .map(|(i, port)| tensor(port.ty.at(&at), engine.output(i)))
        .collect();
    let states = plan.states.iter().enumerate();
    let states = states
        .map(|(i, port)| {
            let shape = port.ty.at(&at);
            let held = held(port, &shape, &engine.state(i)?);
            Ok(tensor(shape, &held))
        })
        .collect::<Result<_, Error>>();
    Ok((outputs, states?))
}

/// Element `i` of a state.
fn take(dtype: DType, state: &[u8], i: usize) -> f32 {
    let bytes = &state[i * dtype.bytes()..][..dtype.bytes()];
    match *bytes {
        [a, b] if dtype == DType::F16 => f16::from_le_bytes([a, b]).to_f32(),
        [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        _ => unreachable!("states hold floats"),
    }
}

/// Makes `x`, which the type holds, element `i` of a state.
fn put(dtype: DType, state: &mut [u8], i: usize, x: f32) {
    let to = &mut state[i * dtype.bytes()..][..dtype.bytes()];
    match dtype {
        DType::F16 => to.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
        DType::BF16 => to.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
        _ => to.copy_from_slice(&x.to_le_bytes()),
    }
}

/// What a state holds.
fn held(port: &Port, shape: &[usize], state: &[u8]) -> Vec<f32> {
    let one = |[element, scale]: [usize; 2]| match port.layout.coded() {
        true => take(DType::F32, &state[scale..], 0) * f32::from(state[element].cast_signed()),
        false => take(port.ty.dtype, state, element),
    };
    places(port, shape).map(one).collect()
}

/// Makes a state hold the tensor's numbers; as integers, what those can say of them.
fn fill(port: &Port, tensor: &Tensor, state: &mut [u8]) {
    let dim = tensor.shape.last().copied().unwrap_or(1).max(1);
    for (i, [element, scale]) in places(port, &tensor.shape).enumerate() {
        let x = tensor.data[i] as f32;
        if !port.layout.coded() {
            put(port.ty.dtype, state, element, x);
            continue;
        }
        let row = &tensor.data[i / dim * dim..][..dim];
        let of_codes = row.iter().fold(0.0f32, |m, x| m.max(x.abs() as f32)) / 127.0;
        state[element] = ((x / of_codes).round_ties_even() as i8).cast_unsigned();
        put(DType::F32, &mut state[scale..], 0, of_codes);
    }
}

/// Where a state's elements lie, and in bytes the scales of those that are integers, in row-major order of their indices.
fn places(port: &Port, shape: &[usize]) -> impl Iterator<Item = [usize; 2]> + use<> {
    let layout = port.layout;
    // Only states of rank 3 lie in another order.
    let heads = match shape {
        [_, heads, dim] => [*heads, *dim],
        _ => [1, shape.iter().skip(1).product()],
    };
    let [row, dim] = [heads[0] * heads[1], heads[1]].map(|n| n.max(1));
    let count: usize = shape.iter().product();
    (0..count).map(move |i| {
        let [row, head, d] = [i / row, i % row / dim, i % dim];
        [
            layout.index(heads, [row, head, d]),
            layout.scale(heads, [row, head]),
        ]
    })
}

fn tensor(shape: Vec<usize>, data: &[f32]) -> Tensor {
    let len = shape.iter().product();
    Tensor::new(shape, data[..len].iter().map(|x| f64::from(*x)).collect())
}
