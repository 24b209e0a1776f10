//! Products that are large enough for the tiles of warpgroups, of each height: the suite's are not.

use crate::{suite::shapes::check_rows, targets};

#[test]
fn products_by_warpgroups() {
    let narrow = "cast(cast(x) {to=bf16}) {to=f32}";
    let stored = |w: &str| format!("cast({w}) {{to=f32}}");
    let few = |w: &str, bits: u8| {
        let wide = stored(w);
        format!("fake_quantize({wide}) {{element=q{bits}, group=32, scale=f16}}")
    };
    let body = |product: &str| format!("sub(add({product}, residual), 0.5)");
    for target in targets() {
        for (k, product) in [
            // Rows of f32, and of bf16 with and without copies of 16 bytes.
            (40, format!("linear(x, {})", stored("a"))),
            (72, format!("linear({narrow}, {})", stored("a"))),
            (68, format!("linear({narrow}, {})", stored("a"))),
            (64, format!("linear(x, {})", few("a", 8))),
            (160, format!("linear({narrow}, {})", few("a", 4))),
            (
                72,
                format!(
                    "swiglu(linear({narrow}, {}), linear({narrow}, {}))",
                    stored("a"),
                    stored("b")
                ),
            ),
            (
                64,
                format!(
                    "swiglu(linear({narrow}, {}), linear({narrow}, {}))",
                    few("a", 4),
                    few("b", 4)
                ),
            ),
        ] {
            let text = format!(
                "sym T <= 512
                graph(x: f32[T,{k}], residual: f32[T,4232], weight a: bf16[4232,{k}], weight b: bf16[4232,{k}]) {{
                    return {}
                }}",
                body(&product)
            );
            check_rows(&text, [20, 65, 200, 300], &target);
        }
    }
}
