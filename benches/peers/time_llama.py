"""Times llama.cpp on one shape of work, through its own C interface, and prints the rates as JSON.

Like llama-bench: no sampling, logits of the last token of each sequence only, default batch sizes, cache in f16.
"""

import ctypes
import json
import os
import sys
import time

import llama_cpp as api

# Steps of generating that warm up caches and threads.
WARM_UP_STEPS = 8


@api.llama_log_callback
def silent(_level, _text, _data):
    pass


class Timer:
    """An open model and a batch to fill."""

    def __init__(self, work: dict):
        self.work = work
        api.llama_backend_init()
        api.llama_log_set(silent, ctypes.c_void_p(0))
        self.model = api.llama_model_load_from_file(
            work["model"].encode(), api.llama_model_default_params()
        )
        if not self.model:
            sys.exit(f"{work['model']}: llama.cpp cannot load it")
        params = api.llama_context_default_params()
        longest = work["depth"] + max(work["prompt"], work["generate"])
        params.n_seq_max = work["batch"]
        # Every sequence has an equal share, in whole blocks.
        params.n_ctx = work["batch"] * ((longest + 255) // 256) * 256
        params.n_threads = params.n_threads_batch = work["threads"]
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit("llama.cpp cannot make a context")
        self.rows = params.n_batch
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(self.rows, 0, 1)
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        if work["adapter"]:
            adapter = api.llama_adapter_lora_init(self.model, work["adapter"].encode())
            if not adapter:
                sys.exit(f"{work['adapter']}: llama.cpp cannot load it")
            adapters = (api.llama_adapter_lora_p_ctypes * 1)(adapter)
            if api.llama_set_adapters_lora(self.context, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
                sys.exit("llama.cpp refuses the adapter")

    def decode(self, rows: list[tuple[int, int, bool]]) -> None:
        """One call over rows of (sequence, position, whether its logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (sequence, position, logits) in enumerate(rows):
            batch.token[i] = (position * 2654435769 + sequence * 97) % self.vocabulary
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = logits
        code = api.llama_decode(self.context, batch)
        if code != 0:
            sys.exit(f"llama_decode answers {code}")

    def read(self, sequence: int, start: int, count: int) -> None:
        for at in range(start, start + count, self.rows):
            end = min(at + self.rows, start + count)
            self.decode([(sequence, position, position + 1 == start + count) for position in range(at, end)])

    def once(self, most: int) -> float:
        """Seconds of a repetition."""
        work, depth = self.work, self.work["depth"]
        start = time.perf_counter()
        if work["prompt"]:
            self.read(0, depth, work["prompt"])
        for position in range(depth, depth + min(work["generate"], most)):
            self.decode([(sequence, position, True) for sequence in range(work["batch"])])
            api.llama_synchronize(self.context)
        api.llama_synchronize(self.context)
        seconds = time.perf_counter() - start
        for sequence in range(work["batch"]):
            api.llama_memory_seq_rm(self.memory, sequence, depth, -1)
        return seconds

    def samples(self) -> list[float]:
        """Tokens per second of each repetition."""
        work = self.work
        for sequence in range(work["batch"]):
            self.read(sequence, 0, work["depth"])
        self.once(WARM_UP_STEPS)
        tokens = work["prompt"] or work["generate"] * work["batch"]
        return [tokens / self.once(sys.maxsize) for _ in range(work["repetitions"])]


def main() -> None:
    result = {"version": api.__version__, "samples": Timer(json.loads(sys.argv[1])).samples()}
    print(json.dumps(result), flush=True)
    # Its objects go with the process; taking them apart in Python's order is another matter.
    os._exit(0)


if __name__ == "__main__":
    main()
