//! What an artifact says of how it was compiled, and why a block became what it became: egg's derivation, and what became
//! of every rule. The artifact's report has the graphs as they were built, and the optimizer, which is deterministic, runs
//! on one again. Reads no weights.

use crate::{
    Compilation, judged,
    optimize::{
        self, Explanation, OptimizeError, Report, Stop,
        ablation::{Ablation, AblationError},
        cost::TableError,
        derivation::Step,
        verdict::Verdict,
    },
    predict,
};
use ir::{Graph, ParseError, artifact::Manifest};
use std::{collections::BTreeMap, fmt};

/// Heading under which an artifact's report has the graph of that name as it was built: for [`block`], not for people.
pub const BUILT: &str = "built ";

/// Heading under which a report names rules that were left out.
const LEFT_OUT: &str = "rules left out";

/// What an artifact says of how it was compiled: `(heading, text)`.
pub(crate) fn report(compilation: &Compilation) -> Vec<(String, String)> {
    let mut out = vec![];
    let without = &compilation.options.without;
    if *without != Ablation::default() {
        out.push((LEFT_OUT.into(), without.to_string()));
    }
    out.extend(predict::report(&compilation.options, &compilation.built));
    for (name, r) in &compilation.reports {
        let fired: Vec<String> = r
            .fired
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(rule, n)| format!("{rule} x{n}"))
            .collect();
        let calls = compilation
            .optimized
            .calls
            .iter()
            .filter(|c| c.graph == *name)
            .count();
        out.push((
            match calls {
                1 => format!("graph {name}, called once"),
                _ => format!("graph {name}, called {calls} times"),
            },
            format!(
                "{}\nrules that fired: {}\n{}",
                summary(r),
                fired.join(", "),
                compilation.schedules[name]
            ),
        ));
    }
    for (name, graph) in &compilation.built.graphs {
        out.push((format!("{BUILT}{name}"), graph.to_string()));
    }
    out
}

/// What the optimizer did to a graph, on a line.
fn summary(r: &Report) -> String {
    let stop = match r.stop {
        Stop::Saturated => "saturated",
        Stop::Nodes => "stopped at the most nodes",
        Stop::Iterations => "stopped at the most rounds",
    };
    format!(
        "{} e-nodes in {} classes after {} rounds ({stop}); predicted {:.1} us, {:.1} us unfused",
        r.nodes,
        r.classes,
        r.iterations,
        r.after as f64 / 1e6,
        r.before as f64 / 1e6,
    )
}

/// A block, explained.
#[derive(Debug)]
pub struct Explained {
    /// The graph's name.
    pub name: String,
    /// As it was built.
    pub built: Graph,
    /// What became of it, and why.
    pub explanation: Explanation,
}

