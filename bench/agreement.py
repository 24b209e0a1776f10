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

# Largest relative L2 error of hidden states, and of logits where llama.cpp rounds activations to bf16 and its cache to f16.
STATES, LOGITS = 2e-4, 2e-2

# How much farther than a peer's rounded outputs satura's may be from exact ones: the luck of rounding.
LUCK = 1.1


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
        limit = LUCK * relative(np.concatenate(theirs), np.concatenate(states))
    found = verified(binary, folder, weights, threads, precision, reference)
    results = [verdict(f"{folder.name} {precision} {k}", o["relative_l2_error"], limit) for k, o in found.items()]
    if embeds:
        texts = [word for sentence in SENTENCES for word in ("-p", sentence)]
        ours = satura(binary, "run", folder, "--threads", threads, *weights, *texts)["results"]
        error = relative(np.array([r["embedding"] for r in ours]), reference["embedding"])
        results.append(verdict(f"{folder.name} {precision} embedding of text", error, STATES))
    return results


def decoder(binary, folder, weights, precision, threads, config, exact, rounded):
    """Logits of a prompt against llama.cpp's on `exact`, a GGUF file of the weights as they are, and how often both
    prefer the same token. Of rounded weights, no farther from it than llama.cpp's own on the file `rounded`."""
    import numpy as np

    ids = tokens(64, config["vocab_size"])

    def logits(file):
        peer = llamacpp.LlamaCpp(file, Prefill(len(ids)), threads, config["vocab_size"], 0)
        found = peer.logits(ids)
        peer.close()
        return found

    expected, limit = logits(exact), LOGITS
    if rounded != exact:
        limit = LUCK * relative(logits(rounded), expected)
    reference = {"input_ids": np.array([ids]), "logits": expected[None]}
    found = verified(binary, folder, weights, threads, precision, reference)["logits"]
    what = f"{folder.name} {precision} logits"
    return [verdict(what, found["relative_l2_error"], limit, top1=found["top1_agreement"])]
