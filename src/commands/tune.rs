//! `satura tune`: measures what kernels cost on this machine, which compiling for it then goes by.

use super::{Device, Progress, print_json};
use anyhow::Context;
use satura::{
    Cache,
    compiler::optimize::cost::{CostTable, Grid, Products},
    tune::{self, Machine, Points, Tables},
};
use serde_json::json;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Measure what kernels cost on this machine, for all that is compiled for it from then on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  satura tune                           about a minute, in which the machine should have nothing else to do
  satura compile models/llama -o llama.satura
                                        uses what was measured, and says so
  satura explain llama.satura --measure what was predicted with it, beside what it takes")]
pub struct Args {
    /// Threads to measure with; by default one a core, as models run
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// What to measure: cpu, or cuda (NVIDIA's GPUs)
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,

    /// Print one JSON object instead of text: the table itself
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let cache = Cache::of_user().context(
        "no folder to keep costs in: neither SATURA_CACHE, XDG_CACHE_HOME nor HOME is set",
    )?;
    let machine = Machine::here(args.device.into(), args.threads)?;
    let bar = Progress::new();
    let told = |what, done, of| bar.step(what, done, of);
    let table = tune::tune(&machine, &Points::of(&machine), &told)?;
    drop(bar);
    let file = Tables::of(&cache).keep(&machine, &table)?;
    if args.json {
        let mut value = serde_json::to_value(&table)?;
        value["file"] = json!(file.display().to_string());
        print_json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(io::stdout().lock(), "{}{}", text(&table), file.display())?;
    Ok(ExitCode::SUCCESS)
}

/// What was measured, a line a template and storage.
fn text(table: &CostTable) -> String {
    let mut out = format!("{}\n", table.about());
    out += &format!("boundary   {:.2} us\n", table.boundary as f64 * 1e-6);
    let reads = table.reads.points().map(|(set, time)| {
        format!(
            "{} MB {:.0}",
            (set[0] >> 20).max(1),
            1e6 / time as f64 * 1e-9 * 1e12
        )
    });
    out += &format!("reading    {} GB/s\n", reads.collect::<Vec<_>>().join(", "));
    out += "products   rows    weights    weights read    rows: GFLOP/s\n";
    for products in &table.products {
        out += &product(products);
    }
    out += &format!(
        "maps       {}\n",
        best(&table.maps, "ns an element", |p| p[0] as f64, 1e-3)
    );
    for scores in &table.attention {
        let kept = if scores.cached {
            "kept keys"
        } else {
            "sequences"
        };
        let each = best(
            &scores.tile,
            "GFLOP/s a thread",
            |p| 4.0 * (p[0] * p[1] * p[2]) as f64,
            0.0,
        );
        out += &format!("attention  {kept}: {each}\n");
    }
    out
}

/// The largest weight with one row, and with each number of rows.
fn product(products: &Products) -> String {
    let largest = |grid: &Grid| {
        let last = grid.points().next_back();
        last.map_or((1, 1), |(p, _)| (p[1], p[2]))
    };
    let (k, n) = largest(&products.far);
    let of = |grid: &Grid| -> Vec<(u64, f64)> {
        let at = grid.points().filter(|(p, _)| (p[1], p[2]) == (k, n));
        at.map(|(p, time)| (p[0], time as f64)).collect()
    };
    let (panels, panel) = (
        products.codec.panels(n as usize),
        products.codec.panel(k as usize),
    );
    let read = of(&products.far)
        .first()
        .map_or(0.0, |(_, time)| (panels * panel) as f64 / time * 1e3);
    let rates = of(&products.near)
        .into_iter()
        .map(|(m, time)| format!("{m}: {:.0}", (2 * m * k * n) as f64 / time * 1e3));
    format!(
        "           {:<7} {:<10} {read:>6.1} GB/s     {}\n",
        products.inputs.to_string(),
        products.codec.to_string(),
        rates.collect::<Vec<_>>().join(", ")
    )
}

/// The last point along the first axis for each of the others: time over `work` in units of `scale` nanoseconds, or work
/// over time where that is zero.
fn best(grid: &Grid, unit: &str, work: impl Fn(&[u64]) -> f64, scale: f64) -> String {
    let last = grid.points().next_back().map_or(0, |(p, _)| p[0]);
    let points = grid.points().filter(|(p, _)| p[0] == last);
    let each = points.map(|(p, time)| {
        let value = match scale > 0.0 {
            true => time as f64 * scale / work(&p),
            false => work(&p) / time as f64 * 1e3,
        };
        let others: Vec<String> = p[1..].iter().map(ToString::to_string).collect();
        format!("{}: {value:.3}", others.join("x"))
    });
    format!("{} {unit}", each.collect::<Vec<_>>().join(", "))
}
