//! What the errors of alternatives are told from: some rows of a weight, evenly spread, and of many inputs a part. Errors are
//! sums over rows, and of roundings nearly sums over inputs: what is left is how inputs go together, which parts of them
//! show. What is small is taken whole, and errors are then exact. Knows no method.

use super::{
    Alternative, CompressError, Form, Inputs, Matrix, Method, Moments, Problem,
    clip::{self, Clipped},
    residual, spectrum,
};
use ir::{DType, Element};
use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

/// Rows from which errors are told.
const ROWS: usize = 256;
/// As many, where parts of the inputs show how they go together. What is measured of a model is measured of the same rows.
const SOME: usize = 64;
/// Rows from which it is then told how inputs go together: ratios, which rows share.
const FEW: usize = 32;
/// Of which it is told how feedback gains by more inputs.
const GROWS: Form = Form::Grouped {
    element: Element::Q4,
    group: 32,
};
/// Rows that show whether a weight has few directions.
const TALL: usize = 640;

/// By the part that is given to a method, or all, which one, and form.
type Known = RefCell<BTreeMap<(Option<usize>, &'static str, Form), f64>>;

/// See the module's text.
pub struct Sample<'a> {
    /// N and K of the weight.
    pub shape: [usize; 2],
    /// The element type in which the checkpoint stores it.
    pub stored: DType,
    inputs: Arc<Inputs>,
    /// Rows with all inputs.
    rows: Part,
    /// For each part some of the rows.
    parts: Vec<Part>,
    /// See [`Sample::ranks`].
    ranks: Vec<usize>,
    whole: Option<Problem<'a>>,
    /// The sample that this one is, rotated.
    unrotated: Option<&'a Sample<'a>>,
    /// Errors that were told, and what [`Sample::together`] found of parts.
    known: Known,
}

/// Rows of a weight with some inputs, or all; always the same inputs.
struct Part {
    weight: Matrix,
    clipped: Clipped,
}

impl Part {
    fn new(weight: Matrix) -> Part {
        Part {
            weight,
            clipped: Clipped::default(),
        }
    }

    fn problem<'b>(&'b self, stored: DType, moments: &'b Moments) -> Problem<'b> {
        Problem {
            clipped: Some(&self.clipped),
            ..Problem::new(&self.weight, stored, moments)
        }
    }
}

impl<'a> Sample<'a> {
    /// Rows of a weight of `n` that are wanted.
    pub fn rows(n: usize) -> Vec<usize> {
        spread(n, TALL)
    }

