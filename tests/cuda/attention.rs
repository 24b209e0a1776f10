//! Attention where all that it multiplies is stored as bf16: by warps, and by warpgroups. Kernels round probabilities to bf16, too.

use crate::{suite::shapes::check_rows_within, targets};

/// Half a last bit of bf16, of values up to 2.
const ROUNDED: f64 = 8e-3;

#[test]
fn attention_of_bf16() {
    let narrow = |x: &str| format!("cast(cast(mul({x}, 2.0)) {{to=bf16}}) {{to=f32}}");
    let (q, k, v) = (narrow("q"), narrow("k"), narrow("v"));
    let graph = |(h, g, d): (i64, i64, i64), attributes: &str| {
        format!(
            "sym R <= 512\nsym T <= 512\ngraph(q: f32[T,{h},{d}], k: f32[R,{g},{d}], v: f32[R,{g},{d}], lo: i32[T], hi: i32[T]) {{
                return attention({q}, {k}, {v}, lo, hi) {{{attributes}}}
            }}"
        )
    };
    for target in targets() {
        // With scores that stand out, peaks rise from tile to tile.
        for (h, g, attributes) in [
            (2, 2, "scale=0.2, softcap=0.0"),
            (4, 1, "scale=0.2, softcap=5.0"),
            (6, 2, "scale=3.0, softcap=0.0"),
        ] {
            // Copied by 16 bytes, with and without elements beyond a head's; in panels.
            for d in [8, 24, 64, 80, 128, 256] {
                let text = graph((h, g, d), attributes);
                check_rows_within(&text, [17, 65, 333], &target, ROUNDED);
            }
        }
        // Many blocks, for which they are larger.
        for d in [40, 64, 128] {
            let text = graph((1024, 256, d), "scale=0.2, softcap=0.0");
            check_rows_within(&text, [81], &target, ROUNDED);
        }
    }
}
