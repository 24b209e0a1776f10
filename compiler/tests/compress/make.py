"""Reference results of compression methods, computed with numpy alone (f64, the papers' own formulations).

    python make.py     writes problem.safetensors beside this file

`weight` [48, 96] and `second` [96, 96], the mean of x x^T over correlated inputs of which some are large and one is always
zero; `fisher` [48]. `gptq.B.codes` and `gptq.B.scales`: GPTQ with activation order and static groups of 32 at B bits,
as in the reference implementation (inverse of the damped moments, its upper Cholesky factor, column after column), but that
inputs which are always zero get the mean of the others' moments and keep their weights.
`svd.curve`: tr(D H D^T) of the best product of each rank 0..48, from singular values of W S with H = S S^T (SVD-LLM);
`svd.fisher_curve`: the same with rows weighted. `nearest.error.B`, `gptq.error.B`: tr(D H D^T).
"""

import pathlib

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(5)
N, K, TOKENS, GROUP = 48, 96, 400, 32


def problem():
    mix = rng.normal(size=(K, K)) / np.sqrt(K)
    x = rng.normal(size=(TOKENS, K)) @ (0.4 * mix + np.diag(rng.uniform(0.2, 1.0, K)))
    x[:, rng.choice(K, 6, replace=False)] *= 8.0
    x[:, 17] = 0.0
    weight = rng.normal(size=(N, K)) * 0.05
    weight[:, 40] *= 6.0
    second = (x.T @ x / TOKENS).astype(np.float32)
    return weight.astype(np.float32), second, rng.uniform(0.1, 2.0, N).astype(np.float32), x


def nearest(weight, bits):
    """Codes, and scales of f16, of each group of columns."""
    most = np.float32(2 ** (bits - 1) - 1)
    groups = weight.reshape(N, K // GROUP, GROUP)
    scales = (np.abs(groups).max(-1) / most).astype(np.float16)
    wide = np.repeat(scales.astype(np.float32), GROUP, axis=1)
    return np.clip(np.round(weight / wide), -most, most).astype(np.int8), scales


def decode(codes, scales):
    return codes.astype(np.float64) * np.repeat(scales.astype(np.float64), GROUP, axis=1)


def gptq(weight, second, bits):
    most = 2 ** (bits - 1) - 1
    _, scales = nearest(weight, bits)
    wide = np.repeat(scales.astype(np.float64), GROUP, axis=1)
    h = second.astype(np.float64).copy()
    dead = np.diag(h) == 0
    h[dead, dead] = np.mean(np.diag(h)[~dead])
    order = np.argsort(-np.diag(h), kind="stable")
    h += 0.01 * np.mean(np.diag(h)) * np.eye(K)
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    w = weight.astype(np.float64)[:, order].copy()
    codes = np.zeros((N, K), np.int8)
    for i, column in enumerate(order):
        scale = wide[:, column]
        q = np.clip(np.round(w[:, i] / scale), -most, most)
        codes[:, column] = q
        error = (w[:, i] - q * scale) / upper[i, i]
        w[:, i:] -= np.outer(error, upper[i, i:])
    return codes, scales


def error(weight, other, second):
    d = weight.astype(np.float64) - other
    return np.trace(d @ second.astype(np.float64) @ d.T)


def curve(weight, second, rows):
    h = second.astype(np.float64)
    values, vectors = np.linalg.eigh(h)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    sigma = np.linalg.svd(np.sqrt(rows.astype(np.float64))[:, None] * (weight @ root), compute_uv=False)
    return np.concatenate([np.cumsum((sigma**2)[::-1])[::-1], [0.0]])


weight, second, fisher, x = problem()
out = {"weight": weight, "second": second, "fisher": fisher}
out["mean"] = x.mean(0).astype(np.float32)
out["max"] = np.abs(x).max(0).astype(np.float32)
for bits in (4, 8):
    codes, scales = gptq(weight, second, bits)
    out[f"gptq.{bits}.codes"], out[f"gptq.{bits}.scales"] = codes, scales
    out[f"gptq.error.{bits}"] = np.array([error(weight, decode(codes, scales), second)])
    out[f"nearest.error.{bits}"] = np.array([error(weight, decode(*nearest(weight, bits)), second)])
out["svd.curve"] = curve(weight, second, np.ones(N))
out["svd.fisher_curve"] = curve(weight, second, fisher)
save_file(out, pathlib.Path(__file__).with_name("problem.safetensors"))
for name in sorted(out):
    if "error" in name:
        print(name, out[name])
