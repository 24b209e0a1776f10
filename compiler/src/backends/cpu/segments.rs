//! Segments of columns within which every `concat` of a body picks one argument, so that indices stay linear. Knows no
//! code.

use super::rows::RowBody;
use ir::{Node, Op, OpKind, Value as Term};
use std::collections::BTreeSet;

impl RowBody<'_> {
    /// Columns `start..start + len` as `(start, len)` parts within which each concat picks one argument.
    pub(super) fn segments(
        &self,
        v: Term,
        start: i64,
        len: i64,
    ) -> Result<Vec<(i64, i64)>, String> {
        let mut cuts = BTreeSet::from([0, len]);
        self.cuts(v, start, len, &mut cuts)?;
        let cuts: Vec<i64> = cuts.into_iter().collect();
        Ok(cuts
            .windows(2)
            .map(|w| (start + w[0], w[1] - w[0]))
            .collect())
    }

    /// Cuts relative to `start`.
    fn cuts(&self, v: Term, start: i64, len: i64, cuts: &mut BTreeSet<i64>) -> Result<(), String> {
        let Node::Op { op, args } = self.graph.node(v) else {
            return Ok(());
        };
        if self.is_scalar(v) || op.kind() == OpKind::Gather {
            return Ok(());
        }
        match op {
            Op::Slice(s) => self.cuts(args[0], start + s.start, len, cuts),
            Op::Concat(_) => {
                let mut first = 0;
                for a in args {
                    let width = self.width(*a)?;
                    let (from, to) = (start.max(first), (start + len).min(first + width));
                    if from < to {
                        let mut inner = BTreeSet::new();
                        self.cuts(*a, from - first, to - from, &mut inner)?;
                        cuts.extend(inner.iter().map(|c| c + from - start));
                        cuts.extend([from - start, to - start]);
                    }
                    first += width;
                }
                Ok(())
            }
            _ => args
                .iter()
                .try_for_each(|a| self.cuts(*a, start, len, cuts)),
        }
    }
}
