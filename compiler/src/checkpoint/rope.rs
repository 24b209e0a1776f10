//! Rotary position embedding as configs describe it, in the spellings of transformers 4 and 5. Knows where the numbers
//! are; not what frequencies follow from them.

use serde_json::{Map, Value};

use super::{CheckpointError, Config};

/// Rotary position embedding as the config describes it, in the vocabulary of transformers 5.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// `default`, `linear`, `dynamic`, `yarn`, `longrope`, `llama3`, or a name that the family has to refuse.
    pub kind: String,
    /// Fraction of a head's dimensions that is rotated, in `(0, 1]`, where given.
    pub partial: Option<f64>,
    /// Where the numbers of a `kind` other than `default` are read from: `factor`, `low_freq_factor`, ...
    pub scaling: Config,
}

impl Config {
    /// The rotary embedding of layers of `layer_type` (`full_attention` where a model has one kind only), from
    /// `rope_parameters` (transformers 5, flat or one object a layer type) or `rope_theta`, `rope_scaling`,
    /// `rope_local_base_freq`, `partial_rotary_factor` and their other names (transformers 4).
    /// `default_theta` holds where none is given.
    ///
    /// # Errors
    /// A value is of the wrong kind, theta is not positive, or the rotated fraction not in `(0, 1]`.
    pub fn rope(&self, layer_type: &str, default_theta: f64) -> Result<Rope, CheckpointError> {
        let none = |key| self.nested(key, Map::new());
        let local = ["rope_local_base_freq", "local_rope_theta"];
        let local = local.into_iter().find(|key| self.has(key));
        let local = local.filter(|_| layer_type == "sliding_attention");
        let (scaling, theta) = match self.opt_section("rope_parameters")? {
            Some(all) => {
                let own = if all.has(layer_type) {
                    all.opt_section(layer_type)?
                } else {
                    None
                };
                let nested = all.entries.values().any(Value::is_object);
                match own {
                    Some(own) => (own, None),
                    None if nested => {
                        return Err(all.invalid(layer_type, "an object of rope parameters"));
                    }
                    None => (all, None),
                }
            }
            None if local.is_some() => (none("rope_scaling"), local),
            None => (
                self.opt_section("rope_scaling")?
                    .unwrap_or_else(|| none("rope_scaling")),
                None,
            ),
        };
        // A section's own value wins over one beside it.
        let first = |names: &[&str], valid: fn(f64) -> bool, expected: &str| {
            for section in [&scaling, self] {
                for name in names {
                    if let Some(x) = section.opt_f64(name)? {
                        return if valid(x) {
                            Ok(Some(x))
                        } else {
                            Err(section.invalid(name, expected))
                        };
                    }
                }
            }
            Ok(None)
        };
        let names = theta.map_or(
            vec!["rope_theta", "rotary_emb_base", "global_rope_theta"],
            |name| vec![name],
        );
        let theta = first(&names, |x| x > 0.0, "a positive number")?.unwrap_or(default_theta);
        let fraction = |x| 0.0 < x && x <= 1.0;
        let partial = first(
            &["partial_rotary_factor", "rotary_pct", "rope_pct"],
            fraction,
            "a number above 0, at most 1",
        )?;
        let kind = match scaling.opt_str("rope_type")? {
            Some(kind) => kind,
            None => scaling.str_or("type", "default")?,
        };
        Ok(Rope {
            theta,
            kind: kind.to_string(),
            partial,
            scaling: scaling.clone(),
        })
    }
}
