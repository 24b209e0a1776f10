//! Tokenizers: ids and offsets equal those of the reference implementation (Python `tokenizers` 0.23), streams yield the
//! text of the whole, and a broken tokenizer.json is an error.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::Range;
use std::path::Path;

use proptest::prelude::*;
use runtime::tokenizer::{Encoding, Tokenizer};
use serde_json::{Value, json};

fn added(tokens: &[(u32, &str)]) -> Value {
    let token = |(id, content): &(u32, &str)| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    tokens.iter().map(token).collect()
}

/// BERT's tokenizer with 14 tokens. Asks for truncation and padding, as many do.
fn wordpiece() -> Value {
    let special = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"
        },
        "added_tokens": added(&[(0, "[PAD]"), (1, "[UNK]"), (2, "[CLS]"), (3, "[SEP]")]),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
            ],
            "pair": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 1}}
            ],
            "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {
                "[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "un": 4, "##aff": 5, "##able": 6, "caf": 7, "##e": 8,
                "the": 9, "cat": 10, ",": 11, "東": 12, "##s": 13
            }
        }
    })
}

/// Llama 2's kind: spaces as U+2581, bytes for what is not in the vocabulary.
fn byte_fallback() -> Value {
    let mut vocab = serde_json::Map::new();
    for token in ["<unk>", "<s>", "</s>"] {
        vocab.insert(token.to_string(), json!(vocab.len()));
    }
    for byte in 0..=255 {
        vocab.insert(format!("<0x{byte:02X}>"), json!(vocab.len()));
    }
    for token in [
        "\u{2581}",
        "a",
        "b",
        "\u{2581}a",
        "\u{2581}\u{2581}",
        "é",
        "<0xZZ>",
    ] {
        vocab.insert(token.to_string(), json!(vocab.len()));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null, "post_processor": null,
        "added_tokens": added(&[(0, "<unk>"), (1, "<s>"), (2, "</s>")]),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": vocab,
            "merges": ["\u{2581} a", "\u{2581} \u{2581}"]
        }
    })
}

/// The same with the decoder of newer SentencePiece conversions.
fn metaspace() -> Value {
    let mut json = byte_fallback();
    json["decoder"] = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": false});
    json
}

