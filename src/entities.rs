//! From a token classifier's logits to entities in the text. Knows labels and offsets; not how logits come about.

use runtime::{Rows, tokenizer::Encoding};
use std::ops::Range;

/// A part of a text that has a label.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// Without the `B-` or `I-` of the model's classes.
    pub label: String,
    /// Where in the text, in bytes.
    pub bytes: Range<usize>,
    /// Where in the text, in characters, as Python counts.
    pub chars: Range<usize>,
    /// Mean probability of the tokens' labels.
    pub score: f32,
}

/// Reads the entities of one text: runs of tokens of one label. A `B-` starts one, and so does an `I-` that does not
/// continue the run before it; special tokens count for nothing.
pub fn entities(labels: &[String], logits: &Rows, encoding: &Encoding) -> Vec<Entity> {
    let mut tokens = vec![];
    for (i, row) in logits.rows().enumerate() {
        if encoding.special.get(i) != Some(&false) {
            continue;
        }
        let chances = probabilities(row);
        let best = chances
            .iter()
            .enumerate()
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        if let Some((class, score)) = best {
            tokens.push((i, labels.get(class).map_or("O", String::as_str), *score));
        }
    }
    let names: Vec<&str> = tokens.iter().map(|(_, label, _)| *label).collect();
    let entity = |(run, label): (Range<usize>, &str)| {
        let part = &tokens[run];
        let (first, last) = (part[0].0, part[part.len() - 1].0);
        Entity {
            label: label.into(),
            bytes: encoding.bytes[first].start..encoding.bytes[last].end,
            chars: encoding.chars[first].start..encoding.chars[last].end,
            score: part.iter().map(|(_, _, score)| score).sum::<f32>() / part.len() as f32,
        }
    };
    runs(&names).into_iter().map(entity).collect()
}

/// The runs of one label, without its prefix. A label without a prefix, but for `O`, is read like one with `I-`.
pub(crate) fn runs<'a>(labels: &[&'a str]) -> Vec<(Range<usize>, &'a str)> {
    let mut runs: Vec<(Range<usize>, &str)> = vec![];
    for (i, label) in labels.iter().enumerate() {
        let (begins, name) = match label.split_once('-') {
            Some((prefix @ ("B" | "I"), name)) => (prefix == "B", name),
            _ if *label == "O" => continue,
            _ => (false, *label),
        };
        match runs.last_mut() {
            Some((run, open)) if !begins && run.end == i && *open == name => run.end += 1,
            _ => runs.push((i..i + 1, name)),
        }
    }
    runs
}

/// Softmax.
pub fn probabilities(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_labels() {
        let check = |labels: &str, expected: &[(Range<usize>, &str)]| {
            let labels: Vec<&str> = labels.split(' ').collect();
            assert_eq!(runs(&labels), expected, "{labels:?}");
        };
        check("O O", &[]);
        check(
            "B-A I-A O B-A B-A",
            &[(0..2, "A"), (3..4, "A"), (4..5, "A")],
        );
        check(
            "I-A I-A I-B O I-B",
            &[(0..2, "A"), (2..3, "B"), (4..5, "B")],
        );
        check("X X O Y", &[(0..2, "X"), (3..4, "Y")]);
    }

    #[test]
    fn entities_cover_their_tokens() {
        // [CLS] "Ärger" of two tokens, "x", [SEP]; labels O, B-A, I-A. Equal logits of the rest: 1 / (1 + 2 / e^2).
        let logits = Rows {
            data: vec![0., 2., 0., 0., 2., 0., 0., 0., 2., 2., 0., 0., 0., 2., 0.],
            width: 3,
        };
        let encoding = Encoding {
            ids: vec![1, 2, 3, 4, 5],
            type_ids: vec![0; 5],
            special: vec![true, false, false, false, true],
            text: vec![None, Some(0), Some(0), Some(0), None],
            bytes: vec![0..0, 0..3, 3..6, 7..8, 0..0],
            chars: vec![0..0, 0..2, 2..5, 6..7, 0..0],
        };
        let labels: Vec<String> = ["O", "B-A", "I-A"].map(String::from).into();
        let found = entities(&labels, &logits, &encoding);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (
                &*found[0].label,
                found[0].bytes.clone(),
                found[0].chars.clone()
            ),
            ("A", 0..6, 0..5)
        );
        assert!((found[0].score - 0.786_986).abs() < 1e-5, "{found:?}");
    }
}
