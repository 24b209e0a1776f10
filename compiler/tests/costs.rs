//! The measured cost model: what a table says decides what is extracted, and a table that says nothing sensible is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::optimize::{
    self,
    cost::{CostModel, CostTable, Grid, Products, Scores},
};
use ir::{
    DType, Element, Graph, Op,
    abi::{ABI_VERSION, Codec},
    artifact::{Attention, Core, Product, Work},
};
use std::sync::Arc;

/// Times by a function of sizes.
fn grid(axes: &[&[u64]], time: impl Fn(&[u64]) -> u64) -> Grid {
    let axes: Vec<Vec<u64>> = axes.iter().map(|a| a.to_vec()).collect();
    let flat = vec![1; axes.iter().map(Vec::len).product()];
    let points = Grid::new(axes.clone(), flat).unwrap();
    let times = points.points().map(|(p, _)| time(&p)).collect();
    Grid::new(axes, times).unwrap()
}

/// A machine where a body of `n` operations an element takes `body(elements, n)`.
fn table(boundary: u64, body: impl Fn(u64, u64) -> u64) -> Arc<CostTable> {
    let sizes: &[u64] = &[1, 64, 4096];
    let product = |p: &[u64]| boundary + p[0] * p[1] * p[2];
    let products = |inputs, codec, times: u64| Products {
        inputs,
        codec,
        near: grid(&[sizes, sizes, sizes], product),
        far: grid(&[sizes, sizes, sizes], |p| times * product(p)),
    };
    let plain = Codec::Plain(DType::F32);
    let eight = Codec::Grouped {
        element: Element::Q8,
        group: 64,
    };
    Arc::new(CostTable {
        kernels: ABI_VERSION,
        compiler: env!("CARGO_PKG_VERSION").into(),
        machine: "a made-up one".into(),
        threads: 2,
        boundary,
        reads: grid(&[&[1 << 20, 1 << 25, 1 << 26]], |p| p[0]),
        products: vec![products(plain, plain, 3), products(plain, eight, 5)],
        maps: grid(&[&[1, 1 << 20], &[1, 64]], |p| boundary + body(p[0], p[1])),
        attention: vec![Scores {
            dtype: DType::F32,
            cached: false,
            tile: grid(&[&[64], sizes, sizes], |p| p[0] * p[1] * p[2]),
        }],
    })
}

#[test]
fn what_a_table_says_decides_what_is_shared() {
    let graph = "sym T <= 512
        graph(x: f32[T,256], a: f32[T,256], b: f32[T,256]) {
          %y = gelu(x)
          return add(%y, a), add(%y, b)
        }";
    let graph: Graph = graph.parse().unwrap();
    let check = |table: Arc<CostTable>, expected: usize| {
        let options = optimize::Options {
            cost: Box::new(table.of(0)),
            ..optimize::Options::at([("T", 64)])
        };
        let (best, _) = optimize::graph(&graph, &options).unwrap();
        let maps = best.cone(&best.outputs).into_iter();
        let maps = maps.filter(|v| matches!(best.op(*v), Some(Op::Map(_))));
        assert_eq!(maps.count(), expected, "{best}");
    };
    // Where starting is dear, what two kernels need is computed twice; where computing is, once.
    check(table(1_000_000_000, |_, _| 1), 2);
    check(table(1, |elements, operations| elements * operations), 3);
}

#[test]
fn kernels_cost_what_the_table_says() {
    let table = table(10, |elements, operations| elements * operations);
    let check = |weights: u64, work: Work, expected: u64| {
        assert_eq!(table.of(weights).kernel(&work), expected, "{work:?}");
    };
    let product = |codec, flops| Work {
        elements: 64 * 64,
        flops,
        core: Core::Product(Product {
            rows: 64,
            depth: 4096,
            columns: 64,
            inputs: Codec::Plain(DType::F32),
            codec,
        }),
        ..Work::default()
    };
    let plain = Codec::Plain(DType::F32);
    let alone = 10 + 64 * 64 * 4096;
    // By where weights lie.
    check(0, product(plain, 0), alone);
    check(1 << 30, product(plain, 0), 3 * alone);
    // The body comes on top, without a start of its own.
    let body = table.maps.at(&[64 * 64, 2]).round() as u64 - 10;
    check(0, product(plain, 2 * 64 * 64), alone + body);
    // Groups that were not measured cost what others do.
    check(
        1 << 30,
        product(
            Codec::Grouped {
                element: Element::Q8,
                group: 32,
            },
            0,
        ),
        5 * alone,
    );
    let attention = |rows| Work {
        core: Core::Attention(Attention {
            heads: 3,
            rows,
            keys: 64,
            dim: 64,
            dtype: DType::F32,
            cached: false,
        }),
        ..Work::default()
    };
    // Three tiles on two threads are two turns.
    check(0, attention(64), 10 + 2 * 64 * 64 * 64);
    check(0, attention(65), 10 + 3 * 64 * 64 * 64);
    check(0, Work::default(), 0);
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let table = table(7, |a, b| a + b);
    let read = CostTable::decode(table.encode().as_bytes()).unwrap();
    assert_eq!(read, *table);
    assert_eq!(read.digest(), table.digest());
    let mut other = read;
    other.boundary += 1;
    assert_ne!(other.digest(), table.digest());
}

#[test]
fn what_is_no_table_is_refused() {
    let text = table(7, |a, b| a + b).encode();
    let check = |from: &str, to: &str, expected: &str| {
        assert!(text.contains(from), "{from} in {text}");
        let damaged = text.replacen(from, to, 1);
        let error = CostTable::decode(damaged.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check("{", "", "is damaged");
    check("\"threads\":2", "\"threads\":0", "is damaged: lacks");
    check("[1,64,4096]", "[64,1,4096]", "does not ascend");
    check("\"axes\":[[1,64,4096],", "\"axes\":[", "times for");
    check("\"boundary\":7", "\"limit\":7", "missing field `boundary`");
    check("\"kernels\":", "\"kernels\":1", "run `satura tune` again");
    check("\"compiler\":\"", "\"compiler\":\"9", "of satura 9");
    let error = CostTable::decode(&[0xff, 0xfe]).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
}
