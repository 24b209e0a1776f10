//! Plots as SVG, by themselves: no script, no font, no file beside them. Knows numbers and marks; not what they mean.

use super::labels::{LINE, place};
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
        }
        let places: Vec<(f64, f64)> = (self.marks.iter())
            .map(|m| (x.place(m.at.0), y.place(m.at.1)))
            .collect();
        for (m, label) in self.marks.iter().zip(place(&self.marks, &places, FRAME)) {
            let Some(label) = label else { continue };
            if let Some((x, y)) = label.from {
                add(format!(
                    "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{:.1}\"/>",
                    label.left,
                    label.top + LINE / 2.0
                ));
            }
            add(format!(
                "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                label.left,
                label.top + LINE - 3.0,
                text(&m.label)
            ));
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
    use super::{super::labels::LETTER, *};

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

    /// Values of an attribute of all elements that begin so, as they are drawn.
    fn attributes(svg: &str, element: &str, name: &str) -> Vec<f64> {
        let elements = svg.split('<').filter(|e| e.starts_with(element));
        let value = |e: &str| {
            e.split_once(&format!(" {name}=\""))
                .map(|(_, rest)| rest.split('"').next().unwrap().parse().unwrap())
        };
        elements.filter_map(value).collect()
    }

    #[test]
    fn labels_do_not_overlap_and_all_lies_inside_the_view() {
        // Clusters as uniform plans make them, at the right edge and at the top too.
        let at = [
            (0.28, 4.75e-2),
            (0.30, 4.6e-2),
            (0.31, 5.0e-2),
            (0.32, 4.7e-2),
            (0.9, 4.7e-2),
            (0.91, 4.7e-2),
            (0.92, 4.8e-2),
            (1.0, 1e-1),
            (1.01, 1e-1),
            (0.81, 8.8e-4),
            (1.03, 2.7e-4),
        ];
        let marks = at.iter().enumerate().map(|(i, at)| Mark {
            at: *at,
            spread: at.1 / 3.0,
            class: "uniform",
            label: format!("dynamic q4/{i}, last q8"),
            title: String::new(),
        });
        let plot = Plot {
            x: "ms".into(),
            y: "KL".into(),
            log: (false, true),
            marks: marks.collect(),
            lines: vec![("mixed", at.to_vec())],
        };
        let svg = plot.svg();
        for (elements, across, down) in [
            ("line", ["x1", "x2"], ["y1", "y2"]),
            ("circle", ["cx", "cx"], ["cy", "cy"]),
            ("text", ["x", "x"], ["y", "y"]),
        ] {
            for (names, most) in [(across, WIDTH), (down, HEIGHT)] {
                for value in names.iter().flat_map(|n| attributes(&svg, elements, n)) {
                    assert!(
                        (0.0..=most).contains(&value),
                        "{elements} {names:?}: {value}"
                    );
                }
            }
        }
        let label = "text class=\"label\"";
        let (xs, ys) = (attributes(&svg, label, "x"), attributes(&svg, label, "y"));
        assert_eq!(xs.len(), at.len(), "every mark has its label: {svg}");
        let boxes = xs.iter().zip(&ys).zip(&plot.marks);
        let boxes: Vec<[f64; 4]> = boxes
            .map(|((x, y), m)| [*x, *x + m.label.len() as f64 * LETTER, y - 10.0, y + 3.0])
            .collect();
        for (i, a) in boxes.iter().enumerate() {
            assert!(
                a[0] >= 0.0 && a[1] <= WIDTH && a[2] >= 0.0 && a[3] <= HEIGHT,
                "{a:?}"
            );
            for b in &boxes[..i] {
                let apart = a[1] <= b[0] || b[1] <= a[0] || a[3] <= b[2] || b[3] <= a[2];
                assert!(apart, "{a:?} and {b:?} overlap");
            }
        }
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
