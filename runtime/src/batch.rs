//! The inputs of one step: tokens of several sequences one after another, and for each where its key goes and which
//! keys it sees. Knows the names of [`feed`]; knows neither memory nor what is computed.

use ir::feed;

/// Name of each input that a session feeds, and the symbol that counts its elements.
const FEEDS: [(&str, &str); 11] = [
    (feed::TOKENS, feed::T),
    (feed::POSITIONS, feed::T),
    (feed::TOKEN_TYPES, feed::T),
    (feed::LO, feed::T),
    (feed::HI, feed::T),
    (feed::ROWS, feed::T),
    (feed::LENGTHS, feed::T),
    (feed::SELECT, feed::L),
    (feed::STARTS, feed::B),
    (feed::ENDS, feed::B),
    (feed::PATCHES, feed::T),
];

/// One of the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Feed(usize);

const SELECT: usize = 7;
const STARTS: usize = 8;
const ENDS: usize = 9;
const PATCHES: usize = 10;

impl Feed {
    /// The input called `name`, if it is one of `symbol` elements.
    pub fn named(name: &str, symbol: &str) -> Option<Feed> {
        FEEDS.iter().position(|f| *f == (name, symbol)).map(Feed)
    }

    /// For messages: every input, as a plan would declare it.
    pub fn known() -> String {
        FEEDS
            .map(|(name, symbol)| match name {
                feed::PATCHES => format!("{name}: f32[{symbol}, n]"),
                _ => format!("{name}: i32[{symbol}]"),
            })
            .join(", ")
    }
}

/// How much a step may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub tokens: usize,
    pub selected: usize,
    pub sequences: usize,
}

/// A token of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub id: i32,
    /// As the model counts.
    pub position: i32,
    pub token_type: i32,
    /// First key row it attends to.
    pub lo: i32,
    /// One past the last.
    pub hi: i32,
    /// Where its own key goes.
    pub row: i32,
    /// Tokens of its sequence, with all that come at once.
    pub length: i32,
    /// Whether its output is wanted.
    pub selected: bool,
}

/// See the module's text. Allocates when made, not when filled.
#[derive(Debug)]
pub(crate) struct Batch {
    limits: Limits,
    columns: [Vec<i32>; FEEDS.len()],
}

impl Batch {
    /// An empty one.
    pub fn new(limits: Limits) -> Batch {
        let capacity = |symbol| match symbol {
            feed::T => limits.tokens,
            feed::L => limits.selected.min(limits.tokens),
            _ => limits.sequences.min(limits.tokens),
        };
        Batch {
            limits,
            columns: FEEDS.map(|(_, symbol)| Vec::with_capacity(capacity(symbol))),
        }
    }

    /// As given.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The input's values.
    pub fn column(&self, feed: Feed) -> &[i32] {
        &self.columns[feed.0]
    }

    /// Tokens in it.
    pub fn tokens(&self) -> usize {
        self.columns[0].len()
    }

    /// Tokens whose outputs are wanted.
    pub fn selected(&self) -> usize {
        self.columns[SELECT].len()
    }

    /// Sequences in it.
    pub fn sequences(&self) -> usize {
        self.columns[STARTS].len()
    }

    /// Whether so much more fits.
    pub fn fits(&self, tokens: usize, selected: usize, sequences: usize) -> bool {
        self.tokens() + tokens <= self.limits.tokens
            && self.selected() + selected <= self.limits.selected
            && self.sequences() + sequences <= self.limits.sequences
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.columns.iter_mut().for_each(Vec::clear);
    }

    /// Starts a sequence, or the part of it that is in this step.
    pub fn begin(&mut self) {
        let at = self.tokens() as i32;
        self.columns[STARTS].push(at);
        self.columns[ENDS].push(at);
    }

    /// Gives the token that was added last its patch of an image.
    pub fn patch(&mut self, pixels: &[f32]) {
        self.columns[PATCHES].extend(pixels.iter().map(|x| x.to_bits() as i32));
    }

    /// Adds a token to the sequence begun last.
    pub fn push(&mut self, t: Token) {
        let at = self.tokens() as i32;
        let values = [t.id, t.position, t.token_type, t.lo, t.hi, t.row, t.length];
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push(value);
        }
        if t.selected {
            self.columns[SELECT].push(at);
        }
        if let Some(end) = self.columns[ENDS].last_mut() {
            *end = at + 1;
        }
    }
}
