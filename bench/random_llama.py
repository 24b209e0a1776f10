"""A Llama checkpoint of a published shape with random bf16 weights, for measuring speed: random_llama.py DIR 1b|8b.

Needs torch and safetensors; a file for each layer, so that little memory is needed.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

VOCABULARY = 128256
SHAPES = {
    "1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, head_dim=64, tie_word_embeddings=True),
    "8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, head_dim=128, tie_word_embeddings=False),
}
COMMON = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=VOCABULARY, max_position_embeddings=8192,
    num_attention_heads=32, num_key_value_heads=8, rms_norm_eps=1e-5, rope_theta=500000.0, hidden_act="silu",
    attention_bias=False, mlp_bias=False, bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16",
)


def main(folder: pathlib.Path, shape: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device=device).manual_seed(1)
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    queries, keys = 32 * shape["head_dim"], 8 * shape["head_dim"]

    def matrix(rows: int, columns: int) -> torch.Tensor:
        values = torch.randn(rows, columns, generator=generator, device=device)
        return (values * 0.02).bfloat16().cpu()

    index = {}

    def save(name: str, tensors: dict) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    ones = lambda: torch.ones(hidden, dtype=torch.bfloat16)
    ends = {"model.embed_tokens.weight": matrix(VOCABULARY, hidden), "model.norm.weight": ones()}
    if not shape["tie_word_embeddings"]:
        ends["lm_head.weight"] = matrix(VOCABULARY, hidden)
    save("model-ends.safetensors", ends)
    for i in range(shape["num_hidden_layers"]):
        layer = {
            "input_layernorm": ones(), "post_attention_layernorm": ones(),
            "self_attn.q_proj": matrix(queries, hidden), "self_attn.k_proj": matrix(keys, hidden),
            "self_attn.v_proj": matrix(keys, hidden), "self_attn.o_proj": matrix(hidden, queries),
            "mlp.gate_proj": matrix(inner, hidden), "mlp.up_proj": matrix(inner, hidden),
            "mlp.down_proj": matrix(hidden, inner),
        }
        save(f"model-{i:02}.safetensors", {f"model.layers.{i}.{name}.weight": t for name, t in layer.items()})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(COMMON | shape))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), SHAPES[sys.argv[2]])