    /// Of a weight of which `tall` are the [wanted](Sample::rows) rows.
    ///
    /// # Errors
    /// Moments that are those of no inputs.
    pub fn new(
        shape: [usize; 2],
        stored: DType,
        inputs: Arc<Inputs>,
        tall: &Matrix,
    ) -> Result<Sample<'a>, CompressError> {
        let some = |of: &Matrix, count: usize| rows_of(of, &spread(of.rows, count));
        let [rows, few] = match inputs.whole() {
            Some(_) => [ROWS; 2],
            None => [SOME, FEW],
        };
        let rows = some(tall, rows);
        let fewer = some(&rows, few);
        let parts = inputs.parts.iter();
        let parts = parts.map(|(columns, _)| Part::new(columns_of(&fewer, columns)));
        let parts = parts.collect();
        let mut sample = Sample {
            shape,
            stored,
            rows: Part::new(rows),
            parts,
            ranks: vec![],
            inputs: Arc::clone(&inputs),
            whole: None,
            unrotated: None,
            known: RefCell::default(),
        };
        // Before anything is decomposed, which would blame what is no number on the wrong thing.
        Problem::new(tall, stored, &inputs.alone).check()?;
        sample.check()?;
        if let Some((columns, moments)) = inputs.parts.first() {
            sample.ranks = spectrum::ranks(shape, &columns_of(tall, columns), moments)?;
        }
        Ok(sample)
    }

    /// Of a weight that is there.
    ///
    /// # Errors
    /// As [`Sample::new`].
    pub fn of(problem: &Problem<'a>) -> Result<Sample<'a>, CompressError> {
        let inputs = Arc::new(Inputs::of(problem.moments)?);
        let tall = rows_of(problem.weight, &Sample::rows(problem.weight.rows));
        let sample = Sample::new(problem.shape(), problem.stored, inputs, &tall)?;
        Ok(sample.with(*problem))
    }

    /// Of the same weight and its inputs, both rotated in blocks.
    pub(super) fn rotated(&self, block: usize) -> Sample<'_> {
        let rotate = |part: &Part| Part::new(part.weight.clone().rotated(block));
        Sample {
            shape: self.shape,
            stored: self.stored,
            inputs: Arc::new(self.inputs.rotated(block)),
            rows: rotate(&self.rows),
            parts: self.parts.iter().take(1).map(rotate).collect(),
            ranks: vec![],
            whole: None,
            unrotated: Some(self),
            known: RefCell::default(),
        }
    }

    /// As [`Problem::check`], of what is there.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self) -> Result<(), CompressError> {
        self.alone().check()?;
        let mut parts = self.parts.iter().zip(&self.inputs.parts);
        parts.try_for_each(|(part, (_, moments))| part.problem(self.stored, moments).check())
    }

    /// With the whole weight, for methods that say no row by itself.
    #[must_use]
    pub fn with(mut self, whole: Problem<'a>) -> Sample<'a> {
        self.whole = Some(whole);
        self
    }

    /// Whether some method may have something to offer that tells it from the whole weight.
    pub fn wants_whole(&self) -> bool {
        !self.ranks.is_empty() || residual::whole(self.shape)
    }

    /// The whole weight, where it was [given](Sample::with).
    pub fn whole(&self) -> Option<&Problem<'a>> {
        self.whole.as_ref()
    }

    /// The rows, with the inputs of a part, and its moments.
    pub(super) fn part(&self) -> (Matrix, &Moments) {
        let (columns, moments) = &self.inputs.parts[0];
        (columns_of(&self.rows.weight, columns), moments)
    }

    /// Ranks at which a product of two factors may pay.
    pub fn ranks(&self) -> &[usize] {
        &self.ranks
    }

    /// An alternative of that error.
    pub fn alternative(&self, method: &str, form: Form, error: f64) -> Alternative {
        Alternative {
            method: method.into(),
            bytes: form.bytes(self.shape, self.stored),
            form,
            error,
        }
    }

    /// The error of what a method that says each row by itself makes of the weight: that of all inputs as if each came alone,
    /// times what it changes, in a part of them, that they come together, and times what more inputs change.
    ///
    /// # Errors
    /// As [`Method::encode`].
    pub fn error<M: Method + ?Sized>(&self, method: &M, form: &Form) -> Result<f64, CompressError> {
        let key = (None, method.name(), form.clone());
        if let Some(error) = self.known.borrow().get(&key) {
            return Ok(*error);
        }
        let error = match self.inputs.whole() {
            Some(moments) => {
                let part = &self.parts[0];
                told(method, form, part.problem(self.stored, moments))? * self.times(part)
            }
            None => {
                let alone = told(method, form, self.alone())? * self.times(&self.rows);
                alone * self.together(0, method, form)? * self.growth(method)?
            }
        };
        self.known.borrow_mut().insert(key, error);
        Ok(error)
    }

    /// How the error of a part changes by its inputs coming together.
    fn together<M: Method + ?Sized>(
        &self,
        part: usize,
        method: &M,
        form: &Form,
    ) -> Result<f64, CompressError> {
        let key = (Some(part), method.name(), form.clone());
        if let Some(ratio) = self.known.borrow().get(&key) {
            return Ok(*ratio);
        }
        let (part, moments) = (&self.parts[part], &self.inputs.parts[part].1);
        let apart = moments.apart();
        let problem = part.problem(self.stored, moments);
        let apart = part.problem(self.stored, &apart);
        let encoded = method.encode(&problem, form)?;
        let by_itself = match method.together() {
            true => told(method, form, apart)?,
            false => apart.error_of(&encoded),
        };
        let ratio = match by_itself > 0.0 {
            true => problem.error_of(&encoded) / by_itself,
            false => 1.0,
        };
        self.known.borrow_mut().insert(key, ratio);
        Ok(ratio)
    }

    /// What feedback gains by more inputs than the first part has: continued as it grew from part to part, apart from what it
    /// gains of tokens that are few. About the same for all forms, and told of one; rotations, which mix neighbours alone, do not
    /// change it.
    fn growth<M: Method + ?Sized>(&self, method: &M) -> Result<f64, CompressError> {
        if let Some(sample) = self.unrotated {
            return sample.growth(method);
        }
        let form = &GROWS;
        let fits = method.forms(self.shape, self.stored).contains(form);
        if !method.together() || !fits {
            return Ok(1.0);
        }
        let parts = &self.inputs.parts;
        let by_chance = |inputs: usize| by_chance(inputs, parts[0].1.rows());
        let few = self.together(0, method, form)?;
        if few <= 0.0 {
            return Ok(1.0);
        }
        let many = self.together(1, method, form)? / by_chance(parts[1].0.len());
        let from = few / by_chance(parts[0].0.len());
        let sizes = [0, 1].map(|i| (parts[i].0.len() as f64).ln());
        let more = (self.shape[1] as f64).ln() - sizes[1];
        let all = many * (many / from).min(1.0).powf(more / (sizes[1] - sizes[0]));
        Ok(all * by_chance(self.shape[1]) / few)
    }

    /// What rounding the inputs adds to integers of that form: see what [`Problem::error_of`] adds of it.
    ///
    /// # Errors
    /// As [`Method::encode`].
    pub fn error_of_inputs(&self, form: &Form) -> Result<f64, CompressError> {
        let problem = self.alone();
        let integers = clip::grouped("dynamic", &problem, form)?;
        let error = problem.error_of_inputs(&integers.decode(), integers.group);
        Ok(error * self.times(&self.rows))
    }

    /// The rows, as if each input came alone.
    fn alone(&self) -> Problem<'_> {
        self.rows.problem(self.stored, &self.inputs.alone)
    }

    /// How many rows of the weight one of these stands for.
    fn times(&self, part: &Part) -> f64 {
        self.shape[0] as f64 / part.weight.rows.max(1) as f64
    }
}

