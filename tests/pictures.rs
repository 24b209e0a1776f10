//! Pictures become what the reference hands its model: every format, colour and filter, turned as the camera says.
//! `tests/pictures/make_pictures.py` asked it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::{checkpoint::Checkpoint, models};
use safetensors::SafeTensors;
use std::{fs, path::Path};

/// What a decoder or a filter may round differently, of 255.
const LEVELS: f32 = 2.5;

#[test]
fn pictures_are_the_reference_s() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let bytes = fs::read(tests.join("pictures/expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(expected.len(), 6 + 3 * 2);
    for (name, want) in expected.tensors() {
        let (preset, picture) = name.split_once('/').unwrap();
        let file = |from: &str, name: &str| {
            let content = fs::read(tests.join(from)).unwrap();
            (name.to_string(), content.into())
        };
        let checkpoint = Checkpoint::from_files([
            file("fixtures/vit/config.json", "config.json"),
            file("fixtures/vit/model.safetensors", "model.safetensors"),
            file(
                &format!("pictures/{preset}.json"),
                "preprocessor_config.json",
            ),
        ]);
        let checkpoint = checkpoint.unwrap();
        let (_, description) = models::build(checkpoint.config(), &checkpoint).unwrap();
        let form = description.image.unwrap();
        let got = satura::picture(&tests.join("pictures").join(picture), &form).unwrap();
        let want = want
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|x| f32::from_le_bytes(*x));
        let want: Vec<f32> = want.collect();
        assert_eq!(got.len(), want.len());
        let plane = want.len() / form.channels;
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let level = (form.scale.get() / form.std[i / plane].get()) as f32;
            let levels = (got - want).abs() / level;
            assert!(
                levels <= LEVELS,
                "{name}, {i}: {got} where the reference has {want}: {levels} levels"
            );
        }
    }
}