fn parse(json: &Value) -> Tokenizer {
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

/// GPT-2's kind: tokens are strings of bytes.
fn byte_level() -> Tokenizer {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/docs-llama-4m/tokenizer.json");
    Tokenizer::from_bytes(&std::fs::read(path).unwrap()).unwrap()
}

fn pairs(ranges: &[Range<usize>]) -> Vec<(usize, usize)> {
    ranges
        .iter()
        .map(|range| (range.start, range.end))
        .collect()
}

#[test]
fn byte_level_tokens_are_the_reference_s() {
    let tokenizer = byte_level();
    assert_eq!(tokenizer.vocabulary(), 8192);
    let check = |text: &str, ids: &[u32], chars: &[(usize, usize)], without_special: &str| {
        let encoding = tokenizer.encode(text, true).unwrap();
        assert_eq!(encoding.ids, ids);
        assert_eq!(pairs(&encoding.chars), chars, "{text:?}");
        assert_eq!(tokenizer.decode(ids, false).unwrap(), text);
        assert_eq!(tokenizer.decode(ids, true).unwrap(), without_special);
    };
    let text = "The socket module provides access to";
    check(
        text,
        &[474, 1673, 675, 1921, 1189, 302],
        &[(0, 3), (3, 10), (10, 17), (17, 26), (26, 33), (33, 36)],
        text,
    );
    let text = "  a\n\n\tb  ";
    check(
        text,
        &[224, 265, 267, 6473, 260],
        &[(0, 1), (1, 3), (3, 5), (5, 7), (7, 9)],
        text,
    );
    check(
        "<|user|>Hi<|end|>",
        &[1, 43, 76, 3],
        &[(0, 8), (8, 9), (9, 10), (10, 17)],
        "Hi",
    );
    // Tokens that share a character all stand for the whole of it.
    let text = "naïve café — 東京🙂 x";
    let ids = [
        81, 68, 131, 111, 394, 1355, 73, 131, 106, 2288, 224, 166, 255, 113, 164, 122, 109, 2338,
        251, 228, 899,
    ];
    let chars = [
        (0, 1),
        (1, 2),
        (2, 3),
        (2, 3),
        (3, 5),
        (5, 8),
        (8, 9),
        (9, 10),
        (9, 10),
        (10, 12),
        (12, 13),
        (13, 14),
        (13, 14),
        (13, 14),
        (14, 15),
        (14, 15),
        (14, 15),
        (15, 16),
        (15, 16),
        (15, 16),
        (16, 18),
    ];
    check(text, &ids, &chars, text);
    check("", &[], &[], "");
}

#[test]
fn wordpiece_tokens_are_the_reference_s() {
    let tokenizer = parse(&wordpiece());
    let text = "Unaffable cafés 東, the";
    let encoding = tokenizer.encode(text, true).unwrap();
    assert_eq!(
        encoding.ids,
        [2, 4, 5, 6, 7, 8, 13, 12, 11, 9, 3],
        "neither truncated nor padded"
    );
    assert_eq!(encoding.type_ids, [0; 11]);
    let chars = [
        (0, 0),
        (0, 2),
        (2, 5),
        (5, 9),
        (10, 13),
        (13, 14),
        (14, 15),
        (16, 17),
        (17, 18),
        (19, 22),
        (0, 0),
    ];
    assert_eq!(pairs(&encoding.chars), chars);
    let pieces: Vec<&str> = encoding
        .bytes
        .iter()
        .map(|bytes| &text[bytes.clone()])
        .collect();
    assert_eq!(
        pieces,
        [
            "", "Un", "aff", "able", "caf", "é", "s", "東", ",", "the", ""
        ]
    );
    let special: Vec<usize> = (0..11).filter(|&i| encoding.special[i]).collect();
    assert_eq!(special, [0, 10]);
    assert_eq!(
        tokenizer.encode(text, false).unwrap().ids,
        [4, 5, 6, 7, 8, 13, 12, 11, 9]
    );
    assert_eq!(
        tokenizer.decode(&[2, 9, 10, 11, 4, 5, 6, 3], true).unwrap(),
        "the cat, unaffable"
    );

    let pair = tokenizer
        .encode_pair("the cats", "unaffable", true)
        .unwrap();
    assert_eq!(pair.ids, [2, 9, 10, 13, 3, 4, 5, 6, 3]);
    assert_eq!(pair.type_ids, [0, 0, 0, 0, 0, 1, 1, 1, 1]);
    let first = Some(0);
    let second = Some(1);
    assert_eq!(
        pair.text,
        [
            None, first, first, first, None, second, second, second, None
        ]
    );
}

#[test]
fn truncation_is_the_reference_s() {
    let tokenizer = parse(&wordpiece());
    let check = |max: usize, first: &str, second: Option<&str>, ids: &[u32]| {
        let mut encoding = match second {
            None => tokenizer.encode(first, true).unwrap(),
            Some(second) => tokenizer.encode_pair(first, second, true).unwrap(),
        };
        encoding.truncate(max).unwrap();
        assert_eq!(encoding.ids, ids, "{first:?}, {second:?} in {max}");
        let Encoding {
            ids,
            type_ids,
            special,
            text,
            bytes,
            chars,
        } = encoding;
        assert!(
            [
                type_ids.len(),
                special.len(),
                text.len(),
                bytes.len(),
                chars.len()
            ]
            .iter()
            .all(|&n| n == ids.len())
        );
    };
    let (one, short, long) = (
        "Unaffable cafés 東, the",
        "the cats",
        "unaffable cats the cats",
    );
    check(20, one, None, &[2, 4, 5, 6, 7, 8, 13, 12, 11, 9, 3]);
    check(8, one, None, &[2, 4, 5, 6, 7, 8, 13, 3]);
    check(3, one, None, &[2, 4, 3]);
    check(2, one, None, &[2, 3]);
    check(
        20,
        short,
        Some(long),
        &[2, 9, 10, 13, 3, 4, 5, 6, 10, 13, 9, 10, 13, 3],
    );
    check(9, short, Some(long), &[2, 9, 10, 13, 3, 4, 5, 6, 3]);
    check(8, short, Some(long), &[2, 9, 10, 3, 4, 5, 6, 3]);
    check(9, long, Some(short), &[2, 4, 5, 6, 3, 9, 10, 13, 3]);
    check(8, long, Some(short), &[2, 4, 5, 6, 3, 9, 10, 3]);
    check(6, long, Some(short), &[2, 4, 5, 3, 9, 3]);
    check(
        8,
        "the cats the",
        Some("the cats cat"),
        &[2, 9, 10, 3, 9, 10, 13, 3],
    );
    check(4, short, Some(long), &[2, 3, 4, 3]);
    check(3, short, Some(long), &[2, 3, 3]);
    let message = tokenizer
        .encode(one, true)
        .unwrap()
        .truncate(1)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("2 special tokens") && message.contains("1 tokens"),
        "{message}"
    );
}

