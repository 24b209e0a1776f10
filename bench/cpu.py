#!/usr/bin/env python3
"""satura and its peers side by side on this machine's processor: same models, same precision, same cores, in one run.

    python3 bench/cpu.py [--cases LIST] [--quick] [--json FILE] [--satura PATH] [--threads N]

The first run makes a virtual environment with the peers, and the models; llama.cpp is compiled for it. Prints for each
case how many times as fast as its fastest peer satura is. Exit code 1 where outputs disagree or something failed.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import sys
from dataclasses import replace
from importlib import metadata

import environment

PEERS = ["onnxruntime", "openvino", "onnx", "numpy", "safetensors", "tokenizers", "gguf"]
COMPILED = ["llama-cpp-python"]
HERE = environment.HERE

if __name__ == "__main__":
    environment.enter(PEERS, COMPILED)

import agreement
import ceilings
import checkpoints
import encoders
import llamacpp
import onnx_graphs
import report
from report import Case
from satura import NotBuiltYet, Satura, forget
from work import Decode, Encode, Prefill

# What satura is told about precision, where weights are not to be used as stored. llama.cpp's formats have groups of 32,
# and meet activations of 8 bits; those of bf16 meet bf16. Its cache is f16.
PRECISION = {
    "bf16": ["--activations", "bf16", "--cache-type", "f16"],
    "q8": ["--weights", "q8", "--activations", "q8", "--group", "32"],
    "q4": ["--weights", "q4", "--activations", "q8", "--group", "32"],
    "int8": ["--activations", "q8", "--group", "384"],
    "f32": ["--weights", "f32"],
}

# GGUF's name of the same precision.
GGUF = {"f32": "F32", "bf16": "BF16", "q8": "Q8_0", "q4": "Q4_0"}

RAGGED = (128, 17, 64, 5, 96, 33, 12, 48)


CASES = [
    Case("minilm", "1x16", "f32", Encode((16,))),
    Case("minilm", "1x128", "f32", Encode((128,)), 1.5),
    Case("minilm", "8x128", "f32", Encode((128,) * 8), 1.3),
    Case("minilm", "ragged", "f32", Encode(RAGGED)),
    Case("minilm", "1x128", "int8", Encode((128,)), 1.3),
    Case("bert-base", "1x128", "f32", Encode((128,)), 1.35),
    Case("bert-base", "8x128", "f32", Encode((128,) * 8), 1.3),
    Case("bert-base", "ragged", "f32", Encode(RAGGED)),
    Case("bert-base", "1x128", "int8", Encode((128,)), 1.3),
    Case("llama-1b", "decode", "bf16", Decode(128), 1.25),
    Case("llama-1b", "decode-8-streams", "bf16", Decode(128, 8)),
    Case("llama-1b", "decode-4k", "bf16", Decode(4096)),
    Case("llama-1b", "decode-16k", "bf16", Decode(16384)),
    Case("llama-1b", "prefill", "bf16", Prefill(128), 1.25),
    Case("llama-1b", "decode", "q8", Decode(128), 1.35),
    Case("llama-1b", "prefill", "q8", Prefill(128), 2),
    Case("llama-1b", "decode", "q4", Decode(128), 1.4),
    Case("llama-1b", "prefill", "q4", Prefill(128), 2),
    Case("llama-1b", "prefill", "f32", Prefill(128), 1.25),
]

FOLDERS = {"minilm": checkpoints.minilm, "bert-base": checkpoints.bert_base, "llama-1b": checkpoints.llama_1b}


class Bench:
    """A run: what was asked for, and what was found."""

    def __init__(self, args):
        self.args = args
        self.rounds, self.seconds = (2, 0.2) if args.quick else (args.rounds, args.seconds)
        self.exact = "vnni" in environment.machine()
        self.results, self.agreement, self.failures = [], [], []
        self.last = None

    def contenders(self, case, folder, config, weights):
        """Who takes part, by name: functions that make them."""
        args, work, vocabulary = self.args, case.work, config["vocab_size"]
        made = {"satura": lambda: Satura(args.satura, folder, weights, work, args.threads, self.seconds)}
        if not isinstance(work, Encode):
            kinds = [GGUF[case.precision]]
            # Processors without products of bf16 are faster with the other format of two bytes.
            if isinstance(work, Prefill) and kinds == ["BF16"]:
                kinds.append("F16")
            for kind in kinds:
                made[f"llama.cpp {kind}"] = lambda kind=kind: llamacpp.LlamaCpp(
                    checkpoints.gguf(folder, kind), work, args.threads, vocabulary, self.seconds
                )
            return made

        def encoder(session, graphs):
            return lambda: encoders.Encoder(session, graphs, work.lengths, args.threads, vocabulary, self.seconds)

        graphs = {
            "standard ops": lambda masked: onnx_graphs.standard(folder, masked),
            "fused ops": lambda masked: onnx_graphs.fused(folder, masked),
        }
        if case.precision == "int8":
            int8 = lambda graph: lambda masked: onnx_graphs.quantized(graph(masked), self.exact)
            made["ONNX Runtime"] = encoder(encoders.OnnxSession, {k: int8(g) for k, g in graphs.items()})
        else:
            made["ONNX Runtime"] = encoder(encoders.OnnxSession, graphs)
            made["OpenVINO"] = encoder(encoders.OpenVinoSession, {"standard ops": graphs["standard ops"]})
        return made

    def precision(self, case):
        """Weights of int8 have seven bits where products of bytes saturate, as ONNX Runtime's have."""
        flags = PRECISION.get(case.precision, [])
        return [*flags, "--weights", "q8" if self.exact else "q7"] if case.precision == "int8" else flags

    def attempt(self, what, make):
        """What `make` gives, or why there is nothing: a failure is told, and is not the end of the run."""
        try:
            return make()
        except NotBuiltYet as missing:
            environment.say(f"{what}: not built yet ({missing})")
            return "not built yet"
        except Exception as error:
            environment.say(f"{what}: FAILED: {error}")
            self.failures.append(f"{what}: {error}")
            return "failed"

    def run(self, case):
        """Contenders in turn, so that what slows the machine for a while slows all of them."""
        environment.say(case.name)
        folder = FOLDERS[case.model]()
        config = json.loads((folder / "config.json").read_text())
        weights = self.precision(case)
        if (case.model, case.precision) != self.last:
            self.last = (case.model, case.precision)
            forget()
            found = self.attempt(f"{case.name}: agreement", lambda: self.agree(case, folder, config, weights))
            self.agreement += found if isinstance(found, list) else []
        present, absent = {}, {}
        contenders = self.contenders(case, folder, config, weights)
        for name, make in contenders.items():
            made = self.attempt(f"{case.name}: {name}", make)
            (absent if isinstance(made, str) else present)[name] = made
        turns = {name: [] for name in present}
        for _ in range(self.rounds):
            for name in list(present):
                turn = self.attempt(f"{case.name}: {name}", present[name].turn)
                if isinstance(turn, str):
                    absent[name] = turn
                    present.pop(name).close()
                else:
                    turns[name].append(turn)
        entries = {name: {"why": why} for name, why in absent.items()}
        for name, contender in present.items():
            entries[name] = {"way": getattr(contender, "way", None), "turns": turns[name]}
            contender.close()
        entries = {name: entries[name] for name in contenders}
        self.results.append(report.Result(case, config, entries))

    def save(self, measured, load):
        """What was found so far, in the form that is stored."""
        found = {
            "machine": environment.machine(), "threads": self.args.threads, "load_before": load, "quick": self.args.quick,
            "rounds": self.rounds, "seconds": self.seconds,
            "versions": {p: metadata.version(p) for p in ("onnxruntime", "openvino", *COMPILED)},
            "ceilings": ceilings.best(measured), "agreement": self.agreement, "failures": self.failures,
        }
        found["cases"] = report.judged(self.results, found["ceilings"])
        if self.args.json:
            self.args.json.write_text(json.dumps(found, indent=1))
        return found

    def agree(self, case, folder, config, weights):
        args = self.args
        if isinstance(case.work, Encode):
            return agreement.encoder(args.satura, folder, weights, case.precision, args.threads, self.exact)
        rounded = checkpoints.gguf(folder, GGUF[case.precision])
        exact = checkpoints.gguf(folder, "BF16") if case.precision in ("q8", "q4") else rounded
        return agreement.decoder(args.satura, folder, weights, case.precision, args.threads, config, exact, rounded)


