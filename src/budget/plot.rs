//! Plots as SVG, by themselves: no script, no font, no file beside them. Knows numbers and marks; not what they mean.

use std::fmt::Write;

/// A mark of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Where.
    pub at: (f64, f64),
    /// Half the height of a line through it, in the units of y.
    pub spread: f64,
    /// Class of the style sheet: its color.
    pub class: &'static str,
    /// Shown beside it; empty for none.
    pub label: String,
    /// Shown while pointed at.
    pub title: String,
}

/// Marks over two axes.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    /// What x is.
    pub x: String,
    /// What y is.
    pub y: String,
    /// Whether each axis is logarithmic.
    pub log: (bool, bool),
    /// The marks.
    pub marks: Vec<Mark>,
    /// Points that a line joins, each with its class.
    pub lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
/// Left, right, top and bottom of the frame.
const FRAME: [f64; 4] = [70.0, WIDTH - 20.0, 16.0, HEIGHT - 48.0];

/// One axis: the values at its ends, and whether it is logarithmic.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, log: bool, from: f64, to: f64) -> Axis {
        let values = values.filter(|x| x.is_finite() && (!log || *x > 0.0));
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        values.for_each(|x| (low, high) = (low.min(x), high.max(x)));
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        (low, high) = match log {
            true => (low / 1.3, high * 1.3),
            false => (0.0f64.min(low), high * 1.06 + 1e-12),
        };
        Axis {
            low,
            high,
            log,
            from,
            to,
        }
    }

    fn place(&self, x: f64) -> f64 {
        let (low, high, x) = match self.log {
            true => (self.low.ln(), self.high.ln(), x.max(self.low).ln()),
            false => (self.low, self.high, x),
        };
        self.from + (x - low) / (high - low).max(1e-300) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let (first, last) = (
                self.low.log10().floor() as i32,
                self.high.log10().ceil() as i32,
            );
            let wide = (self.high / self.low).log10() > 2.5;
            let steps: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let ticks = (first..=last).flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)));
            return ticks
                .filter(|t| (self.low..=self.high).contains(t))
                .collect();
        }
        let step = 10f64.powf(((self.high - self.low) / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * step);
        let step = step.into_iter().find(|s| (self.high - self.low) / s <= 7.0);
        let step = step.unwrap_or(self.high);
        let count = ((self.high - self.low) / step).floor() as usize;
        (0..=count).map(|i| self.low + i as f64 * step).collect()
    }
}

impl Plot {
    /// As an `svg` element.
    pub fn svg(&self) -> String {
        let [left, right, top, bottom] = FRAME;
        let points = || {
            let lines = self.lines.iter().flat_map(|l| l.1.iter().copied());
            self.marks.iter().map(|m| m.at).chain(lines)
        };
        let x = Axis::new(points().map(|p| p.0), self.log.0, left, right);
        let y = Axis::new(points().map(|p| p.1), self.log.1, bottom, top);
        let mut out = String::new();
        // Writing to a string does not fail.
        let mut add = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        add(format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} against {}\">",
            text(&self.y),
            text(&self.x)
        ));
        for tick in x.ticks() {
            let at = x.place(tick);
            add(format!(
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                number(tick)
            ));
        }
        for tick in y.ticks() {
            let at = y.place(tick);
            add(format!(
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                at + 4.0,
                number(tick)
            ));
        }
        add(format!(
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            (left + right) / 2.0,
            HEIGHT - 10.0,
            text(&self.x)
        ));
        add(format!(
            "<text class=\"axis\" transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (top + bottom) / 2.0,
            text(&self.y)
        ));
        for (class, line) in &self.lines {
            let path = line
                .iter()
                .map(|p| format!("{:.1},{:.1}", x.place(p.0), y.place(p.1)));
            add(format!(
                "<polyline class=\"{class}\" points=\"{}\"/>",
                path.collect::<Vec<_>>().join(" ")
            ));
        }
        for m in &self.marks {
            let (cx, cy) = (x.place(m.at.0), y.place(m.at.1));
            if m.spread > 0.0 {
                let (a, b) = (y.place(m.at.1 - m.spread), y.place(m.at.1 + m.spread));
                add(format!(
                    "<line class=\"{}\" x1=\"{cx:.1}\" x2=\"{cx:.1}\" y1=\"{a:.1}\" y2=\"{b:.1}\"/>",
                    m.class
                ));
            }
            add(format!(
                "<circle class=\"{}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4.5\"><title>{}</title></circle>",
                m.class,
                text(&m.title)
            ));
            if !m.label.is_empty() {
                let (dx, anchor) = if cx > right - 120.0 {
                    (-8.0, "end")
                } else {
                    (8.0, "start")
                };
                add(format!(
                    "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                    cx + dx,
                    cy - 6.0,
                    text(&m.label)
                ));
            }
        }
        add("</svg>".into());
        out
    }
}

/// A number as an axis has it.
fn number(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if !(1e-3..1e5).contains(&a) => format!("{x:.0e}"),
        _ => format!("{}", (x * 1e6).round() / 1e6),
    }
}

/// Text that cannot be taken for markup.
pub fn text(s: &str) -> String {
    let escape = |c: char| match c {
        '&' => "&amp;".into(),
        '<' => "&lt;".into(),
        '>' => "&gt;".into(),
        '"' => "&quot;".into(),
        c => c.to_string(),
    };
    s.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_place_values_and_ticks() {
        let check = |values: &[f64], log: bool, ticks: &[f64]| {
            let axis = Axis::new(values.iter().copied(), log, 0.0, 100.0);
            let found = axis.ticks();
            let near = found.len() == ticks.len()
                && found
                    .iter()
                    .zip(ticks)
                    .all(|(a, b)| (a - b).abs() < 1e-9 * b.abs().max(1.0));
            assert!(near, "{values:?}: {found:?}");
            assert!(
                values
                    .iter()
                    .all(|x| (0.0..=100.0).contains(&axis.place(*x)))
            );
        };
        check(&[1.0, 5.0], false, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        check(&[0.001, 1.0], true, &[0.001, 0.01, 0.1, 1.0]);
        check(&[], true, &[1.0, 2.0, 5.0, 10.0]);
    }

    #[test]
    fn names_cannot_break_the_markup() {
        let plot = Plot {
            marks: vec![Mark {
                at: (1.0, 2.0),
                spread: 0.0,
                class: "mixed",
                label: "<b>".into(),
                title: "a & \"b\"".into(),
            }],
            ..Plot::default()
        };
        let svg = plot.svg();
        assert!(
            svg.contains("&lt;b&gt;") && svg.contains("a &amp; &quot;b&quot;"),
            "{svg}"
        );
        assert!(!svg.contains("<b>"));
    }
}
