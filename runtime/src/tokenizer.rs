//! Text to token ids and back, over the `tokenizers` crate. Knows tokenizer.json; not the model that takes the ids.

mod encoding;
mod stop;
mod stream;

use serde::Deserialize;
use serde_json::Value;

pub use encoding::Encoding;
pub use stop::Stops;
pub use stream::Stream;

/// Longest tokenizer.json that is parsed, in bytes; the largest in use are near 40 MB.
const MAX_BYTES: usize = 256 << 20;

/// Why text or ids cannot be turned into each other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// tokenizer.json is not one.
    #[error(
        "tokenizer.json: {0}; download it again, or save it with the `tokenizers` library (`save_pretrained`)"
    )]
    Broken(String),
    /// The tokenizer refused a text.
    #[error("the tokenizer cannot encode this text of {bytes} bytes: {reason}")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// What the tokenizer says.
        reason: String,
    },
    /// The tokenizer refused token ids.
    #[error("the tokenizer cannot decode {tokens} tokens: {reason}")]
    Decode {
        /// Number of ids.
        tokens: usize,
        /// What the tokenizer says.
        reason: String,
    },
    /// The model has fewer token ids than the tokenizer makes.
    #[error(
        "tokenizer.json makes token ids up to {highest}, but the model's vocabulary ends at {}: they belong to different models",
        .vocabulary.saturating_sub(1)
    )]
    Vocabulary {
        /// The highest id of the tokenizer.
        highest: u32,
        /// Number of ids that the model has.
        vocabulary: usize,
    },
    /// The special tokens alone are longer than a text may be.
    #[error("the text's {special} special tokens do not fit in {max} tokens")]
    NoRoom {
        /// Number of special tokens.
        special: usize,
        /// The limit asked for.
        max: usize,
    },
}

/// The parts of tokenizer.json on whose damage the crate panics instead of reporting it. Parsing them on their own first
/// finds all that is not JSON; what is JSON but no tokenizer, and panics still, is caught.
#[derive(Deserialize)]
struct Parts {
    #[serde(rename = "decoder")]
    _decoder: Option<Value>,
    #[serde(rename = "normalizer")]
    _normalizer: Option<Value>,
    #[serde(rename = "pre_tokenizer")]
    _pre_tokenizer: Option<Value>,
    #[serde(rename = "post_processor")]
    _post_processor: Option<Value>,
}

/// A tokenizer; immutable and shared between threads.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    highest: u32,
}

impl Tokenizer {
    /// Parses the content of tokenizer.json. Truncation and padding that it asks for are not done: both are up to the
    /// caller ([`Encoding::truncate`]).
    ///
    /// # Errors
    /// It is no tokenizer.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TokenizerError> {
        if json.len() > MAX_BYTES {
            let problem = format!("is {} bytes long; at most {MAX_BYTES} are read", json.len());
            return Err(TokenizerError::Broken(problem));
        }
        let broken =
            |e: tokenizers::Error| TokenizerError::Broken(format!("is not a valid tokenizer: {e}"));
        serde_json::from_slice::<Parts>(json).map_err(|e| broken(e.into()))?;
        let parse = || {
            let mut tokenizer = tokenizers::Tokenizer::from_bytes(json)?;
            tokenizer.with_truncation(None)?.with_padding(None);
            // A template may ask for special tokens that it does not define.
            tokenizer.encode("", true)?;
            tokenizer.encode(("", ""), true)?;
            Ok(tokenizer)
        };
        let panicked =
            |_| TokenizerError::Broken("is not a valid tokenizer: reading it failed".into());
        let inner = std::panic::catch_unwind(parse)
            .map_err(panicked)?
            .map_err(broken)?;
        let highest = inner.get_vocab(true).into_values().max();
        let highest =
            highest.ok_or_else(|| TokenizerError::Broken("has an empty vocabulary".into()))?;
        Ok(Self { inner, highest })
    }

    /// Checks that a model with `vocabulary` token ids understands every id that this tokenizer makes.
    ///
    /// # Errors
    /// It does not.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<(), TokenizerError> {
        if (self.highest as usize) < vocabulary {
            return Ok(());
        }
        Err(TokenizerError::Vocabulary {
            highest: self.highest,
            vocabulary,
        })
    }

    /// Number of token ids, counting gaps: one more than the highest.
    pub fn vocabulary(&self) -> usize {
        self.highest as usize + 1
    }

    /// The id of a token, such as `[MASK]`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, in the vocabulary's own spelling.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether the id is of a special token, such as the end of text.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner
            .get_added_vocabulary()
            .simple_id_to_token(id)
            .is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// The tokens of `text`, with those that the template adds where `add_special`.
    ///
    /// # Errors
    /// The tokenizer fails on this text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Encoding, TokenizerError> {
        self.encode_input(text, &[text], add_special)
    }

    /// The tokens of two texts together, as in `[CLS] first [SEP] second [SEP]`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_pair(
        &self,
        first: &str,
        second: &str,
        add_special: bool,
    ) -> Result<Encoding, TokenizerError> {
        self.encode_input((first, second), &[first, second], add_special)
    }

    fn encode_input<'s>(
        &self,
        input: impl Into<tokenizers::EncodeInput<'s>>,
        texts: &[&str],
        add_special: bool,
    ) -> Result<Encoding, TokenizerError> {
        let pieces = self
            .inner
            .encode(input, add_special)
            .map_err(|e| TokenizerError::Encode {
                bytes: texts.iter().map(|text| text.len()).sum(),
                reason: e.to_string(),
            })?;
        Ok(Encoding::new(&pieces, texts))
    }

    /// The text of `ids`, without special tokens where `skip_special`. Ids that the tokenizer does not have, such as
    /// those that pad a model's vocabulary, stand for nothing.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let failed = |e: tokenizers::Error| TokenizerError::Decode {
            tokens: ids.len(),
            reason: e.to_string(),
        };
        self.inner.decode(ids, skip_special).map_err(failed)
    }

    /// Decodes token by token.
    pub fn stream(&self, skip_special: bool) -> Stream<'_> {
        Stream::new(self, skip_special)
    }

    /// Whether the token is one byte of a character, in the spelling of SentencePiece's byte fallback: `<0xE4>`.
    fn is_byte(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| {
            token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
        })
    }
}
