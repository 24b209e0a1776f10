//! The CUDA backend without a GPU: the text of every kernel of every fixture is under insta, compiles for every
//! architecture, and its machine code keeps no values in local memory and has the instructions that make it fast.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::{
    Compilation, Options, Precision, Weights,
    backends::cuda::{Cubin, Nvrtc, Source, reading, sources},
    checkpoint::Checkpoint,
    compress::{ActivationType, Rounding},
    models, optimize,
};
use ir::{Call, Element, Graph, Operand, Program, Role, Target};
use rayon::prelude::*;
use satura::{compiler, ir, nvrtc};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The kernels of a model, each with its sources for each architecture.
type Kernels = Vec<(String, BTreeMap<&'static str, Vec<Source>>)>;

/// Those of every fixture, by name; generated once for all tests.
fn fixtures() -> &'static BTreeMap<String, Kernels> {
    static FIXTURES: OnceLock<BTreeMap<String, Kernels>> = OnceLock::new();
    FIXTURES.get_or_init(|| {
        let folders: Vec<(String, PathBuf)> = folders().into_iter().collect();
        let kernels = folders
            .into_par_iter()
            .map(|(name, path)| (name, kernels(&path, Weights::Stored, ActivationType::F32)));
        kernels.collect()
    })
}

/// Where every fixture is, by name.
fn folders() -> BTreeMap<String, PathBuf> {
    let folder = root().join("tests/fixtures").read_dir().unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.is_dir());
    let named = |path: PathBuf| {
        (
            path.file_name().unwrap().to_str().unwrap().to_string(),
            path,
        )
    };
    paths.map(named).collect()
}

/// The kernels of a model whose weights and activations are stored so.
fn kernels(path: &Path, weights: Weights, activations: ActivationType) -> Kernels {
    let options = Options {
        precision: Precision {
            weights,
            activations,
            ..Precision::default()
        },
        ..Options::new("sm_90a".parse().unwrap())
    };
    let checkpoint = Checkpoint::open(path).unwrap();
    let compilation = Compilation::new(&checkpoint, &options, &|_, _, _| {}).unwrap();
    let symbols = compilation.symbols();
    let kernels = compilation.kernels().0.into_iter();
    kernels
        .map(|unit| {
            let sources = |arch| (arch, sources(&unit, &symbols, arch).unwrap());
            let sources = architectures().into_iter().map(sources);
            (unit.name.clone(), sources.collect())
        })
        .collect()
}

/// What is generated for a kernel, once for all of its sources: of those after the first, what differs.
fn describe(label: &str, sources: &[Source]) -> String {
    let mut text = format!("// {label}\n");
    for (i, source) in sources.iter().enumerate() {
        let rows = match source.rows {
            u64::MAX => "any number of".into(),
            rows => format!("up to {rows}"),
        };
        let Source {
            name,
            tasks,
            threads,
            shared,
            resident,
            scratch,
            ..
        } = source;
        writeln!(
            text,
            "// {name} for {rows} rows: {} in {}s by {} columns; {threads} threads, {shared} bytes shared, \
             {resident} resident, {scratch} bytes of scratch",
            tasks.rows, tasks.rows_per_task, tasks.columns
        )
        .unwrap();
        let known: BTreeSet<&str> = match i {
            0 => BTreeSet::new(),
            _ => sources[0].generated.lines().collect(),
        };
        let new = source.generated.lines().filter(|l| !known.contains(l));
        new.for_each(|line| writeln!(text, "{line}").unwrap());
    }
    text
}