#[test]
fn character_offsets_count_characters_in_long_texts() {
    let tokenizer = byte_level();
    for n in [1, 21, 22, 64, 65, 500] {
        let text = "é東🙂a".repeat(n);
        let encoding = tokenizer.encode(&text, true).unwrap();
        for (bytes, chars) in encoding.bytes.iter().zip(&encoding.chars) {
            let count = |end: usize| text[..end].chars().count();
            assert_eq!(
                count(bytes.start)..count(bytes.end),
                *chars,
                "{bytes:?} of {n}"
            );
        }
        assert_eq!(encoding.chars.last().unwrap().end, 4 * n);
    }
}

#[test]
fn special_tokens_and_ids_are_looked_up() {
    let tokenizer = byte_level();
    assert_eq!(tokenizer.id("<|endoftext|>"), Some(0));
    assert_eq!(tokenizer.id("<|absent|>"), None);
    assert_eq!(tokenizer.token(0).as_deref(), Some("<|endoftext|>"));
    assert!(
        tokenizer.is_special(0) && !tokenizer.is_special(474) && !tokenizer.is_special(u32::MAX)
    );
    assert_eq!(
        tokenizer.decode(&[474, 8192, u32::MAX], true).unwrap(),
        "The"
    );
    tokenizer.check_vocabulary(8192).unwrap();
    let message = tokenizer.check_vocabulary(8000).unwrap_err().to_string();
    assert!(
        message.contains("up to 8191") && message.contains("ends at 7999"),
        "{message}"
    );
}

#[test]
fn a_broken_file_is_an_error() {
    let check = |name: &str, bytes: &[u8]| {
        let message = Tokenizer::from_bytes(bytes).unwrap_err().to_string();
        assert!(message.starts_with("tokenizer.json: "), "{name}: {message}");
    };
    let with = |path: &str, value: Value| {
        let mut json = wordpiece();
        *json.pointer_mut(path).unwrap() = value;
        json.to_string()
    };
    check("empty", b"");
    check("not json", b"{\"version\": ");
    check("other json", b"{}");
    check("a list", b"[]");
    check("not utf-8", b"\xff\xfe");
    check("truncated", &wordpiece().to_string().as_bytes()[..900]);
    check(
        "deep",
        format!("{{\"version\":{}", "[".repeat(100_000)).as_bytes(),
    );
    check("other version", with("/version", json!("9.0")).as_bytes());
    check(
        "unknown model",
        with("/model", json!({"type": "Guess", "vocab": {}})).as_bytes(),
    );
    check(
        "unknown decoder",
        with("/decoder", json!({"type": "Guess"})).as_bytes(),
    );
    check(
        "id beyond 32 bits",
        with("/model/vocab/the", json!(1u64 << 40)).as_bytes(),
    );
    check(
        "negative id",
        with("/model/vocab/the", json!(-1)).as_bytes(),
    );
    check(
        "broken regex",
        with(
            "/pre_tokenizer",
            json!({
                "type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": false
            }),
        )
        .as_bytes(),
    );
    let mut merges = byte_fallback();
    merges["model"]["merges"] = json!(["x y"]);
    check("merge of unknown tokens", merges.to_string().as_bytes());
    let mut bare = wordpiece();
    bare["added_tokens"] = json!([]);
    bare["post_processor"] = Value::Null;
    bare["model"]["vocab"] = json!({});
    check("no vocabulary", bare.to_string().as_bytes());
}

