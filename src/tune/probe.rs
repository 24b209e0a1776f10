//! A program of kernels to be timed, compiled and ready to run. Knows neither what it computes nor what times are for.

use super::Error;
use crate::{Cache, nvrtc, staged};
use compiler::{Compilation, Options, compress::Overlay, fold::Array, optimize};
use ir::{
    Description, Generation, Name, Positions, Program, Target, Task,
    artifact::{Core, Plan},
    feed,
};
use runtime::{EncoderInput, Model, Session, devices::Bytes};
use std::{io::BufWriter, sync::Arc, time::Duration};

/// What a program is to its session.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Most tokens of a sequence.
    pub context: usize,
    /// Ids that it looks up.
    pub vocabulary: usize,
    /// Whether it keeps keys and values, and gives logits.
    pub decodes: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Probe {
    /// Runs it.
    pub session: Session,
}

impl Probe {
    /// Compiles a program whose weights may hold any numbers, but those of `overlay`. It is judged at its largest step.
    ///
    /// # Errors
    /// It does not compile or load, or the target's compiler is missing.
    pub fn new(
        program: Program,
        overlay: &Overlay,
        shape: &Shape,
        target: &Target,
        threads: Option<usize>,
    ) -> Result<Probe, Error> {
        let model = compile(program, overlay, shape, target)?;
        let options = runtime::Options {
            threads,
            ..runtime::Options::default()
        };
        let session = Session::new(&model, options)?;
        Ok(Probe { session })
    }

    /// What it runs.
    pub fn plan(&self) -> &Plan {
        &self.session.model().manifest().plan
    }

    /// Runs sequences of so many tokens each, and gives the time of each launch.
    ///
    /// # Errors
    /// It fails to run.
    pub fn encode(&mut self, lengths: &[usize]) -> Result<Vec<Duration>, Error> {
        self.session.measure(true);
        self.run(lengths)?;
        Ok(self.session.times().map(|(_, time)| time).collect())
    }

    /// Runs sequences of so many tokens each, and gives the time of the whole step by the device's own clock.
    ///
    /// # Errors
    /// It fails to run, or the device has no clock.
    pub fn step(&mut self, lengths: &[usize]) -> Result<Duration, Error> {
        self.session.measure(false);
        self.clocked(|probe| probe.run(lengths))
    }

    /// The time of steps by the device's own clock.
    ///
    /// # Errors
    /// They fail, or the device has no clock.
    pub fn clocked(
        &mut self,
        steps: impl FnOnce(&mut Probe) -> Result<(), Error>,
    ) -> Result<Duration, Error> {
        self.session.clock()?;
        steps(self)?;
        self.session.elapsed().ok_or(Error::Clock)
    }

    fn run(&mut self, lengths: &[usize]) -> Result<(), Error> {
        let vocabulary = self.session.model().description().vocabulary;
        let longest = lengths.iter().max().copied().unwrap_or(0);
        let ids: Vec<u32> = (0..longest).map(|i| (i % vocabulary) as u32).collect();
        let input = |n: &usize| EncoderInput {
            ids: &ids[..*n],
            ..EncoderInput::default()
        };
        let inputs: Vec<EncoderInput<'_>> = lengths.iter().map(input).collect();
        self.session.encode(&inputs)?;
        Ok(())
    }

    /// For each launch the call that it belongs to, by name, and what it runs over.
    pub fn launches(&self) -> impl Iterator<Item = (&str, &Core<ir::Dim>)> {
        let plan = self.plan();
        plan.launches.iter().map(|launch| {
            let call = launch.name.split_once('.').map_or("", |(graph, _)| graph);
            (call, &plan.work[launch.kernel as usize].core)
        })
    }
}

fn compile(
    program: Program,
    overlay: &Overlay,
    shape: &Shape,
    target: &Target,
) -> Result<Arc<Model>, Error> {
    let description = Description {
        architecture: "kernels".into(),
        task: match shape.decodes {
            true => Task::CausalLm,
            false => Task::Embedding { normalize: false },
        },
        vocabulary: shape.vocabulary,
        token_types: 0,
        context: shape.context,
        layers: 0,
        hidden: 0,
        parameters: 0,
        positions: Positions::Index,
        eos: vec![],
        generation: Generation::default(),
        chat: None,
        image: None,
        source: [0; 32],
    };
    let types = program.weights.clone();
    let tokens = u32::try_from(shape.context).unwrap_or(u32::MAX);
    let sizes = optimize::Options::at([(feed::T, tokens), (feed::R, tokens)]);
    let options = Options {
        nvrtc: match target.is_gpu() {
            true => Some(nvrtc::find(Cache::of_user().as_ref())?),
            false => None,
        },
        ..Options::new(target.clone())
    };
    let quiet = |_, _, _| {};
    let compilation = Compilation::of(program, description, &sizes, &options, &quiet)?;
    let numbers = |name: &Name| {
        if let Some(array) = overlay.get(name) {
            return Ok(array);
        }
        let ty = &types[name];
        let shape: Vec<usize> = ty.shape.iter().filter_map(ir::Dim::size).collect();
        let bytes = some(shape.iter().product(), ty.dtype.bytes());
        Ok(Array::new(ty.dtype, &shape, bytes))
    };
    let failed = |source| Error::Write {
        path: std::env::temp_dir(),
        source,
    };
    let file = staged::in_memory().map_err(failed)?;
    let out = BufWriter::with_capacity(1 << 20, &file);
    compilation.write(&numbers, &[], out, &quiet)?;
    let bytes = Bytes::of_file("the kernels to be timed", &file)?;
    Ok(Model::from_bytes(bytes)?)
}

/// Small numbers of either sign in any float type of so many bytes. Zeros would be faster than numbers are on GPUs.
fn some(count: usize, width: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut number = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        // A high byte of 0x30 is a small exponent in f32, bf16 and f16.
        state & 0x80ff_ffff | 0x3000_0000
    };
    let pattern: Vec<u8> = (0..4099)
        .flat_map(|_| number().to_le_bytes()[4 - width.min(4)..].to_vec())
        .collect();
    pattern.into_iter().cycle().take(count * width).collect()
}
