//! Where the labels of a plot stand, so that none covers another or a mark. Knows boxes; neither plots nor text.

use super::plot::Mark;

/// Radius of a mark, with its edge.
const DOT: f64 = 5.0;
/// Height of a label.
pub const LINE: f64 = 13.0;
/// Width of a letter of a label, on the safe side.
pub const LETTER: f64 = 6.0;

/// The box of a label.
#[derive(Clone, Debug)]
pub struct Label {
    pub left: f64,
    right: f64,
    pub top: f64,
    bottom: f64,
    /// The mark that it is led to by a line, where it stands apart.
    pub from: Option<(f64, f64)>,
}

impl Label {
    fn new(left: f64, top: f64, wide: f64, high: f64) -> Label {
        Label {
            left,
            right: left + wide,
            top,
            bottom: top + high,
            from: None,
        }
    }

    fn meets(&self, o: &Label) -> bool {
        self.left < o.right && o.left < self.right && self.top < o.bottom && o.top < self.bottom
    }
}

/// Where each mark's label stands: as near to it as nothing else does, inside the frame. `None` where there is none.
pub fn place(marks: &[Mark], places: &[(f64, f64)], frame: [f64; 4]) -> Vec<Option<Label>> {
    let [left, right, top, bottom] = frame;
    let dots = places
        .iter()
        .map(|(x, y)| Label::new(x - DOT, y - DOT, 2.0 * DOT, 2.0 * DOT));
    let mut taken: Vec<Label> = dots.collect();
    let mut found = vec![];
    for (m, (x, y)) in marks.iter().zip(places) {
        if m.label.is_empty() {
            found.push(None);
            continue;
        }
        let wide = m.label.chars().count() as f64 * LETTER;
        // Beside the mark, then further and further above and below it.
        let shifts = (0..40).flat_map(|i| [-1.0, 1.0].map(|sign| sign * f64::from(i) * LINE / 2.0));
        let sides = [x + DOT + 3.0, x - DOT - 3.0 - wide];
        let boxes =
            shifts.flat_map(|dy| sides.map(|at| Label::new(at, y - LINE / 2.0 + dy, wide, LINE)));
        let inside =
            |l: &Label| l.left >= left && l.right <= right && l.top >= top && l.bottom <= bottom;
        let free = |l: &Label| !taken.iter().any(|t| t.meets(l));
        let Some(mut label) = boxes.into_iter().find(|l| inside(l) && free(l)) else {
            // A plot that is full of labels has no place for another; pointing at the mark still tells.
            found.push(None);
            continue;
        };
        if (label.top + LINE / 2.0 - y).abs() > LINE && label.left > *x {
            label.from = Some((*x, *y));
        }
        taken.push(label.clone());
        found.push(Some(label));
    }
    found
}
