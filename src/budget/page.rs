//! A survey as a page: plots, a heat map and tables in one file that refers to no other. Measures nothing.

use super::{
    Kind, Point, Survey,
    plot::{Mark, Plot, text},
};
use std::collections::BTreeSet;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}svg{width:100%;height:auto}p{color:#424a53}\
.grid{stroke:#e3e7eb}.tick,.axis,.label{font-size:11px;fill:#57606a}.axis{font-size:12px;fill:#1b1f24}\
circle{fill:currentColor;stroke:#fff}line{stroke:currentColor}polyline{fill:none;stroke:currentColor;stroke-width:1.5}\
.original{color:#1b1f24}.uniform{color:#c4521d}.mixed{color:#0a66c2}.random{color:#8a94a0}.ideal{color:#b9c1c9;stroke-dasharray:4 4}\
table{border-collapse:collapse;width:100%;font-size:13px}td,th{padding:.2rem .5rem;text-align:right;border-bottom:1px solid #e3e7eb}\
td:first-child,th:first-child{text-align:left}.key span{margin-right:1.2rem}.key b{font-size:1.2em}\
.wide{overflow-x:auto}.heat td{border:1px solid #fff;text-align:center}.heat th{overflow-wrap:anywhere}\
@media(max-width:44rem){.heat table{table-layout:fixed}.heat td{font-size:0;padding:.8rem 0}.heat th{font-size:9px;padding:.1rem}}";

/// The page, of the model of that name.
pub fn page(survey: &Survey, model: &str) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>satura: {0}</title><style>{STYLE}</style></head><body>\n<h1>{0}</h1>\n",
        text(model)
    );
    out += &format!(
        "<p>Each point is a whole plan, compiled and run on this machine. A step is {}; divergence is from the model as it \
         is, on text that no statistics have seen, with 95 % intervals.</p>\n<p class=\"key\">{}</p>\n",
        survey.step,
        [Kind::Original, Kind::Uniform, Kind::Mixed, Kind::Random]
            .map(|k| format!("<span class=\"{0}\"><b>&#9679;</b> {0}</span>", class(k)))
            .concat()
    );
    let ms = |seconds: f64| seconds * 1e3;
    let title = |p: &Point| {
        format!(
            "{}: {:.3} ms, KL {:.2e}, {:.1} MB",
            p.name,
            ms(p.latency),
            p.kl.mean,
            p.bytes as f64 / 1e6
        )
    };
    let mark = |p: &Point, at: (f64, f64), spread: f64, label: bool| Mark {
        at,
        spread,
        class: class(p.kind),
        label: if label { p.name.clone() } else { String::new() },
        title: title(p),
    };
    let changed = || survey.points.iter().filter(|p| p.kind != Kind::Original);
    let mut front: Vec<(f64, f64)> = vec![];
    for p in survey.points.iter().filter(|p| p.kind == Kind::Mixed) {
        front.push((ms(p.latency), p.kl.mean));
    }
    section(
        &mut out,
        "Time against divergence",
        "Further left is faster, further down is truer. The original lies at divergence zero, below the scale.",
        &Plot {
            x: "milliseconds a step, measured".into(),
            y: "KL, nats a row".into(),
            log: (false, true),
            marks: changed()
                .map(|p| {
                    mark(
                        p,
                        (ms(p.latency), p.kl.mean),
                        p.kl.half,
                        p.kind == Kind::Uniform,
                    )
                })
                .collect(),
            lines: vec![("mixed", front)],
        },
    );
    let diagonal = |values: Vec<f64>| {
        let (low, high) = values.iter().fold((f64::INFINITY, 0.0f64), |(l, h), x| {
            (if *x > 0.0 { l.min(*x) } else { l }, h.max(*x))
        });
        vec![("ideal", vec![(low, low), (high, high)])]
    };
    let correlation = survey.rank_correlation.map_or(String::new(), |r| {
        format!(" Their ranks correlate by {r:.3} (Spearman).")
    });
    section(
        &mut out,
        "Divergence, predicted and measured",
        &format!(
            "Predicted is the sum over weights; the dashed line is where both are equal.{correlation}"
        ),
        &Plot {
            x: "predicted KL".into(),
            y: "measured KL".into(),
            log: (true, true),
            marks: changed()
                .map(|p| mark(p, (p.predicted_kl, p.kl.mean), p.kl.half, false))
                .collect(),
            lines: diagonal(
                changed()
                    .flat_map(|p| [p.predicted_kl, p.kl.mean])
                    .collect(),
            ),
        },
    );
    section(
        &mut out,
        "Time, predicted and measured",
        "Predicted is the original's time, less what each product saves by itself.",
        &Plot {
            x: "predicted milliseconds".into(),
            y: "measured milliseconds".into(),
            log: (false, false),
            marks: survey
                .points
                .iter()
                .map(|p| mark(p, (ms(p.predicted_latency), ms(p.latency)), 0.0, false))
                .collect(),
            lines: diagonal(
                survey
                    .points
                    .iter()
                    .flat_map(|p| [ms(p.predicted_latency), ms(p.latency)])
                    .collect(),
            ),
        },
    );
    let most = survey
        .points
        .iter()
        .map(|p| p.read as f64)
        .fold(0.0, f64::max);
    section(
        &mut out,
        "Roofline",
        &format!(
            "Weights that a step reads, and the least time in which this machine reads them ({:.1} GB/s, dashed).",
            survey.read_per_second / 1e9
        ),
        &Plot {
            x: "megabytes of weights a step".into(),
            y: "milliseconds a step".into(),
            log: (false, false),
            marks: survey
                .points
                .iter()
                .map(|p| mark(p, (p.read as f64 / 1e6, ms(p.latency)), 0.0, false))
                .collect(),
            lines: vec![(
                "ideal",
                vec![(0.0, 0.0), (most / 1e6, ms(most / survey.read_per_second))],
            )],
        },
    );
    out += &heat(survey);
    out += &table(survey);
    out += "</body></html>\n";
    out
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Original => "original",
        Kind::Uniform => "uniform",
        Kind::Mixed => "mixed",
        Kind::Random => "random",
    }
}

fn section(out: &mut String, heading: &str, words: &str, plot: &Plot) {
    *out += &format!(
        "<h2>{}</h2>\n<p>{}</p>\n{}",
        text(heading),
        text(words),
        plot.svg()
    );
}

/// How much rounding each weight alone to 4 bits moves the model: layers down, weights across.
fn heat(survey: &Survey) -> String {
    // What is left of a weight's name when its layer's is taken off.
    let part = |row: &super::Row| {
        let rest = row.weight.strip_prefix(&format!("{}.", row.layer));
        rest.unwrap_or(&row.weight)
            .trim_end_matches(".weight")
            .to_string()
    };
    let known = || {
        survey
            .weights
            .iter()
            .filter_map(|r| r.sensitivity)
            .filter(|s| *s > 0.0)
    };
    let low = known().fold(f64::INFINITY, f64::min).ln();
    let high = known().fold(0.0, f64::max).ln();
    let (mut layers, mut parts): (Vec<&str>, Vec<String>) = (vec![], vec![]);
    for row in &survey.weights {
        if !layers.contains(&&*row.layer) {
            layers.push(&row.layer);
        }
        if !parts.contains(&part(row)) {
            parts.push(part(row));
        }
    }
    let mut out = String::from(
        "<h2>Sensitivity</h2>\n<p>Divergence when one weight alone is rounded to 4 bits in groups of 32; darker is more.</p>\n\
         <div class=\"heat\"><table><tr><th></th>",
    );
    out.extend(parts.iter().map(|p| format!("<th>{}</th>", text(p))));
    out += "</tr>\n";
    for layer in layers {
        out += &format!("<tr><th>{}</th>", text(layer));
        for p in &parts {
            let row = survey
                .weights
                .iter()
                .find(|r| r.layer == layer && part(r) == *p);
            out += &match row.and_then(|r| r.sensitivity) {
                Some(s) => {
                    let share =
                        ((s.max(1e-30).ln() - low) / (high - low).max(1e-9)).clamp(0.0, 1.0);
                    let (light, ink) = (
                        96.0 - 60.0 * share,
                        if share > 0.55 { "#fff" } else { "#1b1f24" },
                    );
                    format!(
                        "<td style=\"background:hsl(18 75% {light:.0}%);color:{ink}\" title=\"{s:.1e}\">{s:.1e}</td>"
                    )
                }
                None => "<td></td>".into(),
            };
        }
        out += "</tr>\n";
    }
    out + "</table></div>\n"
}

fn table(survey: &Survey) -> String {
    let mut out = String::from(
        "<h2>Plans</h2>\n<div class=\"wide\"><table><tr><th>plan</th><th>ms</th><th>predicted</th><th>KL</th><th>predicted</th><th>MB</th><th>forms</th></tr>\n",
    );
    for p in &survey.points {
        let forms: BTreeSet<&str> = p.forms.iter().map(String::as_str).collect();
        let forms = forms.into_iter().map(|form| {
            let count = p.forms.iter().filter(|f| *f == form).count();
            format!("{count} x {form}")
        });
        out += &format!(
            "<tr><td class=\"{}\">{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.2e}</td><td>{:.2e}</td><td>{:.1}</td><td>{}</td></tr>\n",
            class(p.kind),
            text(&p.name),
            p.latency * 1e3,
            p.predicted_latency * 1e3,
            p.kl.mean,
            p.predicted_kl,
            p.bytes as f64 / 1e6,
            text(&forms.collect::<Vec<_>>().join(", "))
        );
    }
    out + "</table></div>\n"
}
