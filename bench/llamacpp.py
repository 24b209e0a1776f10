"""llama.cpp, in this process."""

import time

from work import WINDOW, Decode, Prefill, median, tokens


class LlamaCpp:
    """llama.cpp on a GGUF file, by its C interface, with flash attention or without, whichever is faster; in contexts
    that take long to fill, as llama.cpp decides itself."""

    # Tokens of a context that is filled twice to see which is faster.
    SHORT = 1024

    def __init__(self, file, work, threads, vocabulary, seconds):
        import llama_cpp

        self.api, self.work, self.threads, self.vocabulary = llama_cpp, work, threads, vocabulary
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {file}")
        self.streams = work.streams if isinstance(work, Decode) else 1
        self.length = work.context + WINDOW if isinstance(work, Decode) else work.tokens
        self.context = None
        ways = {"flash attention": 1, "plain attention": 0} if self.length <= self.SHORT else {"default attention": -1}
        trials = {}
        for way, flash in ways.items():
            self.open(flash)
            trials[way] = median(self.sample, seconds) if len(ways) > 1 else 0
        self.way = min(trials, key=trials.get)
        if self.way != way:
            self.open(ways[self.way])
        self.seconds = seconds

    def open(self, flash):
        """A context, with the tokens in it that have to be there beforehand."""
        api = self.api
        if self.context:
            api.llama_free(self.context)
        options = api.llama_context_default_params()
        options.n_ctx = self.length * self.streams
        options.n_seq_max = self.streams
        options.n_threads = options.n_threads_batch = self.threads
        options.flash_attn_type = flash
        self.context = api.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.memory = api.llama_get_memory(self.context)
        # A whole context or prompt of a sequence is one batch; llama.cpp takes so many at once.
        self.most = api.llama_n_batch(self.context)
        self.batch = api.llama_batch_init(max(self.most, self.streams), 0, 1)
        self.position = 0
        if isinstance(self.work, Decode):
            for sequence in range(self.streams):
                self.append(sequence, self.work.context)
            self.position = self.work.context

    def append(self, sequence, count):
        """A sequence's first `count` tokens; gives the last one's logits."""
        ids = tokens(count, self.vocabulary)
        for start in range(0, count, self.most):
            part = ids[start : start + self.most]
            self.decode([(id, start + i, sequence, start + i + 1 == count) for i, id in enumerate(part)])
        return self.api.llama_get_logits_ith(self.context, -1)

    def decode(self, entries):
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (id, position, sequence, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = id, position, 1, wanted
            batch.seq_id[i][0] = sequence
        if self.api.llama_decode(self.context, batch):
            raise RuntimeError("llama.cpp cannot decode")

    def sample(self):
        api = self.api
        if isinstance(self.work, Prefill):
            api.llama_memory_clear(self.memory, True)
            start = time.perf_counter()
            self.append(0, self.work.tokens)
            return time.perf_counter() - start
        if self.position == self.length:
            self.position = self.work.context
            for sequence in range(self.streams):
                api.llama_memory_seq_rm(self.memory, sequence, self.position, -1)
        entries = [(5 + i, self.position, i, True) for i in range(self.streams)]
        start = time.perf_counter()
        self.decode(entries)
        api.llama_get_logits_ith(self.context, -1)
        self.position += 1
        return time.perf_counter() - start

    def logits(self, ids):
        """Of every token, `[len(ids), vocabulary]`."""
        import numpy as np

        self.api.llama_memory_clear(self.memory, True)
        self.decode([(id, i, 0, True) for i, id in enumerate(ids)])
        rows = []
        for i in range(len(ids)):
            row = self.api.llama_get_logits_ith(self.context, i)
            rows.append(np.ctypeslib.as_array(row, (self.vocabulary,)).copy())
        return np.stack(rows)

    def turn(self):
        return median(self.sample, self.seconds)

    def close(self):
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)
