//! Attention where all that it multiplies is stored as bf16: by warps, and by warpgroups. Kernels round probabilities to bf16, too.

use crate::{suite::shapes::check_rows_within, targets};

#[test]
fn attention_of_bf16() {
    let narrow = |x: &str| format!("cast(cast(mul({x}, 2.0)) {{to=bf16}}) {{to=f32}}");
    let (q, k, v) = (narrow("q"), narrow("k"), narrow("v"));
    for target in targets() {
        for (h, g) in [(2, 2), (4, 1), (6, 2)] {
            // Copied by 16 bytes, with and without elements beyond a head's; in panels.
            for d in [8, 24, 64, 80, 128, 256] {
                // The last makes some scores stand out, so that peaks rise from tile to tile.
                for (scale, cap) in [("0.2", "0.0"), ("0.2", "5.0"), ("3.0", "0.0")] {
                    let text = format!(
                        "sym R <= 1024\nsym T <= 1024\ngraph(q: f32[T,{h},{d}], k: f32[R,{g},{d}], v: f32[R,{g},{d}], \
                         lo: i32[T], hi: i32[T]) {{ return attention({q}, {k}, {v}, lo, hi) {{scale={scale}, softcap={cap}}} }}"
                    );
                    // Half a last bit of bf16, of values up to 2.
                    check_rows_within(&text, [17, 64, 65, 200, 333], &target, 8e-3);
                }
            }
        }
        // Many blocks, for which they are larger.
        for d in [40, 64, 128] {
            let text = format!(
                "sym R <= 256\nsym T <= 256\ngraph(q: f32[T,1024,{d}], k: f32[R,256,{d}], v: f32[R,256,{d}], lo: i32[T], \
                 hi: i32[T]) {{ return attention({q}, {k}, {v}, lo, hi) {{scale=0.2, softcap=0.0}} }}"
            );
            check_rows_within(&text, [64, 81], &target, 8e-3);
        }
    }
}
