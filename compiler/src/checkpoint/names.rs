//! How one tensor is called in different checkpoints, and which names are near a misspelt one. Pure string work.

/// What training tools put before every name: nothing, `DataParallel`, `torch.compile`.
const WRAPPERS: [&str; 3] = ["", "module.", "_orig_mod."];

/// Today's endings and those of BERT's first TensorFlow-converted checkpoints.
const ENDINGS: [(&str, &str); 2] = [(".weight", ".gamma"), (".bias", ".beta")];

/// Every name that the tensor `name` may go by when the model it belongs to may be nested under any of `prefixes`
/// (`bert.`, `model.`, ...). The name itself comes first; none is listed twice.
pub(super) fn spellings(name: &str, prefixes: &[String]) -> Vec<String> {
    let mut bases = vec![name.to_string()];
    for prefix in prefixes {
        bases.push(format!("{prefix}{name}"));
        bases.extend(name.strip_prefix(prefix.as_str()).map(str::to_string));
    }
    let mut all: Vec<String> = Vec::new();
    for wrapper in WRAPPERS {
        for base in &bases {
            let old = ENDINGS
                .iter()
                .find_map(|(new, old)| Some(format!("{}{old}", base.strip_suffix(new)?)));
            for spelling in [Some(base.clone()), old].into_iter().flatten() {
                let spelling = format!("{wrapper}{spelling}");
                if !all.contains(&spelling) {
                    all.push(spelling);
                }
            }
        }
    }
    all
}

/// The three of `names` most like `wanted`: those that share most of its last dotted parts, then those the fewest
/// edits away.
pub(super) fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let shared = |name: &str| {
        wanted
            .rsplit('.')
            .zip(name.rsplit('.'))
            .take_while(|(a, b)| a == b)
            .count()
    };
    let rank = |name: &&str| (usize::MAX - shared(name), edits(wanted, name));
    let mut names: Vec<_> = names.map(|name| (rank(&name), name)).collect();
    names.sort();
    names.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Levenshtein distance in bytes, over one row.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j].min(diagonal) + 1);
        }
    }
    row[b.len()]
}
