//! What the errors of alternatives are told from: some rows of a weight, evenly spread, and of many inputs a part. Errors are
//! sums over rows, and of roundings nearly sums over inputs: what is left is how inputs go together, which parts of them
//! show. What is small is taken whole, and errors are then exact. Knows no method.

use super::{
    Alternative, CompressError, Form, Matrix, Method, Moments, Problem, clip, residual, rotated,
    spectrum,
};
use ir::DType;
use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

/// Most inputs that are taken whole.
const WHOLE: usize = 2048;
/// Inputs of the parts of more.
const PARTS: [usize; 2] = [1024, 2048];
/// Inputs beside each other that a part has together: the largest groups.
const BLOCKS: [usize; 3] = [128, 64, 32];
/// Rows from which errors are told.
const ROWS: usize = 256;
/// Rows from which it is told how inputs go together, where parts of them show it: ratios, which rows share.
const FEW: usize = 64;
/// Rows that show whether a weight has few directions.
const TALL: usize = 640;

/// Statistics of inputs: what each is by itself, and how they go together, of all or of parts.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// All, one by one.
    alone: Moments,
    /// Which inputs, and their moments; each part contains the one before. One part of all, where there are few.
    parts: Vec<(Vec<usize>, Arc<Moments>)>,
}

impl Inputs {
    /// Of `k` inputs the parts whose moments are wanted.
    pub fn parts(k: usize) -> Vec<Vec<usize>> {
        if k <= WHOLE {
            return vec![(0..k).collect()];
        }
        let divides = |b: &usize| k.is_multiple_of(*b);
        let block = BLOCKS.into_iter().find(divides).unwrap_or(BLOCKS[2]);
        let all = spread(k / block, PARTS[1] / block);
        let parts = PARTS.map(|part| {
            let blocks = all.iter().step_by(PARTS[1] / part);
            blocks.flat_map(|b| b * block..(b + 1) * block).collect()
        });
        parts.to_vec()
    }

    /// Of what each input is by itself, and moments of [`Inputs::parts`].
    pub fn new(alone: Moments, moments: Vec<Arc<Moments>>) -> Inputs {
        let parts = Inputs::parts(alone.squares().len());
        Inputs {
            alone,
            parts: parts.into_iter().zip(moments).collect(),
        }
    }

    /// The moments of all, where few enough are taken whole.
    pub fn whole(&self) -> Option<&Arc<Moments>> {
        match &self.parts[..] {
            [(_, moments)] => Some(moments),
            _ => None,
        }
    }

    /// Computes what weights of these inputs share, before they are looked at side by side.
    pub fn prepare(&self) {
        let rotated = rotated::block(self.alone.squares().len());
        for (_, moments) in &self.parts {
            // Who asks for it is told why there is none.
            let _ = moments.feedback();
            if let Some(block) = rotated {
                let _ = moments.rotated(block).feedback();
            }
        }
    }

    /// Of the same inputs rotated in blocks, none of which is in a part in part.
    fn rotated(&self, block: usize) -> Inputs {
        let part = |(columns, moments): &(Vec<usize>, Arc<Moments>)| {
            (columns.clone(), moments.rotated(block))
        };
        let parts: Vec<_> = self.parts.iter().map(part).collect();
        let alone = match &parts[..] {
            [(_, moments)] => moments.apart(),
            _ => Moments::clone(&self.alone.rotated(block)),
        };
        Inputs { alone, parts }
    }

    /// Of inputs of which all is known.
    ///
    /// # Errors
    /// It is not.
    pub fn of(moments: &Moments) -> Result<Inputs, CompressError> {
        let second = moments.second()?;
        let parts = Inputs::parts(second.rows).into_iter().map(|columns| {
            let of = |xs: &[f32]| columns.iter().map(|c| xs[*c]).collect();
            let size = columns.len();
            let at = |i: usize, j: usize| second.row(columns[i])[columns[j]];
            let second = Matrix::from_fn(size, size, at);
            let [mean, max] = [moments.mean(), moments.max()].map(of);
            Arc::new(Moments::new(moments.rows(), second, mean, max))
        });
        Ok(Inputs::new(moments.apart(), parts.collect()))
    }
}

