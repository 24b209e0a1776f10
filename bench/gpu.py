"""Decoders and an encoder on one GPU, satura beside torch.compile, at the shapes that docs/performance.md lists.

    python3 bench/gpu.py [--satura PATH] [--cases 1b,1b-q8,...] [--no-peers] [--folder DIR] [--json FILE]

Weights are random, made where they are missing (`random_llama.py`); 8B needs 50 GB of disk. Needs torch, transformers and safetensors,
a GPU, and NVRTC for `satura compile`. Times are the device's own, medians; the ceiling is how fast torch sums 8 GB of them.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import torch

HERE = pathlib.Path(__file__).parent
CONTEXT, PROMPT = 512, 1024
# Name: shape, how weights are stored, what to reach in ms: a step, a prompt.
CASES = {
    "1b": ("1b", None, 0.85, 3.8),
    "1b-q8": ("1b", "q8", 1e3 / 1700, None),
    "1b-q4": ("1b", "q4", 1e3 / 2000, None),
    "8b": ("8b", None, 3.9, 20.9),
    "8b-q4": ("8b", "q4", 1e3 / 650, None),
    "bert-1x128": ("bert", None, 0.35, None),
    "bert-32x128": ("bert", None, 2.0, None),
}


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


def median(once, runs: int = 30, before=lambda: None) -> float:
    """Milliseconds by the device's clock, without what is done before each."""
    times = []
    for _ in range(3 + runs):
        before()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        once()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times[3:])[runs // 2]


def ceiling() -> float:
    """Bytes read a second."""
    values = torch.randn(1 << 11, 1 << 20, device="cuda", dtype=torch.float32)
    total = torch.compile(lambda x: x.sum(dim=1))
    return values.nbytes / (median(lambda: total(values)) * 1e-3)


def model(folder: pathlib.Path, shape: str) -> pathlib.Path:
    place = folder / shape
    if (place / "config.json").exists():
        return place
    if shape == "bert":
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        BertModel(BertConfig()).to(torch.bfloat16).save_pretrained(place)
    else:
        run(sys.executable, str(HERE / "random_llama.py"), str(place), shape)
    return place


def satura(program: str, place: pathlib.Path, case: str) -> dict:
    """Milliseconds of a step and of a prompt, and of loading."""
    shape, weights, _, _ = CASES[case]
    artifact = place.parent / f"{case}.satura"
    if not artifact.exists():
        precision = ["--activations", "bf16"] + (["--weights", weights] if weights else [])
        precision += ["--cache-type", "bf16"] if shape != "bert" else []
        run(program, "compile", str(place), "-o", str(artifact), "--target", "sm_90a", *precision)
    bench = lambda *args: json.loads(run(program, "bench", str(artifact), "--roofline=none", "--json", *args))
    if shape == "bert":
        batch, length = case.removeprefix("bert-").split("x")
        found = bench("--seq", length, "--batch", batch)
        return {"step": found["device_latency_ms"]["p50"], "load": found["load_ms"]}
    step = bench("--prompt", str(CONTEXT), "--gen", "64")
    prompt = bench("--prompt", str(PROMPT), "--gen", "1")
    return {
        "step": step["device_step_ms"]["p50"],
        "with host": step["step_ms"]["p50"],
        "prompt": prompt["device_prefill_ms"]["p50"],
        "load": step["load_ms"],
    }


def graph(once, before=lambda: None):
    """What one call launches, as a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            before()
            once()
    before()
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, stream=side):
        once()
    return captured.replay


def peer(place: pathlib.Path, case: str) -> dict:
    """The same by torch.compile and a CUDA graph, in bf16 (encoders: fp16)."""
    import transformers

    if CASES[case][0] == "bert":
        batch, length = map(int, case.removeprefix("bert-").split("x"))
        net = transformers.BertModel.from_pretrained(place, dtype=torch.float16).cuda().eval()
        ids = torch.randint(0, 30000, (batch, length), device="cuda")
        encode = torch.compile(net)
        with torch.no_grad():
            return {"step": median(graph(lambda: encode(input_ids=ids)))}
    net = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16).cuda().eval()
    cache = transformers.StaticCache(config=net.config, max_cache_len=CONTEXT + PROMPT)
    forward = torch.compile(net)

    def time(first: int, tokens: int, runs: int) -> float:
        ids = torch.randint(0, net.config.vocab_size, (1, tokens), device="cuda")
        positions = torch.arange(first, first + tokens, device="cuda")

        def rewind():
            # Newer caches count what they have been given.
            for layer in cache.layers:
                if hasattr(layer, "cumulative_length"):
                    layer.cumulative_length.fill_(first)

        def once():
            forward(
                input_ids=ids, position_ids=positions[None], past_key_values=cache, cache_position=positions, logits_to_keep=1
            )

        return median(graph(once, rewind), runs, rewind)

    with torch.no_grad():
        return {"prompt": time(0, PROMPT, 10), "step": time(CONTEXT, 1, 30)}


def beside(args: argparse.Namespace, case: str) -> dict:
    """[`peer`] in a process of its own, which may fail by itself."""
    command = [sys.executable, __file__, "--folder", str(args.folder), "--peer", case]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{case}: torch ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--satura", default=str(HERE.parent / "target/release/satura"))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--folder", type=pathlib.Path, default=HERE / "models")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--peer", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(peer(args.folder / CASES[args.peer][0], args.peer)))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    query = "--query-gpu=name,driver_version,clocks.sm,clocks.mem"
    print(run("nvidia-smi", query, "--format=csv,noheader").strip())
    read = ceiling()
    print(f"read {read * 1e-12:.2f} TB/s")
    results = {"read": read}
    print(f"{'case':<12} {'':<6} {'satura ms':>10} {'to reach':>9} {'torch ms':>9} {'ratio':>6}")
    for case in args.cases.split(","):
        shape, weights, step, prompt = CASES[case]
        place = model(args.folder, shape)
        ours = satura(args.satura, place, case)
        theirs = {} if args.no_peers or weights else beside(args, case)
        results[case] = {"satura": ours, "torch": theirs}
        for what, reach in [("step", step), ("prompt", prompt)]:
            if what not in ours or reach is None:
                continue
            other = theirs.get(what)
            peers = f"{other:9.3f} {other / ours[what]:6.2f}" if other else ""
            print(f"{case:<12} {what:<6} {ours[what]:10.3f} {reach:9.3f} {peers}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
