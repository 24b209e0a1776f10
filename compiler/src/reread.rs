//! Holds an artifact that was written against what its program means, weight by weight: reads the file back, decodes each
//! term and compares it with the numbers that were meant. Packed weights that are silently wrong are this field's commonest
//! bug.

use crate::{
    Compilation, CompileError, Offsets, array,
    fold::{Array, Fold, reread::element},
};
use ir::{
    DType, Dim, Name, Operand,
    artifact::{HEADER_BYTES, Header},
};
use std::{
    collections::{BTreeMap, HashSet},
    io::{Read, Seek, SeekFrom},
};

impl Compilation {
    /// Compares every weight of the artifact in `file` with what the optimized program says it is. `offsets` tell where
    /// each term of each call was written.
    ///
    /// # Errors
    /// The first weight that is something else, by name.
    pub fn reread<'a>(
        &self,
        file: &mut (impl Read + Seek),
        offsets: &Offsets,
        weight: &dyn Fn(&Name) -> Result<Array<'a>, CompileError>,
    ) -> Result<(), CompileError> {
        let io = |e| CompileError::Artifact(ir::artifact::ArtifactError::Io(e));
        let len = file.seek(SeekFrom::End(0)).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut start = vec![];
        Read::by_ref(file)
            .take(HEADER_BYTES as u64)
            .read_to_end(&mut start)
            .map_err(io)?;
        let weights = Header::decode(&start, len)?.sections.weights;
        // Where each term ends, at the latest: where the next one starts.
        let mut ends: Vec<u64> = offsets.values().copied().chain([weights.len]).collect();
        ends.sort_unstable();
        let mut folds: BTreeMap<&Name, Fold> = BTreeMap::new();
        let mut seen = HashSet::new();
        for (c, call) in self.optimized.calls.iter().enumerate() {
            let graph = &self.optimized.graphs[&call.graph];
            let terms = &self.schedules[&call.graph].weights;
            let failed = |error| CompileError::Fold {
                graph: call.graph.clone(),
                error,
            };
            if !folds.contains_key(&call.graph) {
                folds.insert(&call.graph, Fold::new(graph, terms).map_err(failed)?);
            }
            let fold = &folds[&call.graph];
            for (t, term) in terms.iter().enumerate() {
                let offset = offsets[&(c, t)];
                if !seen.insert((offset, term.codec, term.packing)) {
                    continue;
                }
                let (_, depends) = fold.expression(t);
                let arrays = depends
                    .iter()
                    .map(|i| array(&call.args[*i], &self.optimized, weight));
                let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
                let input = |i: usize| {
                    let at = depends.iter().position(|d| *d == i);
                    let array = at.and_then(|at| arrays[at].clone());
                    array.unwrap_or_else(|| Array::new(DType::F32, &[0], &[][..]))
                };
                let meant = fold.meaning(t, &input).map_err(failed)?;
                let end = ends
                    .iter()
                    .find(|e| **e > offset)
                    .copied()
                    .unwrap_or(offset);
                let mut bytes = vec![];
                file.seek(SeekFrom::Start(weights.offset + offset))
                    .map_err(io)?;
                Read::by_ref(file)
                    .take(end - offset)
                    .read_to_end(&mut bytes)
                    .map_err(io)?;
                let shape: Vec<usize> = graph
                    .ty(term.value)
                    .shape
                    .iter()
                    .filter_map(Dim::size)
                    .collect();
                let n = shape.last().copied().unwrap_or(1).max(1);
                let k = meant.len() / n;
                for (i, meant) in meant.iter().enumerate() {
                    let at = [i / n, i % n];
                    let found = element(&bytes, (term.codec, term.packing), [k, n], at);
                    let same = found.is_some_and(|f| f == *meant || f.is_nan() && meant.is_nan());
                    if !same {
                        let names = depends.iter().filter_map(|i| match &call.args[*i] {
                            Operand::Weight(name) => Some(name.to_string()),
                            _ => None,
                        });
                        return Err(CompileError::Reread {
                            weight: names.collect::<Vec<_>>().join(" and "),
                            at,
                            found,
                            meant: *meant,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}