/// The error of what a method makes of a problem.
fn told<M: Method + ?Sized>(
    method: &M,
    form: &Form,
    problem: Problem,
) -> Result<f64, CompressError> {
    Ok(problem.error_of(&method.encode(&problem, form)?))
}

fn rows_of(m: &Matrix, rows: &[usize]) -> Matrix {
    let data = rows.iter().flat_map(|i| m.row(*i)).copied();
    Matrix::new(rows.len(), m.columns, data.collect())
}

fn columns_of(m: &Matrix, columns: &[usize]) -> Matrix {
    if columns.len() == m.columns {
        return m.clone();
    }
    Matrix::from_fn(m.rows, columns.len(), |i, j| m.row(i)[columns[j]])
}

/// What feedback leaves of errors in so many inputs that do not go together, as some of `tokens` tokens do by chance: of the
/// variance of an input, given `i` others, a fit leaves `1 - i / tokens`.
fn by_chance(inputs: usize, tokens: u64) -> f64 {
    let (inputs, tokens) = (inputs.max(1) as f64, tokens.max(1) as f64);
    match inputs <= tokens {
        true => 1.0 - inputs / tokens / 2.0,
        false => tokens / inputs / 2.0,
    }
}

/// `count` of `0..n`, rising: one of each of as many stretches, which one is drawn, so that what repeats (heads, halves of
/// rotated pairs) is not met at one phase.
pub(super) fn spread(n: usize, count: usize) -> Vec<usize> {
    if n <= count {
        return (0..n).collect();
    }
    let each = (0..count).map(|i| {
        let (from, to) = (i * n / count, (i + 1) * n / count);
        from + (random(i as u64) % (to - from) as u64) as usize
    });
    each.collect()
}

/// Of a place, the same every time (SplitMix64).
pub(super) fn random(place: u64) -> u64 {
    let mut z = place.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
