//! Statistics on disk: a folder with a file of moments for each call and one of sensitivities, each put in place whole, so
//! that a pass that was interrupted goes on where it was. Knows files; not where numbers come from.

use super::Error;
use crate::staged;
use compiler::compress::{Inputs, Matrix, Moments};
use runtime::devices::Bytes;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a file of moments says of how many rows each is.
const ROWS: &str = "rows";

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// What rounding one weight to 4 bits in groups of 32 does to the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// Mean divergence from the model as it is, nats a row of logits.
    pub kl: f64,
    /// Standard error of that.
    pub error: f64,
}

impl Store {
    /// In a folder, which is made where it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(folder: impl Into<PathBuf>) -> Result<Store, Error> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(|source| io(&folder, source))?;
        Ok(Store { folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn moments_of(&self, call: usize) -> PathBuf {
        self.folder.join(format!("call-{call:04}.safetensors"))
    }

    /// Whether the moments of a call are there.
    pub fn has(&self, call: usize) -> bool {
        self.moments_of(call).is_file()
    }

    /// Writes the moments that the sites of a call have, each once.
    ///
    /// # Errors
    /// The disk.
    pub fn write(&self, call: usize, moments: &[Moments]) -> Result<(), Error> {
        let path = self.moments_of(call);
        let broken = |e: &dyn std::fmt::Display| Error::Damaged {
            path: path.clone(),
            why: e.to_string(),
        };
        let bytes = |x: &[f32]| -> Vec<u8> { x.iter().flat_map(|x| x.to_le_bytes()).collect() };
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = vec![];
        for (i, m) in moments.iter().enumerate() {
            let k = m.mean().len();
            let second = m.second().map_err(|e| broken(&e))?;
            tensors.push((format!("second.{i}"), vec![k, k], bytes(&second.data)));
            tensors.push((format!("mean.{i}"), vec![k], bytes(m.mean())));
            tensors.push((format!("max.{i}"), vec![k], bytes(m.max())));
        }
        // One entry: the order of several would differ from run to run.
        let rows: Vec<String> = moments.iter().map(|m| m.rows().to_string()).collect();
        let about = HashMap::from([(ROWS.to_string(), rows.join(","))]);
        let views = tensors.iter().map(|(name, shape, data)| {
            TensorView::new(Dtype::F32, shape.clone(), data).map(|view| (name.clone(), view))
        });
        let views = views
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| broken(&e))?;
        let data = safetensors::serialize(views, Some(about)).map_err(|e| broken(&e))?;
        self.put(&path, &data)
    }

    /// The moments of a call, opened: what is asked for of them is read.
    ///
    /// # Errors
    /// The file is missing or damaged.
    pub fn open(&self, call: usize) -> Result<Opened, Error> {
        let path = self.moments_of(call);
        let data = Bytes::map(&path)?;
        let broken = |why: String| Error::Damaged {
            path: path.clone(),
            why,
        };
        let (_, header) = SafeTensors::read_metadata(&data).map_err(|e| broken(e.to_string()))?;
        let about = header.metadata().as_ref();
        let rows = about.and_then(|a| a.get(ROWS)).map_or("", String::as_str);
        let rows = rows.split(',').filter(|r| !r.is_empty());
        let rows: Result<Vec<u64>, _> = rows.map(str::parse).collect();
        let rows = rows.map_err(|_| broken("a count of rows is none".into()))?;
        Ok(Opened { path, data, rows })
    }

    /// Sensitivities measured so far, by site.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn sensitivities(&self) -> Result<BTreeMap<usize, Sensitivity>, Error> {
        self.json("sensitivity.json").map(Option::unwrap_or_default)
    }

    /// Writes them.
    ///
    /// # Errors
    /// The disk.
    pub fn write_sensitivities(&self, all: &BTreeMap<usize, Sensitivity>) -> Result<(), Error> {
        self.write_json("sensitivity.json", all)
    }

    /// What a file of the folder says; `None` where there is none.
    ///
    /// # Errors
    /// It is damaged.
    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.folder.join(name);
        let Ok(text) = fs::read(&path) else {
            return Ok(None);
        };
        let read = serde_json::from_slice(&text);
        read.map(Some).map_err(|e| Error::Damaged {
            path,
            why: e.to_string(),
        })
    }

    /// Writes a file of the folder.
    ///
    /// # Errors
    /// The disk.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.folder.join(name);
        let text = serde_json::to_vec_pretty(value).map_err(|e| Error::Damaged {
            path: path.clone(),
            why: e.to_string(),
        })?;
        self.put(&path, &text)
    }

    fn put(&self, path: &Path, data: &[u8]) -> Result<(), Error> {
        let staged = staged::Staged::new(&self.folder).map_err(|source| io(path, source))?;
        let written = staged.file().write_all(data);
        let done = written.and_then(|()| staged.commit(path));
        done.map_err(|source| io(path, source))
    }
}

/// A call's moments, in the order in which they were written.
pub struct Opened {
    path: PathBuf,
    data: Bytes,
    /// Tokens of each.
    rows: Vec<u64>,
}

impl Opened {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    fn broken(&self, why: &dyn std::fmt::Display) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }

    /// Bytes of the second moments, which are `k` by `k`, the means and the largest values.
    fn parts(&self, i: usize) -> Result<[&[[u8; 4]]; 3], Error> {
        let tensors = SafeTensors::deserialize(&self.data).map_err(|e| self.broken(&e))?;
        let mut parts = [&[][..]; 3];
        for (part, name) in parts.iter_mut().zip(["second", "mean", "max"]) {
            let tensor = tensors.tensor(&format!("{name}.{i}"));
            *part = tensor.map_err(|e| self.broken(&e))?.data().as_chunks().0;
        }
        let k = parts[1].len();
        match parts.map(<[_]>::len) == [k * k, k, k] {
            true => Ok(parts),
            false => Err(self.broken(&format!("sizes of the moments {i} do not fit together"))),
        }
    }

    /// The moments of that number.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn moments(&self, i: usize) -> Result<Moments, Error> {
        let [second, mean, max] = self.parts(i)?.map(floats);
        let second = Matrix::new(mean.len(), mean.len(), second);
        Ok(Moments::new(self.rows[i], second, mean, max))
    }

    /// What errors are told from, of the moments of that number: of many inputs the smaller part of the file.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn inputs(&self, i: usize) -> Result<Inputs, Error> {
        let [second, mean, max] = self.parts(i)?;
        let (k, rows) = (mean.len(), self.rows[i]);
        let squares: Vec<[u8; 4]> = second.iter().step_by(k + 1).copied().collect();
        let alone = Moments::alone(rows, floats(&squares), floats(mean), floats(max));
        let mut parts = vec![];
        for columns in Inputs::parts(k) {
            if columns.len() == k {
                parts.push(Arc::new(self.moments(i)?));
                continue;
            }
            let of = |xs: &[[u8; 4]]| columns.iter().map(|c| f32::from_le_bytes(xs[*c])).collect();
            let each = columns.iter().flat_map(|row| {
                let row = &second[row * k..][..k];
                columns.iter().map(move |c| f32::from_le_bytes(row[*c]))
            });
            let second = Matrix::new(columns.len(), columns.len(), each.collect());
            parts.push(Arc::new(Moments::new(rows, second, of(mean), of(max))));
        }
        Ok(Inputs::new(alone, parts))
    }
}

fn floats(bytes: &[[u8; 4]]) -> Vec<f32> {
    bytes.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.into(),
        source,
    }
}
