//! Measuring what kernels cost: a few sizes give a table, which is kept, found again, and part of what compiled models are
//! kept by. No time is asserted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::{Options, checkpoint::Checkpoint, optimize::cost::CostTable, predict};
use satura::{
    Cache, Key, Opening, Source, compiler,
    measure::{Step, prediction},
    runtime::devices::Device,
    tune::{self, Machine, Points, Tables},
};
use std::{fs, path::Path, sync::Arc};

fn tiny() -> (Machine, CostTable) {
    let machine = Machine::cpu(Some(2));
    let table = tune::tune(&machine, &Points::fewest(), &|_, _, _| {}).unwrap();
    (machine, table)
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

#[test]
fn a_table_is_measured_kept_found_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let tables = Tables::of(&cache);
    let here = Machine::here(Device::Cpu, None).unwrap();
    assert!(tables.find(&here).unwrap().is_none());
    let (_, table) = tiny();
    assert_eq!(table.products.len(), 8);
    assert!(
        table
            .products
            .iter()
            .any(|p| p.inputs != table.products[0].inputs)
    );

    // Another number of threads is another machine.
    let more = Machine::cpu(Some(here.threads + 1));
    let file = tables.keep(&more, &table).unwrap();
    assert_eq!(*tables.find(&more).unwrap().unwrap(), table);
    assert!(tables.path(&here) != file && tables.find(&here).unwrap().is_none());

    // What is compiled says so, and is predicted by it.
    let source = Source::Directory(fixture("llama_gqa"));
    let open = || {
        let how = Opening {
            cache: Some(cache.clone()),
            ..Opening::default()
        };
        satura::open(&source, &how).unwrap()
    };
    let before = open();
    tables.keep(&here, &table).unwrap();
    let after = open();
    assert!(after.compile.is_some(), "another table is another artifact");
    assert!(
        open().compile.is_none(),
        "the same table is the same artifact"
    );
    let costs = |opened: &satura::Opened| predict::Costs::of(opened.model.manifest()).unwrap();
    assert!(
        costs(&before).about.contains("analytic"),
        "{}",
        costs(&before).about
    );
    assert_eq!(costs(&after).about, table.about());
    let step = |tokens, keys| Step {
        tokens,
        selected: 1,
        sequences: 1,
        keys,
    };
    for opened in [&before, &after] {
        let predict = |step| prediction::predict(opened.model.manifest(), &costs(opened), step);
        let (one, many) = (predict(step(1, 8.0)), predict(step(32, 8.0)));
        assert!(0.0 < one && one <= many, "{one} {many}");
    }
    // What an artifact keeps is looked at as a file is.
    let mut manifest = after.model.manifest().clone();
    for (_, text) in &mut manifest.report {
        *text = text.replace("\"products\":[", "\"products\":[],\"before\":[");
    }
    let error = predict::Costs::of(&manifest).unwrap_err().to_string();
    assert!(error.contains("lacks products"), "{error}");
}

#[test]
fn a_damaged_table_is_named_and_does_without() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let here = Machine::here(Device::Cpu, None).unwrap();
    let file = Tables::of(&cache).path(&here);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let check = |content: &str, expected: &str| {
        fs::write(&file, content).unwrap();
        let error = Tables::of(&cache).find(&here).unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
        assert!(
            error.contains(expected) && error.contains("satura tune"),
            "{error}"
        );
        let how = Opening {
            cache: Some(cache.clone()),
            ..Opening::default()
        };
        let opened = satura::open(&Source::Directory(fixture("llama_gqa")), &how).unwrap();
        let told = |w: &String| w.contains("not used") && w.contains(expected);
        assert!(opened.warnings.iter().any(told), "{:?}", opened.warnings);
    };
    check("{\"kernels\"", "is damaged");
    check(
        "{\"kernels\": 1, \"compiler\": \"0.0.1\"}",
        "of other kernels",
    );
}

#[test]
fn a_table_is_part_of_the_key() {
    let checkpoint = Checkpoint::open(&fixture("llama_gqa")).unwrap();
    let (_, table) = tiny();
    let mut other = table.clone();
    other.boundary += 1;
    let key = |costs: Option<&CostTable>| {
        let options = Options {
            costs: costs.cloned().map(Arc::new),
            ..Options::new(Machine::cpu(None).target)
        };
        Key::new(&checkpoint, &options).unwrap()
    };
    assert!(key(None) != key(Some(&table)) && key(Some(&table)) != key(Some(&other)));
    assert!(key(Some(&table)) == key(Some(&table.clone())));
}