def picked(patterns):
    """Cases whose names begin with one of `patterns`, or match it as a glob."""
    patterns = patterns.split(",")
    found = [c for c in CASES if any(c.name.startswith(p) or fnmatch.fnmatch(c.name, p) for p in patterns)]
    if not found:
        sys.exit(f"--cases {','.join(patterns)}: no such case; there are {', '.join(c.name for c in CASES)}")
    return found


def quicker(case):
    """With a sixteenth of a long context."""
    work = case.work
    if isinstance(work, Decode):
        return replace(case, work=replace(work, context=max(128, work.context // 16)))
    return case


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="", help="names, beginnings of names, or globs, with commas between; all by default")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--quick", action="store_true", help="two short turns each: shows that all runs, not how fast")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each gets at each case")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--threads", type=int, help="and cores that all are kept on; by default all cores")
    parser.add_argument("--satura", type=pathlib.Path, default=HERE.parent / "target" / "release" / "satura")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="where the raw figures go")
    args = parser.parse_args()
    cases = picked(args.cases)
    if args.list:
        return print("\n".join(c.name for c in cases))
    if not args.satura.exists():
        sys.exit(f"{args.satura} is not there; build it (cargo build --release), or name it with --satura")
    args.threads = environment.pin(args.threads)
    environment.MODELS.mkdir(exist_ok=True)

    bench = Bench(args)
    load = os.getloadavg()[0]
    measured = [ceilings.measure(args.satura, args.threads)]
    for case in cases:
        bench.run(quicker(case) if args.quick else case)
        bench.save(measured, load)
    forget()
    measured.append(ceilings.measure(args.satura, args.threads))
    found = bench.save(measured, load)
    print(report.table(found), end="")
    sys.exit(1 if bench.failures or not all(a["agree"] for a in bench.agreement) else 0)


if __name__ == "__main__":
    main()
