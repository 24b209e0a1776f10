//! Rules left out, to see what they are worth. Knows their names and themes, nothing of what they say.

use super::rules::{KERNELS, Rule, all};
use std::{fmt, str::FromStr};

/// Themes and rules that an optimizer goes without; by default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ablation(Vec<String>);

/// What cannot be left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AblationError {
    /// Nothing has that name.
    #[error("`{0}`: there is no such theme or rule; the themes are {themes}", themes = themes().join(", "))]
    Unknown(String),
    /// Nothing would compile.
    #[error("`{0}`: without it no op becomes a kernel, and nothing compiles; the other themes are {others}",
        others = themes().into_iter().filter(|t| t != .0).collect::<Vec<_>>().join(", "))]
    Needed(&'static str),
}

/// The themes of the rules, in their order.
pub fn themes() -> Vec<&'static str> {
    let mut themes: Vec<&'static str> = all().iter().map(|r| r.theme).collect();
    themes.sort_unstable();
    themes.dedup();
    themes
}

impl Ablation {
    /// Without the rules of these themes.
    pub fn of<const N: usize>(themes: [&'static str; N]) -> Ablation {
        Ablation(themes.map(String::from).into())
    }

    /// Whether the rule is left out.
    pub fn leaves_out(&self, rule: &Rule) -> bool {
        let named = |name: &String| *name == rule.theme || *name == rule.name;
        self.0.iter().any(named)
    }
}

impl FromStr for Ablation {
    type Err = AblationError;

    /// Names of themes or rules, separated by commas.
    fn from_str(text: &str) -> Result<Ablation, AblationError> {
        let rules = all();
        let names = text.split(',').map(str::trim).map(|name| match name {
            KERNELS => Err(AblationError::Needed(KERNELS)),
            _ if rules.iter().any(|r| r.theme == name || r.name == name) => Ok(name.to_string()),
            _ => Err(AblationError::Unknown(name.into())),
        });
        Ok(Ablation(names.collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for Ablation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}
