//! Texts that end a generation. Knows text as it comes, in parts; neither tokens nor models.

/// Looks for texts in a stream, and holds back what may be the start of one.
#[derive(Clone, Debug)]
pub struct Stops {
    texts: Vec<String>,
    held: String,
    found: bool,
}

impl Stops {
    /// Ends at the first of `texts`; empty ones are none.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Stops {
        Stops {
            texts: texts.into_iter().filter(|t| !t.is_empty()).collect(),
            held: String::new(),
            found: false,
        }
    }

    /// Whether one was found.
    pub fn found(&self) -> bool {
        self.found
    }

    /// Takes the next part and returns the text that is certain to come before any of the texts. Nothing comes after
    /// one was found.
    pub fn push(&mut self, part: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held += part;
        let first = self
            .texts
            .iter()
            .filter_map(|t| self.held.find(t.as_str()))
            .min();
        if let Some(at) = first {
            self.found = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let starts = |at: &usize| {
            let rest = &self.held[*at..];
            self.texts.iter().any(|t| t.starts_with(rest))
        };
        let places = self.held.char_indices().map(|(at, _)| at);
        let keep = places.into_iter().find(starts).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, once nothing more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_before_the_first_stop() {
        let check = |texts: &[&str], parts: &[&str], expected: &[&str], rest: &str, found: bool| {
            let mut stops = Stops::new(texts.iter().map(ToString::to_string));
            let given: Vec<String> = parts.iter().map(|p| stops.push(p)).collect();
            assert_eq!(given, expected, "{texts:?} in {parts:?}");
            assert_eq!(
                (stops.found(), stops.finish().as_str()),
                (found, rest),
                "{texts:?} in {parts:?}"
            );
        };
        check(&[], &["ab", "c"], &["ab", "c"], "", false);
        check(&["", "END"], &["a E", "ND b"], &["a ", ""], "", true);
        check(&["END"], &["a E", "N", "x"], &["a ", "", "ENx"], "", false);
        check(&["END"], &["EEN", "D!", "more"], &["E", "", ""], "", true);
        check(&["b", "ab"], &["ca", "b"], &["c", ""], "", true);
        check(
            &["\n\n"],
            &["é\n", "ü", "\n"],
            &["é", "\nü", ""],
            "\n",
            false,
        );
        check(&["aab"], &["aaab"], &["a"], "", true);
    }
}
