"""The least time that work can take on this machine: what has to be read and multiplied, and how fast the machine does
that (`satura bench --roofline`). Counts what the work is, not what anybody makes of it."""

from satura import satura
from work import Decode, Encode, Prefill

# Bytes of a weight, and the product that its precision allows; quantized weights have a scale for each 32.
PRECISIONS = {
    "f32": (4, "f32_gflop_per_s"),
    "bf16": (2, "bf16_gflop_per_s"),
    "q8": (34 / 32, "i8_gop_per_s"),
    "q4": (18 / 32, "i8_gop_per_s"),
    "int8": (1, "i8_gop_per_s"),
}

# Bytes of a key's or value's element: f16.
CACHED = 2


def measure(binary, threads):
    return satura(binary, "bench", "--roofline", "--threads", threads)


def best(found):
    """Of several measurements: others on a machine only ever slow one down."""
    return {key: max(f[key] for f in found) if found[0][key] is not None else None for key in found[0]}


def keys_and_values(config, tokens):
    """Bytes of a sequence's cache."""
    heads = config.get("num_key_value_heads", config["num_attention_heads"])
    head = config["hidden_size"] // config["num_attention_heads"]
    return 2 * CACHED * config["num_hidden_layers"] * heads * head * tokens


def least(work, config, precision, ceilings):
    """Seconds, and which ceiling it is: `read`, or the kind of product."""
    hidden, inner, layers = (config[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    heads = config["num_attention_heads"]
    shared = config.get("num_key_value_heads", heads) * hidden // heads
    decodes = "num_key_value_heads" in config
    weights = layers * (2 * hidden * hidden + 2 * hidden * shared + (3 if decodes else 2) * hidden * inner)
    head = config["vocab_size"] * hidden if decodes else 0
    if isinstance(work, Encode):
        tokens, selected, pairs, cache = sum(work.lengths), 0, sum(n * n for n in work.lengths), 0
    elif isinstance(work, Prefill):
        tokens, selected, pairs, cache = work.tokens, 1, work.tokens * (work.tokens + 1) // 2, 0
    else:
        assert isinstance(work, Decode)
        tokens = selected = work.streams
        pairs, cache = work.streams * work.context, work.streams * keys_and_values(config, work.context)
    size, product = PRECISIONS[precision]
    # Some processors have no such product, and some are faster without it.
    product = max("f32_gflop_per_s", product, key=lambda kind: ceilings[kind] or 0)
    operations = 2 * (weights * tokens + head * selected) + 4 * layers * hidden * pairs
    reading = ((weights + head) * size + cache) / ceilings["read_gb_per_s"] * 1e-9
    computing = operations / ceilings[product] * 1e-9
    if reading > computing:
        return reading, "read"
    return computing, product.split("_")[0]
