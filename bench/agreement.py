"""Whether those who are timed compute the same: satura's outputs against a peer's on the same tokens, by `satura
verify`, and for MiniLM from text as well."""

import os

import encoders
import llamacpp
import onnx_graphs
from environment import MODELS
from satura import satura
from work import Prefill, tokens

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "What is the capital of France?",
    "satura compiles a model and says what that cost.",
    "Yes.",
    "A sentence with numbers (3.14159, 42), code like `x += 1`, and an accent: café, naïve, Zürich.",
]

# Largest relative L2 error. llama.cpp rounds activations to the precision of its products, and its cache to f16.
LOGITS = {"f32": 5e-3, "bf16": 2e-2, "q8": 3e-2, "q4": 6e-2}
STATES = 2e-4


def relative(found, expected):
    import numpy as np

    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def verified(binary, folder, weights, threads, name, tensors):
    """What `satura verify` finds against `tensors`: an output's figures by its name."""
    from safetensors.numpy import save_file

    file = MODELS / f"{folder.name}-{name}-reference.safetensors"
    save_file(tensors, file)
    found = satura(binary, "verify", folder, "--reference", file, "--threads", threads, *weights)
    os.remove(file)
    return {o["name"]: o for o in found["outputs"]}


def verdict(what, error, limit, **more):
    return {"what": what, "error": error, "limit": limit, "agree": error <= limit, **more}


def encoder(binary, folder, weights, precision, threads, exact):
    """Hidden states of sequences of different lengths against ONNX Runtime in f32; of int8, no farther from it than
    ONNX Runtime's own int8. Of MiniLM in f32 the embeddings, too, as sentence-transformers makes them (mean of the
    tokens' states, scaled to unit length), from ids and from text."""
    import numpy as np
    from tokenizers import Tokenizer

    graph = onnx_graphs.standard(folder)
    peer = encoders.OnnxSession(graph, threads)
    file = folder / "tokenizer.json"
    if file.exists():
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        rows = [tokenizer.encode(s).ids for s in SENTENCES]
    else:
        rows = [tokens(n, 30000) for n in (5, 32, 17)]
    states = [peer.run(np.array([row]), np.array([row]))()[0] for row in rows]
    ids, mask = np.zeros((2, len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    padded = np.stack([np.pad(s, [(0, ids.shape[1] - len(s)), (0, 0)]) for s in states])
    reference = {"input_ids": ids, "attention_mask": mask, "last_hidden_state": padded}
    embeds = file.exists() and precision == "f32"
    if embeds:
        means = np.stack([s.mean(axis=0, dtype=np.float64) for s in states])
        reference["embedding"] = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    limit = STATES
    if precision == "int8":
        int8 = encoders.OnnxSession(onnx_graphs.quantized(graph, exact), threads)
        theirs = [int8.run(np.array([row]), np.array([row]))()[0] for row in rows]
        limit = relative(np.concatenate(theirs), np.concatenate(states))
    found = verified(binary, folder, weights, threads, precision, reference)
    results = [verdict(f"{folder.name} {precision} {k}", o["relative_l2_error"], limit) for k, o in found.items()]
    if embeds:
        texts = [word for sentence in SENTENCES for word in ("-p", sentence)]
        ours = satura(binary, "run", folder, "--threads", threads, *weights, *texts)["results"]
        error = relative(np.array([r["embedding"] for r in ours]), reference["embedding"])
        results.append(verdict(f"{folder.name} {precision} embedding of text", error, STATES))
    return results


def decoder(binary, folder, weights, precision, threads, config, file):
    """Logits of a prompt against llama.cpp's on a GGUF file of the same weights, and how often both prefer the same
    token."""
    import numpy as np

    ids = tokens(64, config["vocab_size"])
    peer = llamacpp.LlamaCpp(file, Prefill(len(ids)), threads, config["vocab_size"], 0)
    logits = peer.logits(ids)
    peer.close()
    reference = {"input_ids": np.array([ids]), "logits": logits[None]}
    found = verified(binary, folder, weights, threads, precision, reference)["logits"]
    what = f"{folder.name} {precision} logits"
    return [verdict(what, found["relative_l2_error"], LOGITS[precision], top1=found["top1_agreement"])]