/// Why a block is not explained.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's message says what it is")]
pub enum ExplainError {
    #[error("there is no block `{asked}`; the model's blocks are {}", .blocks.join(", "))]
    Unknown { asked: String, blocks: Vec<String> },
    #[error("the artifact does not say what it was built from; compile the model again")]
    Unsaid,
    #[error(
        "the artifact was compiled by satura {compiler}, whose optimizer did something else with block {block} ({then}; now \
         {now}): explain it with that version, or compile the model again"
    )]
    Changed {
        block: String,
        compiler: String,
        then: String,
        now: String,
    },
    #[error(
        "block {0}: the optimizer stopped at its limits before it had proved again what it found"
    )]
    Unproved(String),
    #[error("block {block}: {error}")]
    Built { block: String, error: ParseError },
    #[error(transparent)]
    Rules(#[from] AblationError),
    #[error(transparent)]
    Optimize(#[from] OptimizeError),
    #[error("the artifact's cost table {0}")]
    Costs(#[from] TableError),
}

/// Names of the blocks, in the program's order: every graph is one, however many layers call it.
pub fn blocks(manifest: &Manifest) -> Vec<&str> {
    let headings = manifest.report.iter().map(|(heading, _)| heading);
    headings.filter_map(|h| h.strip_prefix(BUILT)).collect()
}

/// Explains the block of that name, or of that number among [`blocks`].
///
/// # Errors
/// See [`ExplainError`].
pub fn block(manifest: &Manifest, asked: &str) -> Result<Explained, ExplainError> {
    let blocks = blocks(manifest);
    if blocks.is_empty() {
        return Err(ExplainError::Unsaid);
    }
    let numbered = asked.parse().ok().and_then(|i: usize| blocks.get(i));
    let named = blocks.iter().find(|name| **name == asked);
    let name = *named.or(numbered).ok_or_else(|| ExplainError::Unknown {
        asked: asked.into(),
        blocks: blocks.iter().map(|b| (*b).into()).collect(),
    })?;
    let said = |heading: &str| {
        let found = manifest.report.iter().find(|(h, _)| h == heading);
        found.map(|(_, text)| text.as_str())
    };
    let built = said(&format!("{BUILT}{name}")).ok_or(ExplainError::Unsaid)?;
    let built: Graph = built.parse().map_err(|error| ExplainError::Built {
        block: name.into(),
        error,
    })?;
    let target = &manifest.images.first().ok_or(ExplainError::Unsaid)?.target;
    let costs = predict::kept(manifest)?;
    let costs = costs.as_ref().map(|(table, weights)| (table, *weights));
    let mut options = judged(&manifest.description, target, costs);
    options.without = match said(LEFT_OUT) {
        Some(names) => names.parse()?,
        None => Ablation::default(),
    };
    let explanation = optimize::explain(&built, &options)?;
    let explanation = explanation.ok_or_else(|| ExplainError::Unproved(name.into()))?;
    let now = summary(&explanation.report);
    let heading = format!("graph {name}, ");
    let then = manifest
        .report
        .iter()
        .find(|(h, _)| h.starts_with(&heading));
    let then = then.and_then(|(_, text)| text.lines().next());
    let then = then.ok_or(ExplainError::Unsaid)?;
    if then != now {
        return Err(ExplainError::Changed {
            block: name.into(),
            compiler: manifest.compiler.clone(),
            then: then.into(),
            now,
        });
    }
    Ok(Explained {
        name: name.into(),
        built,
        explanation,
    })
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.explanation;
        writeln!(f, "block {}: {}", self.name, summary(&e.report))?;
        writeln!(f, "\nbuilt:\n{}", self.built)?;
        let mut number = 0;
        let mut steps = |f: &mut fmt::Formatter<'_>, steps: &[Step]| -> fmt::Result {
            for step in steps {
                number += 1;
                writeln!(f, "{number:>3}. {}", indented(&step.to_string()))?;
            }
            writeln!(f)
        };
        if !e.recognised.steps.is_empty() {
            writeln!(f, "ops recognised in what was written out:")?;
            steps(f, &e.recognised.steps)?;
        }
        writeln!(f, "derivation:")?;
        steps(f, &e.rewritten.steps)?;
        writeln!(f, "optimized:\n{}", e.optimized)?;
        rules(f, e)
    }
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n  ")
}

/// What became of every rule, alike ones together.
fn rules(f: &mut fmt::Formatter<'_>, e: &Explanation) -> fmt::Result {
    let steps = e.recognised.steps.iter().chain(&e.rewritten.steps);
    let used: Vec<&str> = steps.map(|s| s.rule.as_str()).collect();
    let (mut fired, mut unused) = (vec![], vec![]);
    let mut left_out = vec![];
    let mut no_op: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut nowhere = vec![];
    let mut refused = vec![];
    for (rule, verdict) in &e.verdicts {
        match verdict {
            Verdict::Fired(n) if used.contains(&&*rule.name) => {
                fired.push(format!("{} x{n}", rule.name))
            }
            Verdict::Fired(n) => unused.push(format!("{} x{n}", rule.name)),
            Verdict::LeftOut => left_out.push(rule.name.clone()),
            Verdict::NoOp(op) => no_op.entry(op).or_default().push(&rule.name),
            Verdict::Silent(reasons) if reasons.is_empty() => nowhere.push(rule.name.clone()),
            Verdict::Silent(reasons) => refused.push((*rule, reasons)),
        }
    }
    let list = |f: &mut fmt::Formatter<'_>, what: &str, names: &[String]| match names.is_empty() {
        true => Ok(()),
        false => writeln!(f, "{what}:\n  {}\n", names.join(", ")),
    };
    list(f, "rules that fired, and are in the derivation", &fired)?;
    list(
        f,
        "rules that fired, but what they made costs more or as much",
        &unused,
    )?;
    list(f, "left out", &left_out)?;
    if !refused.is_empty() {
        writeln!(
            f,
            "rules whose left side is there, and why nothing follows:"
        )?;
    }
    for (rule, reasons) in refused {
        let reasons = reasons.iter().map(|(why, n)| format!("{why} ({n} times)"));
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        writeln!(f, "  {}: {}\n    {reasons}", rule.name, rule.lhs)?;
    }
    writeln!(f)?;
    list(f, "rules whose left side is nowhere", &nowhere)?;
    if !no_op.is_empty() {
        writeln!(f, "rules about ops that do not occur:")?;
    }
    for (op, names) in no_op {
        writeln!(f, "  {op}: {}", names.join(", "))?;
    }
    Ok(())
}
