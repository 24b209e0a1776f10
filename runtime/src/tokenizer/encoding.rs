//! The tokens of a text with where they come from, and shortening them. Knows offsets; not vocabularies.

use std::ops::Range;

use tokenizers::tokenizer::Encoding as Pieces;

use super::TokenizerError;

/// The tokens of a text, or of a pair of texts. All fields have one entry a token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// 0 for tokens of the first text and 1 for those of the second, as the tokenizer's template has it.
    pub type_ids: Vec<u32>,
    /// Whether the token was added by the template, such as `[CLS]`.
    pub special: Vec<bool>,
    /// Which of the texts the token comes from: 0 or 1; `None` where special.
    pub text: Vec<Option<usize>>,
    /// Bytes of that text that the token stands for; empty where special.
    pub bytes: Vec<Range<usize>>,
    /// The same in characters (Unicode scalar values, as Python counts).
    pub chars: Vec<Range<usize>>,
}

impl Encoding {
    pub(super) fn new(pieces: &Pieces, texts: &[&str]) -> Self {
        let counts: Vec<_> = texts.iter().map(|text| CharCount::new(text)).collect();
        let mut encoding = Self {
            ids: pieces.get_ids().to_vec(),
            type_ids: pieces.get_type_ids().to_vec(),
            special: pieces
                .get_special_tokens_mask()
                .iter()
                .map(|&mask| mask != 0)
                .collect(),
            ..Self::default()
        };
        let sequences = pieces.get_sequence_ids();
        for ((&(begin, end), &special), sequence) in pieces
            .get_offsets()
            .iter()
            .zip(&encoding.special)
            .zip(sequences)
        {
            // Without a template the crate does not say which text a token of a single text comes from.
            let text = if special {
                None
            } else {
                Some(sequence.unwrap_or(0))
            };
            let count = text.and_then(|text| counts.get(text));
            encoding.text.push(text);
            encoding.bytes.push(if special { 0..0 } else { begin..end });
            encoding
                .chars
                .push(count.map_or(0..0, |count| count.before(begin)..count.before(end)));
        }
        encoding
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Shortens to at most `max` tokens by dropping the last tokens of the text; of a pair, from the longer one first.
    /// Special tokens stay. This is `truncation="longest_first"` of the reference implementation.
    ///
    /// # Errors
    /// The special tokens alone are more than `max`.
    pub fn truncate(&mut self, max: usize) -> Result<(), TokenizerError> {
        if self.len() <= max {
            return Ok(());
        }
        let count = |wanted| self.text.iter().filter(|text| **text == wanted).count();
        let special = count(None);
        let room = max
            .checked_sub(special)
            .ok_or(TokenizerError::NoRoom { special, max })?;
        let (first, second) = (count(Some(0)), count(Some(1)));
        // The shorter text stays whole if it takes at most half of the room; an odd token goes to the longer one.
        let shorter = first.min(second).min(room / 2);
        let keep = if first <= second {
            [shorter, room - shorter]
        } else {
            [room - shorter, shorter]
        };
        let mut seen = [0, 0];
        let kept: Vec<bool> = self
            .text
            .iter()
            .map(|text| {
                let Some(text) = *text else { return true };
                seen[text] += 1;
                seen[text] <= keep[text]
            })
            .collect();
        retain(&mut self.ids, &kept);
        retain(&mut self.type_ids, &kept);
        retain(&mut self.special, &kept);
        retain(&mut self.text, &kept);
        retain(&mut self.bytes, &kept);
        retain(&mut self.chars, &kept);
        Ok(())
    }
}

fn retain<T>(values: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    values.retain(|_| kept.next().copied().unwrap_or(false));
}

/// Number of characters before a byte of a text, without walking the text from its start each time.
struct CharCount<'a> {
    text: &'a [u8],
    /// Characters that begin before byte `i * STEP`.
    marks: Vec<usize>,
}

impl<'a> CharCount<'a> {
    const STEP: usize = 64;

    fn new(text: &'a str) -> Self {
        let text = text.as_bytes();
        let mut before = 0;
        let marks = text.chunks(Self::STEP).map(|chunk| {
            let mark = before;
            before += begins(chunk);
            mark
        });
        Self {
            marks: marks.collect(),
            text,
        }
    }

    fn before(&self, byte: usize) -> usize {
        let byte = byte.min(self.text.len());
        match self.marks.get(byte / Self::STEP) {
            Some(mark) => mark + begins(&self.text[byte / Self::STEP * Self::STEP..byte]),
            // The end of a text that fills its last chunk.
            None => self
                .marks
                .last()
                .map_or(0, |mark| mark + begins(&self.text[byte - Self::STEP..byte])),
        }
    }
}

/// Characters that begin in these bytes of UTF-8: all bytes but the continuing ones.
fn begins(utf8: &[u8]) -> usize {
    utf8.iter().filter(|&&byte| byte & 0xC0 != 0x80).count()
}
