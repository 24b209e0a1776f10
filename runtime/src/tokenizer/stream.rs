//! Decoding token by token. Knows that what a token stands for depends on its neighbours; not how.

use super::{Tokenizer, TokenizerError};

/// Decodes tokens as they come. What it yields, put together, is the decoded text of all of them; it never yields part
/// of a character, but holds it back until the rest comes.
///
/// It decodes the last few tokens again each time, since what a token stands for may depend on those before it: a
/// space is dropped at the start of a text, a character may be spread over several tokens.
#[derive(Debug, Clone)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The tokens of the last text that was yielded, then those whose text is held back.
    ids: Vec<u32>,
    /// Number of the former.
    context: usize,
    /// Bytes that the former decode to, when nothing comes before them.
    prefix: usize,
}

impl<'a> Stream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            ids: Vec::new(),
            context: 0,
            prefix: 0,
        }
    }

    /// Takes the next token and returns the text that is now certain; often none.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        if self.skip_special && self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        self.ids.push(id);
        // A byte makes a run of bytes that is a character or not only once the run has ended.
        if self.tokenizer.is_byte(id) {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        let new = text.get(self.prefix..).unwrap_or_default();
        if new.is_empty() || new.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let yielded = new.to_string();
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        self.prefix = self.tokenizer.decode(&self.ids, self.skip_special)?.len();
        Ok(yielded)
    }

    /// The text that was still held back, such as an unfinished character; the stream can be used for another text
    /// afterwards.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        let rest = text.get(self.prefix..).unwrap_or_default().to_string();
        self.ids.clear();
        (self.context, self.prefix) = (0, 0);
        Ok(rest)
    }
}
