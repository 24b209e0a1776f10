//! A [`Dim`] resolved for evaluation in every step: symbols are indices. Knows nothing of what it counts.

use ir::{Dim, Sym};

/// Sum of coefficient times product of symbols.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Polynomial(Box<[(i64, Box<[usize]>)]>);

impl Polynomial {
    /// Resolves `dim` against `symbols`.
    ///
    /// # Errors
    /// A symbol that is not among them.
    pub fn new(dim: &Dim, symbols: &[Sym]) -> Result<Polynomial, Sym> {
        let index = |s: &Sym| symbols.iter().position(|t| t == s).ok_or_else(|| s.clone());
        let term = |(c, m): (i64, &[Sym])| Ok((c, m.iter().map(index).collect::<Result<_, _>>()?));
        dim.terms()
            .map(term)
            .collect::<Result<_, _>>()
            .map(Polynomial)
    }

    /// The value where symbol `i` is `values[i]`; 0 where it would be negative, saturating.
    pub fn at(&self, values: &[i64]) -> u64 {
        let term =
            |(c, m): &(i64, Box<[usize]>)| m.iter().fold(*c, |x, i| x.saturating_mul(values[*i]));
        self.0.iter().map(term).fold(0, i64::saturating_add).max(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_dim() {
        let symbols = ["T", "L", "R"].map(|n| Sym::new(n, 8));
        let [t, l, r] = [&symbols[0], &symbols[1], &symbols[2]].map(Dim::from);
        for dim in [
            Dim::from(0),
            Dim::from(7),
            t.clone() * 3.into() + 1.into(),
            t.clone() * t.clone() * r.clone() - l.clone() * 4.into(),
            l - t + r * i64::MAX.into(),
        ] {
            let polynomial = Polynomial::new(&dim, &symbols).unwrap();
            for values in [[0, 0, 0], [1, 2, 3], [8, 1, 8], [5, 8, 2]] {
                let at = |s: &Sym| values[symbols.iter().position(|t| t == s).unwrap()];
                assert_eq!(
                    polynomial.at(&values),
                    dim.eval(&at).max(0) as u64,
                    "{dim} at {values:?}"
                );
            }
        }
    }

    #[test]
    fn unknown_symbols_are_named() {
        let (known, other) = (Sym::new("T", 8), Sym::new("X", 8));
        assert_eq!(Polynomial::new(&Dim::from(&other), &[known]), Err(other));
    }
}
