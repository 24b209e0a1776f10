"""A BERT checkpoint as ONNX: in standard ops, in the fused ops that ONNX Runtime's own transformer optimizer turns such
a graph into (EmbedLayerNormalization, Attention, SkipLayerNormalization, BiasGelu), and either with its products
quantized to int8. Inputs are [B, S]; `masked` graphs take an attention mask besides."""

import json
import pathlib
import tempfile


class Draft:
    """A graph that grows by a node at a time; values go by name."""

    def __init__(self, integers, masked):
        self.nodes, self.constants, self.count = [], {}, 0
        self.integers = integers
        self.inputs = ["input_ids", "token_type_ids"] + ["attention_mask"] * masked

    def constant(self, array):
        import numpy as np
        from onnx import numpy_helper

        name = f"w{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def op(self, kind, inputs, outputs=1, domain="", **attributes):
        from onnx import helper

        names = [f"v{self.count + i}" for i in range(outputs)]
        self.count += outputs
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0]

    def fused(self, kind, inputs, outputs=1, **attributes):
        return self.op(kind, inputs, outputs, "com.microsoft", **attributes)

    def model(self, output, width):
        from onnx import TensorProto, helper

        inputs = [helper.make_tensor_value_info(n, self.integers, ["B", "S"]) for n in self.inputs]
        nodes = [*self.nodes, helper.make_node("Identity", [output], ["last_hidden_state"])]
        outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["B", "S", width])]
        graph = helper.make_graph(nodes, "bert", inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


class Bert:
    """A checkpoint's tensors by what they are."""

    def __init__(self, folder):
        import numpy as np
        from safetensors.numpy import load_file

        config = json.loads((folder / "config.json").read_text())
        found = load_file(folder / "model.safetensors")
        self.tensors = {k: v.astype(np.float32) for k, v in found.items() if v.dtype != np.int64}
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.hidden, self.eps = config["hidden_size"], config["layer_norm_eps"]

    def pair(self, name):
        return self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]

    def layer(self, i, name):
        return self.pair(f"encoder.layer.{i}.{name}")

    def tables(self):
        return [self.tensors[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type")]


def standard(folder, masked=False):
    import numpy as np
    from onnx import TensorProto

    bert = Bert(folder)
    draft = Draft(TensorProto.INT64, masked)
    op, constant = draft.op, draft.constant
    head = bert.hidden // bert.heads

    def linear(x, name):
        w, b = bert.layer(i, name)
        return op("Add", [op("MatMul", [x, constant(w.T)]), constant(b)])

    def norm(x, pair):
        return op("LayerNormalization", [x, *map(constant, pair)], axis=-1, epsilon=bert.eps)

    def part(x, name, perm):
        return op("Transpose", [op("Reshape", [linear(x, f"attention.self.{name}"), split])], perm=perm)

    words, positions, types = map(constant, bert.tables())
    length = op("Shape", ["input_ids"], start=1, end=2)
    rows = op("Slice", [positions, constant(np.array([0], np.int64)), length])
    x = op("Add", [op("Gather", [words, "input_ids"]), op("Gather", [types, "token_type_ids"])])
    x = norm(op("Add", [x, rows]), bert.pair("embeddings.LayerNorm"))
    split = constant(np.array([0, 0, bert.heads, head], np.int64))
    joined = constant(np.array([0, 0, bert.hidden], np.int64))
    scale = constant(np.array(head**0.5, np.float32))
    if masked:
        mask = op("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        mask = op("Unsqueeze", [mask, constant(np.array([1, 2], np.int64))])
        hidden = op("Sub", [constant(np.array(1, np.float32)), mask])
        hidden = op("Mul", [hidden, constant(np.array(np.finfo(np.float32).min, np.float32))])
    for i in range(bert.layers):
        q, k, v = (part(x, n, p) for n, p in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])))
        scores = op("Div", [op("MatMul", [q, k]), scale])
        if masked:
            scores = op("Add", [scores, hidden])
        y = op("Transpose", [op("MatMul", [op("Softmax", [scores], axis=-1), v])], perm=[0, 2, 1, 3])
        y = linear(op("Reshape", [y, joined]), "attention.output.dense")
        x = norm(op("Add", [y, x]), bert.layer(i, "attention.output.LayerNorm"))
        y = linear(op("Gelu", [linear(x, "intermediate.dense")]), "output.dense")
        x = norm(op("Add", [y, x]), bert.layer(i, "output.LayerNorm"))
    return draft.model(x, bert.hidden)


def fused(folder, masked=False):
    import numpy as np
    from onnx import TensorProto

    bert = Bert(folder)
    draft = Draft(TensorProto.INT32, masked)
    constant = draft.constant
    tables = [constant(t) for t in (*bert.tables(), *bert.pair("embeddings.LayerNorm"))]
    x = draft.fused("EmbedLayerNormalization", ["input_ids", "token_type_ids", *tables], 2, epsilon=bert.eps)

    def residual(y, x, i, name, norm):
        (w, b), pair = bert.layer(i, name), bert.layer(i, norm)
        y = draft.op("MatMul", [y, constant(w.T)])
        return draft.fused("SkipLayerNormalization", [y, x, *map(constant, pair), constant(b)], epsilon=bert.eps)

    for i in range(bert.layers):
        qkv = [bert.layer(i, f"attention.self.{n}") for n in ("query", "key", "value")]
        w = constant(np.concatenate([w.T for w, _ in qkv], axis=1))
        b = constant(np.concatenate([b for _, b in qkv]))
        mask = draft.inputs[2:]
        y = draft.fused("Attention", [x, w, b, *mask], num_heads=bert.heads)
        x = residual(y, x, i, "attention.output.dense", "attention.output.LayerNorm")
        w, b = bert.layer(i, "intermediate.dense")
        y = draft.fused("BiasGelu", [draft.op("MatMul", [x, constant(w.T)]), constant(b)])
        x = residual(y, x, i, "output.dense", "output.LayerNorm")
    return draft.model(x, bert.hidden)


def quantized(model, exact):
    """`model` with int8 weights, and activations quantized as they come, by ONNX Runtime's dynamic quantization. Where
    the processor's products of bytes saturate (`exact` is false), weights have seven bits, as its manual advises."""
    import logging

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Types are not inferred past ops of another domain.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}

    # It advises a preparation that graphs written for inference do not need.
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "int8.onnx"
        quantize_dynamic(
            model, file, per_channel=True, reduce_range=not exact, weight_type=QuantType.QInt8, extra_options=options
        )
        return onnx.load(file)
