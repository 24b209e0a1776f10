//! Running an encoder: whole sequences in, packed without their padding, and each output back where its token was.

use crate::{
    Error,
    batch::Token,
    session::{Per, Session},
};
use ir::{Name, Positions, Task};

/// A sequence for an encoder. What is `None` has a default; what is given is as long as `ids`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EncoderInput<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Segment of each token; by default 0.
    pub token_types: Option<&'a [u32]>,
    /// Position of each token as the model counts; by default as [`Positions`] says.
    pub positions: Option<&'a [i32]>,
    /// Pixels of each token's patch of an image, one after another, for models that see images.
    pub patches: Option<&'a [f32]>,
    /// 0 where a token is padding: it is not computed, and no token attends to it. By default none is. What is pooled
    /// is of the tokens that are left: the first of them, where the reference implementation takes what is at position 0
    /// even if that is padding. Padding on the left still counts as positions where [`Positions::Index`] says so.
    pub mask: Option<&'a [u8]>,
}

/// One output of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Row-major: a row for each token (zeros where it was masked), or one for the sequence.
    pub data: Vec<f32>,
    /// Elements of a row.
    pub width: usize,
}

impl Rows {
    /// Row `i`.
    ///
    /// # Panics
    /// Beyond the last row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.width..][..self.width]
    }

    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.width.max(1))
    }
}

/// What an encoder says about one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs(Vec<(Name, Rows)>);

impl Outputs {
    /// The output called `name`: `logits`, `last_hidden_state`, `pooler_output` or `embedding`, where the model has it.
    pub fn get(&self, name: &str) -> Option<&Rows> {
        self.0
            .iter()
            .find(|(n, _)| &**n == name)
            .map(|(_, rows)| rows)
    }

    /// All outputs in the model's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rows)> {
        self.0.iter().map(|(name, rows)| (&**name, rows))
    }
}

impl Session {
    /// Runs whole sequences through an encoder. A sequence's result does not depend on the others.
    ///
    /// # Errors
    /// A sequence without tokens or longer than the model allows, inputs of different lengths, ids, token types or
    /// positions out of range, or a model that is no encoder. Then nothing has run.
    pub fn encode(&mut self, inputs: &[EncoderInput<'_>]) -> Result<Vec<Outputs>, Error> {
        if self.model().description().task == Task::CausalLm {
            return Err(self.refuse("an encoding"));
        }
        let sequences = inputs.iter().enumerate();
        let sequences: Vec<Vec<Kept>> = sequences
            .map(|(i, s)| self.keep(i, s))
            .collect::<Result<_, _>>()?;
        let blank = |input: &EncoderInput<'_>| {
            let rows = self.outputs.iter().map(|output| {
                let rows = if output.per == Per::Sequence {
                    1
                } else {
                    input.ids.len()
                };
                (
                    output.name.clone(),
                    Rows {
                        data: vec![0.0; rows * output.width],
                        width: output.width,
                    },
                )
            });
            Outputs(rows.collect())
        };
        let mut results: Vec<Outputs> = inputs.iter().map(blank).collect();

        self.begin();
        let mut first = 0;
        for (i, tokens) in sequences.iter().enumerate() {
            if !self.batch.fits(tokens.len(), tokens.len(), 1) {
                self.run()?;
                self.scatter(&sequences[first..i], &mut results[first..i]);
                self.batch.clear();
                first = i;
            }
            let start = self.batch.tokens();
            let end = start + tokens.len();
            self.batch.begin();
            for (row, token) in (start..end).zip(tokens) {
                self.batch.push(Token {
                    id: token.id,
                    position: token.position,
                    token_type: token.token_type,
                    lo: start as i32,
                    hi: end as i32,
                    row: row as i32,
                    length: tokens.len() as i32,
                    selected: true,
                });
                if let Some(patches) = inputs[i].patches {
                    let width = patches.len() / inputs[i].ids.len();
                    self.batch.patch(&patches[token.index * width..][..width]);
                }
            }
        }
        if self.batch.tokens() > 0 {
            self.run()?;
            self.scatter(&sequences[first..], &mut results[first..]);
        }
        Ok(results)
    }

    /// Runs images through an encoder that sees them. Each is as the model wants it, `[channels, height, width]` row-major:
    /// resized and normalised.
    ///
    /// # Errors
    /// An image of another size, or a model that sees none.
    pub fn encode_images(&mut self, images: &[&[f32]]) -> Result<Vec<Outputs>, Error> {
        let Some(form) = self.model().description().image.clone() else {
            return Err(self.refuse("what an image shows"));
        };
        let wanted = form.channels * form.height * form.width;
        let mut patches = vec![];
        for (sequence, pixels) in images.iter().enumerate() {
            if pixels.len() != wanted {
                let why = format!("an image of {} numbers, wanted are {wanted}", pixels.len());
                return Err(Error::Input { sequence, why });
            }
            patches.push(cut(pixels, &form));
        }
        let ids = vec![0; form.patches() + 1];
        let input = |patches| EncoderInput {
            ids: &ids,
            patches: Some(patches),
            ..EncoderInput::default()
        };
        let inputs: Vec<EncoderInput<'_>> = patches.iter().map(|p| input(&p[..])).collect();
        self.encode(&inputs)
    }

