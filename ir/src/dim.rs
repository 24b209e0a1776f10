//! A dimension is a canonical integer polynomial over bounded symbols, so equality is `==` and nobody writes a
//! simplifier. Knows nothing of tensors.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    ops::{Add, Mul, Sub},
    sync::Arc,
};

/// A name in the IR: cheap to clone, ordered as text.
pub type Name = Arc<str>;

/// A symbolic size, at least 0 and at most `max`; buffers are sized from `max`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sym {
    /// How it is printed.
    pub name: Name,
    /// Largest value it may take.
    pub max: u32,
}

impl Sym {
    /// A symbol bounded by `max`.
    pub fn new(name: impl Into<Name>, max: u32) -> Sym {
        Sym {
            name: name.into(),
            max,
        }
    }
}

/// Sum of coefficient times monomial; a monomial is a sorted list of symbols, repeated for powers. Zero
/// coefficients are never stored.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Dim(BTreeMap<Vec<Sym>, i64>);

impl Dim {
    /// The value if no symbol occurs.
    pub fn known(&self) -> Option<i64> {
        match self.0.len() {
            0 => Some(0),
            1 => self.0.get(&[][..]).copied(),
            _ => None,
        }
    }

    /// The value if no symbol occurs and it is not negative.
    pub fn size(&self) -> Option<usize> {
        self.known().and_then(|k| usize::try_from(k).ok())
    }

    /// The value with every symbol replaced by `at` of it.
    pub fn eval(&self, at: &dyn Fn(&Sym) -> i64) -> i64 {
        self.0
            .iter()
            .map(|(m, c)| m.iter().fold(*c, |x, s| x.saturating_mul(at(s))))
            .fold(0, i64::saturating_add)
    }

    /// An upper bound: positive terms at their symbols' maxima, negative terms at zero (saturating).
    pub fn bound(&self) -> i64 {
        self.0
            .iter()
            .filter(|(m, c)| m.is_empty() || **c > 0)
            .map(|(m, c)| m.iter().fold(*c, |x, s| x.saturating_mul(s.max.into())))
            .fold(0, i64::saturating_add)
    }

    /// Exact quotient by a single-term divisor; `None` if some term does not divide.
    pub fn div_exact(&self, by: &Dim) -> Option<Dim> {
        let mut terms = by.0.iter();
        let (Some((divisor, coefficient)), None) = (terms.next(), terms.next()) else {
            return None;
        };
        let mut quotient = BTreeMap::new();
        for (monomial, c) in &self.0 {
            let mut rest = monomial.clone();
            for s in divisor {
                rest.remove(rest.iter().position(|r| r == s)?);
            }
            if c.checked_rem(*coefficient)? != 0 {
                return None;
            }
            quotient.insert(rest, c.checked_div(*coefficient)?);
        }
        Some(Dim(quotient))
    }

    /// The sum's terms: a coefficient and the symbols it is multiplied with, repeated for powers.
    pub fn terms(&self) -> impl Iterator<Item = (i64, &[Sym])> {
        self.0.iter().map(|(m, c)| (*c, m.as_slice()))
    }

    /// The symbols that occur.
    pub fn symbols(&self) -> impl Iterator<Item = &Sym> {
        self.0.keys().flatten()
    }
}

impl From<i64> for Dim {
    fn from(c: i64) -> Dim {
        Dim((c != 0).then_some((vec![], c)).into_iter().collect())
    }
}
impl From<i32> for Dim {
    fn from(c: i32) -> Dim {
        i64::from(c).into()
    }
}
impl From<usize> for Dim {
    fn from(c: usize) -> Dim {
        i64::try_from(c).unwrap_or(i64::MAX).into()
    }
}
impl From<&Sym> for Dim {
    fn from(s: &Sym) -> Dim {
        Dim(BTreeMap::from([(vec![s.clone()], 1)]))
    }
}
impl Add for Dim {
    type Output = Dim;
    fn add(mut self, o: Dim) -> Dim {
        for (m, c) in o.0 {
            let sum = self.0.entry(m).or_insert(0);
            *sum = sum.saturating_add(c);
        }
        self.0.retain(|_, c| *c != 0);
        self
    }
}
impl Sub for Dim {
    type Output = Dim;
    fn sub(self, o: Dim) -> Dim {
        self + o * Dim::from(-1)
    }
}
impl Mul for Dim {
    type Output = Dim;
    fn mul(self, o: Dim) -> Dim {
        let mut product = BTreeMap::new();
        for (a, x) in &self.0 {
            for (b, y) in &o.0 {
                let mut m = [a.as_slice(), b].concat();
                m.sort_unstable();
                let sum: &mut i64 = product.entry(m).or_insert(0);
                *sum = sum.saturating_add(x.saturating_mul(*y));
            }
        }
        product.retain(|_, c| *c != 0);
        Dim(product)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "0");
        }
        // Constants last: `2*T+1` reads better than `1+2*T`.
        for (i, (m, c)) in self.0.iter().rev().enumerate() {
            if i > 0 && *c >= 0 {
                write!(f, "+")?;
            }
            let names: Vec<&str> = m.iter().map(|s| &*s.name).collect();
            match (names.is_empty(), c) {
                (true, c) => write!(f, "{c}")?,
                (_, 1) => write!(f, "{}", names.join("*"))?,
                (_, c) => write!(f, "{c}*{}", names.join("*"))?,
            }
        }
        Ok(())
    }
}
impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sym(name: &str) -> Dim {
        (&Sym::new(name, 8)).into()
    }

    #[test]
    fn equal_polynomials_are_equal_values() {
        let (t, p) = (sym("T"), sym("P"));
        let four = || Dim::from(4);
        assert_eq!(
            (t.clone() + p.clone()) * four(),
            four() * p.clone() + t.clone() * four()
        );
        assert_eq!((t.clone() + p.clone()) - p.clone(), t);
        assert_eq!((t.clone() - t.clone()).known(), Some(0));
    }

    #[test]
    fn division_is_exact_or_refused() {
        let (t, p) = (sym("T"), sym("P"));
        let product = t.clone() * p.clone() * 64.into();
        assert_eq!(
            product.div_exact(&(t.clone() * 16.into())),
            Some(p.clone() * 4.into())
        );
        assert_eq!((t.clone() + 1.into()).div_exact(&t), None);
        assert_eq!(t.div_exact(&2.into()), None);
        assert_eq!(t.div_exact(&0.into()), None);
    }

    #[test]
    fn bounds_hold() {
        let (t, p) = (sym("T"), sym("P"));
        let d = t.clone() * p + t * Dim::from(-3) + 2.into();
        assert_eq!(d.bound(), 66);
        assert_eq!(d.eval(&|_| 8), 64 - 24 + 2);
        assert_eq!(d.to_string(), "-3*T+P*T+2");
    }
}
