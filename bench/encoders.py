"""ONNX Runtime and OpenVINO, in this process."""

from work import median, timed, tokens


class OnnxSession:
    """A graph in ONNX Runtime, fully optimized."""

    def __init__(self, model, threads):
        import numpy as np
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
        integers = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
        self.inputs = {i.name: integers[i.type] for i in self.session.get_inputs()}

    def run(self, ids, mask):
        feed = {"input_ids": ids, "token_type_ids": ids * 0, "attention_mask": mask}
        feed = {name: feed[name].astype(dtype) for name, dtype in self.inputs.items()}
        return lambda: self.session.run(None, feed)[0]


class OpenVinoSession:
    """A graph in OpenVINO, in f32 also where the processor would rather have bf16."""

    def __init__(self, model, threads):
        import openvino

        core = openvino.Core()
        options = {
            "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        self.model = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
        self.inputs = [i.any_name for i in self.model.inputs]
        self.request = self.model.create_infer_request()

    def run(self, ids, mask):
        import numpy as np

        feed = {"input_ids": ids, "token_type_ids": ids * 0, "attention_mask": mask}
        feed = {name: feed[name].astype(np.int64) for name in self.inputs}
        return lambda: self.request.infer(feed, share_inputs=True)[0]


class Encoder:
    """A peer that encodes, in the way that is fastest at these lengths: each of its graphs, and, where lengths differ,
    a padded batch with a mask or one sequence after another."""

    def __init__(self, session, graphs, lengths, threads, vocabulary, seconds):
        """`graphs` are functions of whether there is a mask, by name."""
        import numpy as np

        rows = [np.array([tokens(n, vocabulary)]) for n in lengths]
        ragged = len(set(lengths)) > 1
        padded, mask = np.zeros((2, len(lengths), max(lengths)), np.int64)
        for i, row in enumerate(rows):
            padded[i, : row.size], mask[i, : row.size] = row, 1
        ways = {}
        for name, graph in graphs.items():
            runs = [session(graph(masked=ragged), threads).run(padded, mask)]
            ways[f"{name}, padded" if ragged else name] = runs
            if ragged:
                alone = session(graph(masked=False), threads)
                ways[f"{name}, one by one"] = [alone.run(row, row * 0 + 1) for row in rows]
        trials = {name: median(timed(runs), seconds) for name, runs in ways.items()}
        self.way = min(trials, key=trials.get)
        self.sample, self.seconds = timed(ways[self.way]), seconds

    def turn(self):
        return median(self.sample, self.seconds)

    def close(self):
        self.sample = None