    /// The tokens of a sequence that are not masked.
    fn keep(&self, sequence: usize, input: &EncoderInput<'_>) -> Result<Vec<Kept>, Error> {
        let description = self.model().description();
        let wrong = |why| Error::Input { sequence, why };
        let count = input.ids.len();
        for (name, len) in [
            ("token types", input.token_types.map(<[_]>::len)),
            ("positions", input.positions.map(<[_]>::len)),
            ("mask values", input.mask.map(<[_]>::len)),
        ] {
            if let Some(len) = len.filter(|len| *len != count) {
                return Err(wrong(format!("{len} {name} for {count} tokens")));
            }
        }
        let numbers = description.image.as_ref().map_or(0, ir::Image::numbers);
        let pixels = input.patches.map_or(0, <[_]>::len);
        if pixels != numbers * count {
            let why = format!("{pixels} pixels for {count} tokens of {numbers} each");
            return Err(wrong(why));
        }
        let limits = self.batch.limits();
        let context = self.context().min(limits.tokens).min(limits.selected);
        let length = match input.mask {
            Some(mask) => mask.iter().filter(|m| **m != 0).count(),
            None => count,
        };
        // Before positions are looked at, which such a sequence has too many of.
        match length {
            0 if count == 0 => return Err(wrong("no tokens; give at least one".into())),
            0 => {
                return Err(wrong(format!(
                    "all {count} tokens are masked; give at least one that is not"
                )));
            }
            length if length > context => {
                return Err(Error::Context {
                    sequence,
                    length,
                    context,
                });
            }
            _ => {}
        }
        let mut numbers = Numbers {
            rule: description.positions,
            seen: 0,
        };
        let mut kept = Vec::with_capacity(length);
        for (index, id) in input.ids.iter().enumerate() {
            self.check_token(sequence, index, *id)?;
            let masked = input.mask.is_some_and(|m| m[index] == 0);
            let number = numbers.next(index, *id as i32, masked);
            if masked {
                continue;
            }
            let position = input.positions.map_or(number, |p| p[index]);
            self.check_position(sequence, position)?;
            let token_type = input.token_types.map_or(0, |t| t[index]);
            let types = description.token_types;
            if token_type as usize >= types.max(1) {
                let why =
                    format!("token type {token_type} at index {index}, the model has {types}");
                return Err(wrong(why));
            }
            kept.push(Kept {
                index,
                id: *id as i32,
                position,
                token_type: token_type as i32,
            });
        }
        Ok(kept)
    }

    /// Moves the outputs of a run of `sequences` to `results`.
    fn scatter(&self, sequences: &[Vec<Kept>], results: &mut [Outputs]) {
        for (i, output) in self.outputs.iter().enumerate() {
            let mut rows = self.output(i).chunks_exact(output.width.max(1));
            for (tokens, result) in sequences.iter().zip(&mut *results) {
                let to = &mut result.0[i].1.data;
                let places = match output.per {
                    Per::Sequence => &[0][..],
                    Per::Token | Per::Selected => {
                        &tokens.iter().map(|t| t.index).collect::<Vec<_>>()
                    }
                };
                for (place, row) in places.iter().zip(&mut rows) {
                    to[place * output.width..][..output.width].copy_from_slice(row);
                }
            }
        }
    }
}

/// The patches of an image, row after row, behind the zeros of the token that stands for the whole.
fn cut(pixels: &[f32], form: &ir::Image) -> Vec<f32> {
    let side = form.patch;
    let mut out = vec![0.0; form.numbers()];
    out.reserve(form.numbers() * form.patches());
    for top in (0..form.height).step_by(side) {
        for left in (0..form.width).step_by(side) {
            for channel in pixels.chunks_exact(form.height * form.width) {
                for row in channel.chunks_exact(form.width).skip(top).take(side) {
                    out.extend_from_slice(&row[left..left + side]);
                }
            }
        }
    }
    out
}

/// A token that takes part.
struct Kept {
    /// In its sequence as given.
    index: usize,
    id: i32,
    position: i32,
    token_type: i32,
}

/// Numbers the tokens of a sequence, padding included.
struct Numbers {
    rule: Positions,
    /// Tokens so far that count.
    seen: i32,
}

impl Numbers {
    fn next(&mut self, index: usize, id: i32, masked: bool) -> i32 {
        match self.rule {
            Positions::Index => index as i32,
            Positions::Unmasked => {
                self.seen += i32::from(!masked);
                (self.seen - 1).max(0)
            }
            Positions::NonPadding { pad } if id == pad => pad,
            Positions::NonPadding { pad } => {
                self.seen += 1;
                pad + self.seen
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_rule() {
        let check = |rule, ids: &[i32], masked: &[usize], expected: &[i32]| {
            let mut numbers = Numbers { rule, seen: 0 };
            let found: Vec<i32> = ids
                .iter()
                .enumerate()
                .map(|(i, id)| numbers.next(i, *id, masked.contains(&i)))
                .collect();
            assert_eq!(found, expected, "{rule:?} of {ids:?}");
        };
        check(Positions::Index, &[5, 1, 1, 7], &[1], &[0, 1, 2, 3]);
        check(Positions::Unmasked, &[5, 1, 1, 7], &[0, 2], &[0, 0, 0, 1]);
        // As create_position_ids_from_input_ids of the reference: cumsum(ids != pad) * (ids != pad) + pad.
        let roberta = Positions::NonPadding { pad: 1 };
        check(roberta, &[0, 5, 6, 2, 1, 1], &[], &[2, 3, 4, 5, 1, 1]);
        check(roberta, &[1, 1, 0, 5, 1, 2], &[], &[1, 1, 2, 3, 1, 4]);
        check(
            Positions::NonPadding { pad: 0 },
            &[3, 0, 4],
            &[],
            &[1, 0, 2],
        );
    }
}
