//! Low rank and rotations are found where they are: a model some of whose weights have few directions and noise, others all of
//! them, and some outliers. Under a budget of bytes, so that no clock decides.

use super::{DEFAULT, satura, text};
use half::bf16;
use safetensors::{Dtype, SafeTensors, serialize_to_file, tensor::TensorView};
use std::{fs, path::Path};
use tempfile::TempDir;

/// Weights of these layers are given so many directions.
const PLANTED: [(usize, usize); 2] = [(0, 32), (1, 64)];

/// One of 97 elements of this layer's weights is so many times as large.
const OUTLIERS: (usize, f32) = (3, 16.0);

/// Noise, relative to the weight.
const NOISE: f32 = 1e-3;

/// Of mean 0 and variance 1, near enough to normal: sums of three numbers at random.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn matrix(&mut self, n: usize, k: usize, scale: f32) -> Vec<f32> {
        let mut normal = || (0..3).map(|_| self.uniform()).sum::<f32>();
        (0..n * k).map(|_| normal() * scale).collect()
    }
}

/// A matrix `[n, k]` of rank `rank`, and noise, with elements of about 1 / sqrt(k).
fn low_rank(noise: &mut Noise, [n, k]: [usize; 2], rank: usize) -> Vec<u8> {
    let scale = (k as f32).powf(-0.5);
    let left = noise.matrix(n, rank, (rank as f32).powf(-0.5));
    let right = noise.matrix(rank, k, scale);
    let rest = noise.matrix(n, k, scale * NOISE);
    let element = |i: usize| {
        let (row, column) = (i / k, i % k);
        let products = (0..rank).map(|r| left[row * rank + r] * right[r * k + column]);
        bf16::from_f32(products.sum::<f32>() + rest[i])
    };
    (0..n * k).flat_map(|i| element(i).to_le_bytes()).collect()
}

/// Elements of bf16, some of which are made outliers.
fn with_outliers(data: &[u8]) -> Vec<u8> {
    let elements = data.as_chunks().0.iter().enumerate();
    let planted = elements.map(|(i, x)| match (i % 97, bf16::from_le_bytes(*x)) {
        (0, x) => bf16::from_f32(x.to_f32() * OUTLIERS.1),
        (_, x) => x,
    });
    planted.flat_map(|x| x.to_le_bytes()).collect()
}

/// The default model with planted feed-forward layers.
fn plant(dir: &Path) {
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(Path::new(DEFAULT).join(name), dir.join(name)).unwrap();
    }
    let bytes = fs::read(Path::new(DEFAULT).join("model.safetensors")).unwrap();
    let given = SafeTensors::deserialize(&bytes).unwrap();
    let mut noise = Noise(7);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = given
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), Dtype::BF16);
            let of = |layer: usize| name.starts_with(&format!("model.layers.{layer}.mlp."));
            let planted = PLANTED.iter().find(|(layer, _)| of(*layer));
            let data = match (planted, tensor.shape()) {
                (Some((_, rank)), [n, k]) => low_rank(&mut noise, [*n, *k], *rank),
                _ if of(OUTLIERS.0) => with_outliers(tensor.data()),
                _ => tensor.data().to_vec(),
            };
            (name, tensor.shape().to_vec(), data)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), data).unwrap();
        (name, view)
    });
    serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

#[test]
fn ranks_and_outliers_are_found_where_they_are() {
    let dir = TempDir::new().unwrap();
    plant(dir.path());
    let file = dir.path().join("m.satura");
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let args = [
        "compile",
        text(dir.path()),
        "-o",
        text(&file),
        "--calibrate",
        readme,
        "--calibration-tokens",
        "1024",
        "--budget",
        "bytes=6MB",
        "--json",
    ];
    let compiled = satura(&args).json();
    for row in compiled["certificate"]["rows"].as_array().unwrap() {
        let (weight, form) = (
            row["weight"].as_str().unwrap(),
            row["form"].as_str().unwrap(),
        );
        let planted = PLANTED
            .iter()
            .find(|(layer, _)| weight.starts_with(&format!("model.layers.{layer}.mlp.")));
        match planted {
            Some((_, rank)) => assert!(form.starts_with(&format!("r{rank}(")), "{row}"),
            None if weight.starts_with(&format!("model.layers.{}.mlp.", OUTLIERS.0)) => {
                assert!(form.contains("rotated"), "{row}");
            }
            // Trained feed-forward layers have all directions; some queries have few by themselves.
            None if weight.contains(".mlp.") => assert!(!form.starts_with('r'), "{row}"),
            None => {}
        }
    }
}