/// Feeds `ids` to a stream and checks every promise it makes.
fn check_stream(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) {
    let whole = tokenizer.decode(ids, skip_special).unwrap();
    let mut stream = tokenizer.stream(skip_special);
    let mut text = String::new();
    for &id in ids {
        text += &stream.push(id).unwrap();
        assert!(
            whole.starts_with(&text),
            "{ids:?}: {text:?} does not begin {whole:?}"
        );
    }
    text += &stream.finish().unwrap();
    assert_eq!(text, whole, "{ids:?}");
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn a_stream_yields_each_character_once_it_is_whole() {
    let tokenizer = byte_level();
    let ids = tokenizer.encode("a🙂b", true).unwrap().ids;
    let mut stream = tokenizer.stream(true);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    let pieces: Vec<&str> = pieces
        .iter()
        .map(String::as_str)
        .filter(|piece| !piece.is_empty())
        .collect();
    assert_eq!(pieces, ["a", "🙂", "b"]);
    // Cut inside of the character: the rest appears at the end, as in the decoded whole.
    check_stream(&tokenizer, &ids[..2], true);
}

proptest! {
    #[test]
    fn streams_of_any_tokens_are_the_whole(
        choice in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8), 0..40),
        skip_special: bool,
    ) {
        for tokenizer in [byte_level_once(), &parse(&wordpiece()), &parse(&byte_fallback()), &parse(&metaspace())] {
            let n = tokenizer.vocabulary();
            // Half of the tokens are among the first 260, where the bytes are.
            let ids: Vec<u32> = choice.iter().map(|(i, low)| i.index(if *low < 2 { n } else { n.min(260) }) as u32).collect();
            check_stream(tokenizer, &ids, skip_special);
        }
    }

    #[test]
    fn streams_of_texts_are_the_texts(text in "\\PC{0,60}") {
        let tokenizer = byte_level_once();
        let ids = tokenizer.encode(&text, false).unwrap().ids;
        check_stream(tokenizer, &ids, false);
        prop_assert_eq!(&tokenizer.decode(&ids, false).unwrap(), &text);
        check_stream(&parse(&byte_fallback()), &parse(&byte_fallback()).encode(&text, false).unwrap().ids, false);
    }

    /// Whatever happens to the file, the answer is a tokenizer or an error.
    #[test]
    fn damage_never_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), llama: bool) {
        let mut bytes = if llama { byte_fallback() } else { wordpiece() }.to_string().into_bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let tokenizer = Tokenizer::from_bytes(&bytes);
        let encoding = tokenizer.as_ref().map(|tokenizer| tokenizer.encode("the cats, unaffable é", true));
        if let (Ok(tokenizer), Ok(Ok(encoding))) = (&tokenizer, &encoding) {
            let _ = tokenizer.decode(&encoding.ids, true);
        }
    }
}

fn byte_level_once() -> &'static Tokenizer {
    static ONCE: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    ONCE.get_or_init(byte_level)
}