#[test]
fn texts() {
    // Under the first model that has it.
    let mut seen = BTreeSet::new();
    for (name, kernels) in fixtures() {
        let mut text = String::new();
        for (label, sources) in kernels {
            let sources = &sources["sm_90a"];
            if seen.insert(describe("", sources)) {
                writeln!(text, "{}", describe(label, sources)).unwrap();
            }
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(root().join("snapshots"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(format!("{name}@cuda"), text));
    }
}

/// Every architecture that code is generated for.
fn architectures() -> Vec<&'static str> {
    let gpu = |name: &&str| name.parse().is_ok_and(|target: Target| target.is_gpu());
    Target::names().filter(gpu).collect()
}

/// NVIDIA's disassembler: the one that `NVDISASM` names, or the one on the path.
fn disassemble(cubin: &Cubin) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &cubin.bytes).unwrap();
    let program = env::var_os("NVDISASM").unwrap_or_else(|| "nvdisasm".into());
    let run = Command::new(program).arg("-c").arg(file.path()).output();
    let output = run.ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nvdisasm: {said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What the assembler says against a kernel: values in local memory, on the stack or spilled.
fn spills(cubin: &Cubin) -> Option<String> {
    // `0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads`.
    let frame = cubin.log.lines().find(|line| line.contains("stack frame"));
    let frame = frame.unwrap_or("0: no word of the stack frame");
    let frame = frame.trim_start_matches(|c: char| !c.is_ascii_digit());
    let good = frame.trim() == "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
    (!good).then(|| frame.to_string())
}

/// Promised instructions that a kernel's machine code lacks; none where there is no disassembler to tell.
fn broken_promises(promises: &[&[&str]], cubin: &Cubin) -> Option<Vec<String>> {
    let code = disassemble(cubin);
    assert!(
        code.is_some() || env::var_os("CI").is_none(),
        "no nvdisasm: install it (`pip install nvidia-cuda-nvdisasm`) and set NVDISASM"
    );
    let code = code?;
    let has = |parts: &[&str]| {
        code.lines()
            .any(|line| parts.iter().all(|part| line.contains(part)))
    };
    let promises = promises.iter().filter(|parts| !has(parts));
    let broken = promises.map(|parts| format!("no instruction with {parts:?}"));
    Some(broken.collect())
}

/// Kernels that passed in an earlier run, so that a run costs what is new in it: a file each, named by all that the
/// verdict depends on. There are over a thousand, and NVRTC takes a tenth of a second for each.
struct Proven {
    folder: PathBuf,
    /// Of this test and the compiler.
    judge: String,
}

impl Proven {
    fn new(nvrtc: &Nvrtc) -> Proven {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proven-cubins");
        std::fs::create_dir_all(&folder).unwrap();
        let judge = format!("{:?} {}", nvrtc.version(), include_str!("cubins.rs"));
        Proven { folder, judge }
    }

    fn file(&self, text: &str, arch: &str, read: bool) -> PathBuf {
        let parts = [&*self.judge, text, arch, if read { "read" } else { "" }];
        let mut hash = blake3::Hasher::new();
        for part in parts {
            hash.update(&part.len().to_le_bytes())
                .update(part.as_bytes());
        }
        self.folder.join(hash.finalize().to_hex().as_str())
    }
}

/// NVRTC, which CI has.
fn compiler() -> Option<Nvrtc> {
    match nvrtc::find(None) {
        Ok(nvrtc) => Some(nvrtc),
        Err(why) => {
            assert!(env::var_os("CI").is_none(), "{why}");
            println!("not checked: {why}");
            None
        }
    }
}

#[test]
fn the_kernel_that_reads_memory() {
    let Some(nvrtc) = compiler() else { return };
    for arch in architectures() {
        let cubin = nvrtc.compile(&reading::text(), arch).unwrap();
        assert_eq!(spills(&cubin), None, "{arch}");
        let broken = broken_promises(&[&["LDG.E", ".128"]], &cubin);
        assert_eq!(broken.unwrap_or_default(), [""; 0], "{arch}");
    }
}

/// Rows of a warp and of a block, behind other work, before rounding and before products.
const ROTATIONS: &str = "sym T <= 64
graph(x: f32[T,96], y: f32[T,4096], weight w: f32[40,96]) {
    %x = hadamard(rms_norm(x) {eps=1e-5}) {block=32}
    %few = fake_quantize(hadamard(x) {block=4}) {element=q8, group=32, scale=f32}
    return linear(%x, w), %few, softmax(hadamard(y) {block=64})
}";

/// A graph whose inputs are weights, and data.
fn compiled(text: &str) -> Compilation {
    let graph: Graph = text.parse().unwrap();
    let mut program = Program::default();
    let mut args = vec![];
    for v in graph.inputs() {
        let (name, role) = graph.as_input(*v).unwrap();
        let (name, ty) = (name.clone(), graph.ty(*v).clone());
        args.push(match role {
            Role::Weight => Operand::Weight(name.clone()),
            _ => Operand::Input(name.clone()),
        });
        match role {
            Role::Weight => program.weights.insert(name, ty),
            _ => program.inputs.insert(name, ty),
        };
    }
    for output in 0..graph.outputs.len() {
        let result = Operand::Result { call: 0, output };
        program.outputs.insert(format!("{output}").into(), result);
    }
    program.graph("g", graph);
    program.calls.push(Call {
        graph: "g".into(),
        args,
        updates: vec![],
    });
    let checkpoint = Checkpoint::open(&folders()["llama_gqa"]).unwrap();
    let (_, description) = models::build(checkpoint.config(), &checkpoint).unwrap();
    let sizes = optimize::Options::at([("T", 2)]);
    let options = Options::new("sm_90a".parse().unwrap());
    Compilation::of(program, description, &sizes, &options, &|_, _, _| {}).unwrap()
}

#[test]
fn rotations() {
    let Some(nvrtc) = compiler() else { return };
    let compilation = compiled(ROTATIONS);
    let mut rotating = 0;
    for unit in compilation.kernels().0 {
        for arch in architectures() {
            for source in sources(&unit, &compilation.symbols(), arch).unwrap() {
                if !source.generated.contains("hadamard<") {
                    continue;
                }
                rotating += 1;
                assert!(source.shared > 0, "{}", source.generated);
                let cubin = nvrtc.compile(&source.text(), arch);
                let cubin = cubin.unwrap_or_else(|e| panic!("{e}\n{}", source.generated));
                assert_eq!(spills(&cubin), None, "{arch}\n{}", source.generated);
            }
        }
    }
    assert_eq!(rotating, 3 * architectures().len());
}

/// Heads that no fixture has: by warps, and by a warpgroup where there are any, of few blocks and of many.
#[test]
fn attention_of_bf16() {
    let Some(nvrtc) = compiler() else { return };
    let narrow = |x: &str| format!("cast(cast(mul({x}, 2.0)) {{to=bf16}}) {{to=f32}}");
    let (q, k, v) = (narrow("q"), narrow("k"), narrow("v"));
    let mut found = BTreeMap::new();
    for (h, g, d) in [
        (32, 8, 128),
        (32, 8, 64),
        (12, 12, 64),
        (16, 16, 80),
        (8, 4, 256),
    ] {
        let text = format!(
            "sym R <= 4096\nsym T <= 4096\ngraph(q: f32[T,{h},{d}], k: f32[R,{g},{d}], v: f32[R,{g},{d}], lo: i32[T], hi: i32[T]) {{
                return attention({q}, {k}, {v}, lo, hi) {{scale=0.1, softcap=0.0}}
            }}"
        );
        let compilation = compiled(&text);
        for unit in compilation.kernels().0 {
            for arch in architectures() {
                for source in sources(&unit, &compilation.symbols(), arch).unwrap() {
                    if !["warps", "warpgroup"].contains(&source.name) {
                        continue;
                    }
                    *found.entry((source.name, arch)).or_insert(0) += 1;
                    let cubin = nvrtc.compile(&source.text(), arch).unwrap();
                    let what = format!("{arch}, {h} heads of {d}\n{}", source.generated);
                    assert_eq!(spills(&cubin), None, "{what}");
                    let broken = broken_promises(source.promises(), &cubin).unwrap_or_default();
                    assert_eq!(broken, [""; 0], "{what}");
                }
            }
        }
    }
    assert_eq!(found[&("warps", "sm_80")], 9);
    assert_eq!(found[&("warps", "sm_90a")], 3);
    assert_eq!(found[&("warpgroup", "sm_90a")], 6);
}

