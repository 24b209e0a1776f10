#!/usr/bin/env python3
"""What each theme of rewrite rules is worth on this machine: models compiled without it, in turns with the whole.

    python3 bench/ablation.py [--models LIST] [--without LIST] [--satura PATH] [--threads N] [--rounds N]

Prints for each model and theme the launches of a step, bytes of weights, the time, and the median over rounds of the
time without the theme over that with all rules: above 1 the theme pays. A theme that is none to the model (the plan is
the same) is not measured. By the optimizer's own prediction, rule by rule:
cargo run --release -p satura-compiler --example ablation -- --rules MODEL..
"""

import argparse
import pathlib
import statistics
import tempfile

import environment

HERE = environment.HERE

if __name__ == "__main__":
    environment.enter(["numpy", "ml_dtypes", "safetensors"], [])

import checkpoints
from satura import Satura, satura
from work import Decode, Encode, Prefill

THEMES = ["fusion", "merge", "folding", "embedding", "layout", "attention", "algebra", "composites"]
DEFAULT = HERE.parent / "examples" / "docs-llama-4m"
# By name: the model's folder, and what is measured.
MODELS = {
    "docs-llama-4m decode": (lambda: DEFAULT, Decode(64)),
    "docs-llama-4m prefill": (lambda: DEFAULT, Prefill(128)),
    "minilm 1x16": (checkpoints.minilm, Encode((16,))),
    "minilm 1x128": (checkpoints.minilm, Encode((128,))),
    "bert-base 1x128": (checkpoints.bert_base, Encode((128,))),
    "llama-1b decode": (checkpoints.llama_1b, Decode(128)),
}


def compiled(binary, folder, theme, to):
    """An artifact without the theme, and what its plan is; nothing where it does not compile."""
    without = ["--without", theme] if theme else []
    satura(binary, "compile", folder, "-o", to, *without)
    found = satura(binary, "explain", to)
    plan = found["plan"]
    # Of each graph the kernels, without what the optimizer says of itself.
    kernels = [part["text"].split("\n")[2:] for part in found["report"] if part["heading"].startswith("graph ")]
    return {"artifact": to, "launches": plan["launches"], "weights": found["bytes"]["weights"], "kernels": kernels}


def turns(args, pair, work):
    """Seconds of both, measured alternately."""
    sides = [Satura(args.satura, plan["artifact"], [], work, args.threads, args.seconds) for plan in pair]
    try:
        return list(zip(*[[side.turn() for side in sides] for _ in range(args.rounds)]))
    finally:
        for side in sides:
            side.close()


def model(args, name, folder, work):
    print(f"\n{name:22} {'launches':>8} {'weights':>10} {'time':>10}   time without / with")
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        whole = compiled(args.satura, folder, None, pathlib.Path(scratch, "whole.satura"))
        told = False
        for theme in args.without:
            try:
                plan = compiled(args.satura, folder, theme, pathlib.Path(scratch, "without.satura"))
            except RuntimeError as error:
                print(f"- {theme:20} does not compile: {error}")
                continue
            row = f"- {theme:20} {plan['launches']:8} {plan['weights'] / 1e6:7.1f} MB"
            if plan["kernels"] == whole["kernels"]:
                print(f"{row} the same plan", flush=True)
                continue
            full, less = turns(args, [whole, plan], work)
            if not told:
                told = True
                print(f"{'all rules':22} {whole['launches']:8} {whole['weights'] / 1e6:7.1f} MB {milliseconds(full)}")
            ratio = statistics.median(b / a for a, b in zip(full, less))
            print(f"{row} {milliseconds(less)}   {ratio:.3f}", flush=True)


def milliseconds(seconds):
    return f"{statistics.median(seconds) * 1e3:7.3f} ms"


def listed(text, known):
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(known)}")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=lambda t: listed(t, MODELS), default=list(MODELS), help="names, with commas between")
    parser.add_argument("--without", type=lambda t: listed(t, THEMES), default=THEMES, help="themes, with commas between")
    parser.add_argument("--satura", type=pathlib.Path, default=HERE.parent / "target" / "release" / "satura")
    parser.add_argument("--scratch", help="folder for compiled models: twice the largest")
    parser.add_argument("--threads", type=int, help="and cores; by default all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn")
    args = parser.parse_args()
    args.threads = environment.pin(args.threads)
    environment.MODELS.mkdir(exist_ok=True)
    for name in args.models:
        folder, work = MODELS[name]
        model(args, name, folder(), work)


if __name__ == "__main__":
    main()
