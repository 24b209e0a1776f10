//! Maps that the kernels behind them compute for themselves in steps of one row: a norm in front of a product, rotated
//! queries and new rows of the cache in front of attention. In such a step a launch costs more than its work. Decides
//! this alone; larger steps run the maps.

use super::{
    Buffer, Schedule,
    kernel::{Inlined, Kernel, Round, Step, Template},
};
use ir::{
    Op, Value,
    abi::{Codec, Layout},
};
use std::collections::BTreeSet;

/// Columns up to which a product computes its row again in every block.
const WIDEST: i64 = 16 << 10;

/// Marks maps as computed by their readers, which then have their operands, too.
pub fn inline(schedule: &mut Schedule) {
    let steps = schedule.steps.clone();
    let written: BTreeSet<Buffer> = (steps.iter())
        .filter(|s| {
            matches!(
                schedule.kernels[s.kernel].template,
                Template::Map {
                    scatter: Some(_),
                    ..
                }
            )
        })
        .filter_map(|s| s.operands.last().map(|o| o.buffer))
        .collect();
    let plan = Plan { schedule, written };
    let mut found: Vec<(usize, Vec<(usize, usize)>)> = vec![];
    for reader in 0..steps.len() {
        let maps = plan.of(reader);
        if !maps.is_empty() {
            found.push((reader, maps));
        }
    }
    for (reader, maps) in found {
        let (mut step, mut kernel) = take(schedule, reader);
        let (out, out_view) = (step.operands.pop(), kernel.views.pop());
        for (operand, map) in maps {
            let (map_step, mut map_kernel) = take(schedule, map);
            let inlined = Inlined::of(operand, &map_kernel, step.operands.len());
            let count = map_kernel.views.len() - 1;
            step.operands.extend(&map_step.operands[..count]);
            kernel.views.extend_from_slice(&map_kernel.views[..count]);
            kernel.inlined.extend(inlined);
            map_kernel.elided = true;
            put(schedule, map, map_step, map_kernel);
        }
        step.operands.extend(out);
        kernel.views.extend(out_view);
        put(schedule, reader, step, kernel);
    }
    // Kernels that nothing runs any more go.
    let kernels = std::mem::take(&mut schedule.kernels);
    for step in &mut schedule.steps {
        let kernel = &kernels[step.kernel];
        let known = schedule.kernels.iter().position(|k| k == kernel);
        step.kernel = known.unwrap_or(schedule.kernels.len());
        if known.is_none() {
            schedule.kernels.push(kernel.clone());
        }
    }
}

fn take(schedule: &Schedule, step: usize) -> (Step, Kernel) {
    let step = schedule.steps[step].clone();
    let kernel = schedule.kernels[step.kernel].clone();
    (step, kernel)
}

fn put(schedule: &mut Schedule, at: usize, mut step: Step, kernel: Kernel) {
    step.kernel = schedule.kernels.len();
    schedule.kernels.push(kernel);
    schedule.steps[at] = step;
}

struct Plan<'a> {
    schedule: &'a Schedule,
    /// States whose rows steps replace.
    written: BTreeSet<Buffer>,
}

impl Plan<'_> {
    fn kernel(&self, step: usize) -> &Kernel {
        &self.schedule.kernels[self.schedule.steps[step].kernel]
    }

    /// The operands that a step may compute for itself, each with the map's step.
    fn of(&self, reader: usize) -> Vec<(usize, usize)> {
        match &self.kernel(reader).template {
            Template::Gemm {
                rows: Codec::Plain(_),
                ..
            } => {
                let map = self.map(reader, 0, false);
                let narrow = |m: &usize| {
                    let shape = &self.kernel(*m).views.last().expect("an output").shape;
                    shape.len() == 2 && shape[1].known().is_some_and(|k| k <= WIDEST)
                };
                map.filter(narrow).map(|m| (0, m)).into_iter().collect()
            }
            Template::Attention(_) => {
                let query = self.map(reader, 0, false).map(|m| (0, m));
                let rows = [1, 2].map(|operand| self.map(reader, operand, true));
                let mut maps: Vec<(usize, usize)> = query.into_iter().collect();
                if let [Some(k), Some(v)] = rows
                    && self.ids(k) == self.ids(v)
                {
                    maps.extend([(1, k), (2, v)]);
                }
                maps
            }
            Template::Gemm { .. } | Template::Map { .. } => vec![],
        }
    }

    /// Which rows a scattering map replaces.
    fn ids(&self, map: usize) -> Option<super::Operand> {
        let Template::Map { scatter, .. } = &self.kernel(map).template else {
            return None;
        };
        self.schedule.steps[map].operands.get((*scatter)?).copied()
    }

    /// The map that computes an operand for its readers alone, all of which have it in that place and see it as it lies.
    fn map(&self, reader: usize, operand: usize, scatters: bool) -> Option<usize> {
        let steps = &self.schedule.steps;
        let read = steps[reader].operands[operand];
        let mut writers = (0..steps.len())
            .filter(|s| steps[*s].operands.last().map(|o| o.buffer) == Some(read.buffer));
        let (map, None) = (writers.next()?, writers.next()) else {
            return None;
        };
        let kernel = self.kernel(map);
        let Template::Map {
            body,
            scatter,
            round: Round::None,
        } = &kernel.template
        else {
            return None;
        };
        // Rotated rows want memory that readers do not have.
        let rotates = |v: &Value| matches!(body.op(*v), Some(Op::Hadamard(_)));
        if body.cone(&body.outputs).iter().any(rotates) {
            return None;
        }
        let view = kernel.views.last()?;
        let inner = view.shape.iter().skip(1).all(|d| d.known().is_some());
        let output = self.schedule.outputs.contains(&read.buffer);
        // A state is an output, too: the reader leaves it as the map would have.
        if scatter.is_some() != scatters
            || map >= reader
            || (output && !scatters)
            || !inner
            || view.layout != Layout::Rows
        {
            return None;
        }
        let sources = &steps[map].operands[..steps[map].operands.len() - 1];
        if sources.iter().any(|o| self.written.contains(&o.buffer)) {
            return None;
        }
        let template = &self.kernel(reader).template;
        for (s, step) in steps.iter().enumerate() {
            let reads = &step.operands[..step.operands.len() - 1];
            for (place, found) in reads
                .iter()
                .enumerate()
                .filter(|(_, o)| o.buffer == read.buffer)
            {
                let alike = std::mem::discriminant(&self.kernel(s).template)
                    == std::mem::discriminant(template);
                let whole = found.offset == 0 && self.kernel(s).views[place] == *view;
                let alone = s == reader || matches!(template, Template::Gemm { .. });
                if place != operand || !alike || !whole || !alone || s < map {
                    return None;
                }
            }
        }
        Some(map)
    }
}