/// See the module's text.
pub struct Sample<'a> {
    /// N and K of the weight.
    pub shape: [usize; 2],
    /// The element type in which the checkpoint stores it.
    pub stored: DType,
    inputs: Arc<Inputs>,
    /// Of the weight, with all inputs.
    rows: Matrix,
    /// For each part some of the rows.
    parts: Vec<Matrix>,
    /// See [`Sample::ranks`].
    ranks: Vec<usize>,
    whole: Option<Problem<'a>>,
    /// Errors that were told, by method and form.
    known: RefCell<BTreeMap<(&'static str, Form), f64>>,
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
        let few = match inputs.parts.len() {
            0 | 1 => ROWS,
            _ => FEW,
        };
        let rows = some(tall, if few == ROWS { ROWS } else { ROWS / 2 });
        let fewer = some(&rows, few);
        let parts = inputs.parts.iter().map(|(c, _)| columns_of(&fewer, c));
        let parts = parts.collect();
        let mut sample = Sample {
            shape,
            stored,
            rows,
            parts,
            ranks: vec![],
            inputs: Arc::clone(&inputs),
            whole: None,
            known: RefCell::default(),
        };
        // Before anything is decomposed, which would blame what is no number on the wrong thing.
        sample.problem(tall, &inputs.alone).check()?;
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
    pub(super) fn rotated(&self, block: usize) -> Sample<'static> {
        let rotate = |rows: &Matrix| rows.clone().rotated(block);
        Sample {
            shape: self.shape,
            stored: self.stored,
            inputs: Arc::new(self.inputs.rotated(block)),
            rows: rotate(&self.rows),
            parts: self.parts.iter().map(rotate).collect(),
            ranks: vec![],
            whole: None,
            known: RefCell::default(),
        }
    }

    /// As [`Problem::check`], of what is there.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self) -> Result<(), CompressError> {
        self.problem(&self.rows, &self.inputs.alone).check()?;
        let mut parts = self.parts.iter().zip(&self.inputs.parts);
        parts.try_for_each(|(rows, (_, moments))| self.problem(rows, moments).check())
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
        (columns_of(&self.rows, columns), moments)
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
    /// times what it changes, in parts of them, that they come together. What feedback gains by more inputs than a part has
    /// continues as it grew from part to part, apart from what it gains of tokens that are few.
    ///
    /// # Errors
    /// As [`Method::encode`].
    pub fn error<M: Method + ?Sized>(&self, method: &M, form: &Form) -> Result<f64, CompressError> {
        let key = (method.name(), form.clone());
        if let Some(error) = self.known.borrow().get(&key) {
            return Ok(*error);
        }
        let of = |weight: &Matrix, moments: &Moments| {
            let problem = self.problem(weight, moments);
            Ok(problem.error_of(&method.encode(&problem, form)?))
        };
        let error = match &self.inputs.parts[..] {
            [(_, moments)] => of(&self.parts[0], moments)? * self.times(&self.parts[0]),
            parts => {
                let alone = of(&self.rows, &self.inputs.alone)? * self.times(&self.rows);
                let ratio = |i: usize| {
                    let (part, moments) = (&self.parts[i], &parts[i].1);
                    let apart = of(part, &moments.apart())?;
                    Ok::<_, CompressError>(match apart > 0.0 {
                        true => of(part, moments)? / apart,
                        false => 1.0,
                    })
                };
                let few = ratio(0)?;
                let all = match method.together() && few > 0.0 {
                    true => {
                        let by_chance = |inputs: usize| by_chance(inputs, parts[0].1.rows());
                        let few = few / by_chance(parts[0].0.len());
                        let many = ratio(1)? / by_chance(parts[1].0.len());
                        let sizes = [0, 1].map(|i| (parts[i].0.len() as f64).ln());
                        let more = (self.shape[1] as f64).ln() - sizes[1];
                        let all = many * (many / few).min(1.0).powf(more / (sizes[1] - sizes[0]));
                        all * by_chance(self.shape[1])
                    }
                    false => few,
                };
                alone * all
            }
        };
        self.known.borrow_mut().insert(key, error);
        Ok(error)
    }

    /// What rounding the inputs adds to integers of that form: see what [`Problem::error_of`] adds of it.
    ///
    /// # Errors
    /// As [`Method::encode`].
    pub fn error_of_inputs(&self, form: &Form) -> Result<f64, CompressError> {
        let problem = self.problem(&self.rows, &self.inputs.alone);
        let integers = clip::grouped("dynamic", &problem, form)?;
        let error = problem.error_of_inputs(&integers.decode(), integers.group);
        Ok(error * self.times(&self.rows))
    }

    fn problem<'b>(&self, weight: &'b Matrix, moments: &'b Moments) -> Problem<'b> {
        Problem {
            weight,
            stored: self.stored,
            moments,
            fisher: None,
        }
    }

    /// How many rows of the weight one of these stands for.
    fn times(&self, rows: &Matrix) -> f64 {
        self.shape[0] as f64 / rows.rows.max(1) as f64
    }
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
fn spread(n: usize, count: usize) -> Vec<usize> {
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
