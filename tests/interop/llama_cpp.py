"""llama.cpp as an oracle, through xllamacpp: what it makes of a GGUF file, in float32 throughout.

    with LlamaCpp(path) as llama:
        llama.tokenize("Hello<|im_end|>")          # its ids of a text; names of special tokens are special
        llama.greedy(ids, 64)                      # the 64 ids it continues with
        llama.steps(ids, 64, 3)                    # the same with the 3 best of every step: [{id: log-probability}]

For anybody who writes GGUF too: `steps(ids, 1, vocab_size)[0]` are the log-probabilities of the whole vocabulary.
"""

import json
import os
import urllib.request
from pathlib import Path

import xllamacpp


class LlamaCpp:
    """A model running in llama.cpp: float32 keys and values, no fused attention, no memory between questions.

    `slots` is how many questions, from as many threads, it answers in one batch.
    """

    def __init__(self, path: Path, context_length: int = 512, slots: int = 1):
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = slots * context_length, slots, 0
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.warmup = params.cache_prompt = params.ui = params.fit_params = False
        params.verbosity, params.use_jinja = 0, True
        threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
        for processors in (params.cpuparams, params.cpuparams_batch):
            processors.n_threads, processors.poll = threads, 0  # no busy waiting: others compute here too
        self.server = xllamacpp.Server(params)  # a RuntimeError if it cannot open the file

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *error: object) -> None:
        del self.server  # stops its threads

    def tokenize(self, text: str) -> list[int]:
        """Its ids of a text, with nothing added before or after."""
        return self._ask("tokenize", {"content": text, "parse_special": True, "add_special": False})["tokens"]

    def chat(self, turns: list[dict[str, str]]) -> str:
        """The text that the file's own template makes of turns, {role, content}, and the opening of the answer."""
        return self._ask("apply-template", {"messages": turns})["prompt"]

    def _ask(self, verb: str, question: dict) -> dict:
        asked = urllib.request.Request(f"{self.server.listening_address}/{verb}", json.dumps(question).encode())
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)

    def steps(self, ids: list[int], count: int, top: int = 2) -> list[dict[int, float]]:
        """Greedy continuation: for each of `count` tokens the `top` best ids, the chosen first, and their logs."""
        settings = {"temperature": 0, "cache_prompt": False, "ignore_eos": False, "n_probs": top, "n_predict": count}
        answer = self.server.handle_completions({"prompt": ids, **settings})
        said = answer["choices"][0]["logprobs"]["content"]  # the server keeps half a character back
        return [{item["id"]: item["logprob"] for item in step["top_logprobs"]} for step in said]

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """The ids it continues with, `count` or fewer: it stops where an answer ends."""
        return [next(iter(step)) for step in self.steps(ids, count, 1)]
