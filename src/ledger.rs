//! What was measured, in a file that several programs add to at once: none loses what another found, and where two measured
//! the same, both go by what the first of them wrote. Knows keys and values; not what was measured.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write},
    path::PathBuf,
};

/// Values by what they were measured of: a file of JSON lines, each a pair, which only grows. What is no such line, as one
/// that a killed program left, counts for nothing.
#[derive(Clone, Debug)]
pub(crate) struct Ledger<K, V> {
    file: Option<PathBuf>,
    known: BTreeMap<K, V>,
}

impl<K: Ord + Serialize + DeserializeOwned, V: Serialize + DeserializeOwned> Ledger<K, V> {
    /// What a file holds, nothing where it is missing; without a file, a ledger that ends with the program.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn open(file: Option<PathBuf>) -> io::Result<Ledger<K, V>> {
        let mut ledger = Ledger {
            file,
            known: BTreeMap::new(),
        };
        ledger.read()?;
        Ok(ledger)
    }

    /// All that is known.
    pub fn known(&self) -> &BTreeMap<K, V> {
        &self.known
    }

    /// Adds what was measured; what is known stays as it is.
    ///
    /// # Errors
    /// The disk. What was to be added is known all the same, until the program ends.
    pub fn extend(&mut self, new: Vec<(K, V)>) -> io::Result<()> {
        let written = self.append(&new).and_then(|()| self.read());
        for (key, value) in new {
            self.known.entry(key).or_insert(value);
        }
        written
    }

    /// One write for all lines: no other program's come between.
    fn append(&self, new: &[(K, V)]) -> io::Result<()> {
        let Some(path) = &self.file else {
            return Ok(());
        };
        let mut lines = Vec::new();
        for pair in new {
            // Before each, so that none goes on where a killed program stopped.
            lines.push(b'\n');
            serde_json::to_writer(&mut lines, pair)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(&lines)
    }

    fn read(&mut self) -> io::Result<()> {
        let text = match self.file.as_ref().map(fs::read) {
            Some(Ok(text)) => text,
            Some(Err(e)) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => return Ok(()),
        };
        let lines = text.split(|b| *b == b'\n');
        for (key, value) in lines.filter_map(|line| serde_json::from_slice(line).ok()) {
            self.known.entry(key).or_insert(value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Times = Ledger<Vec<u32>, f64>;

    #[test]
    fn two_programs_add_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times");
        let open = || Times::open(Some(path.clone())).unwrap();
        let (mut a, mut b) = (open(), open());
        a.extend(vec![(vec![1], 0.1), (vec![2], 0.2)]).unwrap();
        b.extend(vec![(vec![2], 0.7), (vec![3], 0.3)]).unwrap();
        a.extend(vec![(vec![3], 0.9)]).unwrap();
        let all = [(vec![1], 0.1), (vec![2], 0.2), (vec![3], 0.3)];
        for ledger in [a, b, open()] {
            assert_eq!(ledger.known(), &BTreeMap::from(all.clone()));
        }
    }

    #[test]
    fn what_is_damaged_is_left_out_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times");
        for torn in ["[[4],0.", "[[4]", "{}", "\u{0}\u{1}"] {
            fs::write(&path, format!("[[1],0.5]\n{torn}")).unwrap();
            let mut ledger = Times::open(Some(path.clone())).unwrap();
            ledger.extend(vec![(vec![2], 0.25)]).unwrap();
            let known = Times::open(Some(path.clone())).unwrap().known;
            assert_eq!(known, BTreeMap::from([(vec![1], 0.5), (vec![2], 0.25)]));
        }
    }

    #[test]
    fn a_disk_that_fails_costs_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        // A folder can be neither read nor written as a file.
        assert!(Times::open(Some(folder.path().into())).is_err());
        let mut ledger = Times::open(Some(folder.path().join("none/times"))).unwrap();
        assert!(ledger.extend(vec![(vec![1], 0.5)]).is_err());
        assert_eq!(ledger.known(), &BTreeMap::from([(vec![1], 0.5)]));
    }
}
