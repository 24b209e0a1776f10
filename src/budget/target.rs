//! What a user is willing to lose, or to spend: `kl=0.01`, `ppl=+1%`, `f1=-0.5`, `latency=12ms`, `bytes=20MB`. Words only.

use std::{fmt, str::FromStr};

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Mean divergence from the original model, nats a token, at most.
    Kl(f64),
    /// Perplexity, relative to the original's, may rise by this share.
    Perplexity(f64),
    /// F1 may fall by so many points (of 100).
    F1(f64),
    /// Seconds of a step at most: a token of a decoder, 128 tokens of an encoder. Divergence is then least.
    Latency(f64),
    /// Bytes of the artifact at most. Divergence is then least.
    Bytes(u64),
}

impl Budget {
    /// Whether it is one of quality, which the fastest plan is wanted to keep; the others are of means.
    pub fn wants_speed(self) -> bool {
        !matches!(self, Budget::Latency(_) | Budget::Bytes(_))
    }
}

/// What is no budget.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no budget; give kl=0.01 (nats), ppl=+1%, f1=-0.5 (points), latency=12ms or bytes=20MB"
)]
pub struct NoBudget(String);

impl FromStr for Budget {
    type Err = NoBudget;

    fn from_str(text: &str) -> Result<Budget, NoBudget> {
        let wrong = || NoBudget(text.into());
        let (what, amount) = text.split_once('=').ok_or_else(wrong)?;
        let number = |text: &str| -> Result<f64, NoBudget> {
            let x: f64 = text.trim().parse().map_err(|_| wrong())?;
            if x.is_finite() { Ok(x) } else { Err(wrong()) }
        };
        // The unit is what follows the number.
        let scaled = |units: &[(&str, f64)]| -> Result<f64, NoBudget> {
            let unit = units.iter().find(|(unit, _)| {
                let rest = amount.trim().strip_suffix(unit);
                rest.is_some_and(|r| {
                    r.trim_end()
                        .ends_with(|c: char| c.is_ascii_digit() || c == '.')
                })
            });
            let (unit, scale) = unit.ok_or_else(wrong)?;
            Ok(number(amount.trim().strip_suffix(unit).unwrap_or_default())? * scale)
        };
        let positive = |x: f64| if x > 0.0 { Ok(x) } else { Err(wrong()) };
        Ok(match what.trim() {
            "kl" => Budget::Kl(positive(number(amount)?)?),
            "ppl" => Budget::Perplexity(positive(scaled(&[("%", 0.01)])?)?),
            "f1" => Budget::F1(positive(-number(amount)?)?),
            "latency" => {
                let units = [("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("s", 1.0)];
                Budget::Latency(positive(scaled(&units)?)?)
            }
            "bytes" => {
                let units = [
                    ("kB", 1e3),
                    ("KB", 1e3),
                    ("MB", 1e6),
                    ("GB", 1e9),
                    ("B", 1.0),
                    ("", 1.0),
                ];
                Budget::Bytes(positive(scaled(&units)?)? as u64)
            }
            _ => return Err(wrong()),
        })
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Kl(x) => write!(f, "kl={x}"),
            Budget::Perplexity(x) => write!(f, "ppl=+{}%", round(x * 100.0)),
            Budget::F1(x) => write!(f, "f1=-{x}"),
            Budget::Latency(x) => write!(f, "latency={}ms", round(x * 1e3)),
            Budget::Bytes(x) => write!(f, "bytes={}MB", round(*x as f64 / 1e6)),
        }
    }
}

/// To six digits, so that a product of decimals prints as one.
fn round(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_and_printed() {
        let check = |text: &str, expected: Option<Budget>, printed: &str| {
            let found: Option<Budget> = text.parse().ok();
            assert_eq!(found, expected, "{text}");
            assert_eq!(found.map(|b| b.to_string()).unwrap_or_default(), printed);
        };
        check("kl=0.01", Some(Budget::Kl(0.01)), "kl=0.01");
        check("ppl=+1%", Some(Budget::Perplexity(0.01)), "ppl=+1%");
        check("ppl=0.5%", Some(Budget::Perplexity(0.005)), "ppl=+0.5%");
        check("f1=-0.5", Some(Budget::F1(0.5)), "f1=-0.5");
        check("latency=12ms", Some(Budget::Latency(0.012)), "latency=12ms");
        check("latency=2 s", Some(Budget::Latency(2.0)), "latency=2000ms");
        check("bytes=20MB", Some(Budget::Bytes(20_000_000)), "bytes=20MB");
        check("bytes=1500", Some(Budget::Bytes(1500)), "bytes=0.0015MB");
        for wrong in [
            "kl",
            "kl=",
            "kl=-1",
            "kl=nan",
            "ppl=1",
            "f1=0.5",
            "latency=12",
            "bytes=x",
            "size=1",
        ] {
            check(wrong, None, "");
        }
    }
}