#[test]
fn machine_code() {
    let Some(nvrtc) = compiler() else { return };
    // Kernels of different models are often the same.
    let mut unique: BTreeMap<(&str, String), (String, Source)> = BTreeMap::new();
    let rounded = |element, activations: bool| {
        Weights::Rounded(Rounding {
            element,
            group: 32,
            activations: activations.then_some(Element::Q8),
        })
    };
    // Of few bits those of a decoder and an encoder: other models differ in bodies and shapes, which weights do not touch.
    let (wide, narrow) = (ActivationType::F32, ActivationType::Bf16);
    let few = ["llama_gqa", "bert_tokcls"].into_iter().flat_map(|name| {
        [
            (rounded(Element::Q8, true), wide),
            (rounded(Element::Q4, false), wide),
            (rounded(Element::Q4, false), narrow),
            (rounded(Element::E4M3, false), wide),
            (rounded(Element::E4M3, false), narrow),
            (Weights::Stored, narrow),
        ]
        .map(|(weights, activations)| {
            let kernels = kernels(&folders()[name], weights, activations);
            (format!("{name} ({weights:?}, {activations:?})"), kernels)
        })
    });
    let few: Vec<(String, Kernels)> = few.collect();
    let stored = fixtures().iter();
    for (name, kernels) in stored.chain(few.iter().map(|(name, kernels)| (name, kernels))) {
        for (label, sources) in kernels {
            for (arch, sources) in sources {
                for source in sources.clone() {
                    let what = format!("{name}, {label}: {} ({arch})", source.name);
                    let unique = unique.entry((arch, source.text()));
                    unique.or_insert((what, source));
                }
            }
        }
    }
    assert!(unique.len() > 50, "only {} kernels", unique.len());
    // Disassembling takes longer than compiling: one kernel of each form, which differ in shapes and bodies.
    let mut forms = BTreeSet::new();
    let mut first = |arch: &str, source: &Source| {
        let form = |line: &&str| {
            ["Codec", "TERMS", "ROWS", "TM"]
                .iter()
                .any(|w| line.contains(w))
        };
        let form: Vec<&str> = source.generated.lines().filter(form).collect();
        let form = (arch.to_string(), source.name, form.join("\n"));
        !source.promises().is_empty() && forms.insert(form)
    };
    let all: Vec<_> = unique
        .into_iter()
        .map(|((arch, text), (what, source))| {
            let read = first(arch, &source);
            (arch, text, what, source, read)
        })
        .collect();
    let proven = Proven::new(&nvrtc);
    let found: Vec<String> = all
        .par_iter()
        .flat_map(|(arch, text, what, source, read)| {
            let file = proven.file(text, arch, *read);
            if file.exists() {
                return vec![];
            }
            let (faults, certain): (Vec<String>, bool) = match nvrtc.compile(text, arch) {
                Ok(cubin) => {
                    let promises = match read {
                        true => broken_promises(source.promises(), &cubin),
                        false => Some(vec![]),
                    };
                    let certain = promises.is_some();
                    let promises = promises.unwrap_or_default();
                    (
                        spills(&cubin).into_iter().chain(promises).collect(),
                        certain,
                    )
                }
                Err(error) => (vec![error.to_string()], true),
            };
            if faults.is_empty() && certain {
                std::fs::write(file, "").unwrap();
            }
            let named = |fault| format!("{what}: {fault}");
            faults.into_iter().map(named).collect::<Vec<_>>()
        })
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
