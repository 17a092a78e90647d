"""Byte-level BPE: text <-> ids, by a vocabulary of byte strings and an order of merges.

Source: Sennrich et al. 2016, arXiv:1508.07909, section 3.2, on bytes as in Radford et al. 2019 (GPT-2), section 2.2.
"""

import numpy as np
from firsthand.tokenizer import kernels
from firsthand.tokenizer.split import CLASSES, pattern_code


class Tokenizer:
    """Text <-> ids by byte-level BPE.

    `tokens[id]` is the byte string of each id, special tokens included (their name in UTF-8); b"" marks an unused id.
    `merges` are pairs of ids in order of priority (GPT-2, Hugging Face); None means tiktoken's rule: any two neighbours
    merge if together they are a token, the lowest id first, and a piece that is a token as a whole is taken at once.
    `special_tokens` maps names to ids; encode() produces them only with allow_special=True.
    """

    kind = "bpe"

    def __init__(
        self,
        tokens: list[bytes],
        merges: list[tuple[int, int]] | None,
        pattern: str = "gpt2",
        special_tokens: dict[str, int] | None = None,
    ):
        self.tokens = tokens
        self.merges = merges
        self.pattern = pattern
        self.special_tokens = dict(special_tokens or {})
        special = set(self.special_tokens.values())
        self.ids = {t: i for i, t in enumerate(tokens) if i not in special and t}
        self._byte_ids = np.array([self.ids[bytes([b])] for b in range(256)], np.uint32)
        if merges is not None:
            left, right = np.array(merges, np.uint64).reshape(-1, 2).T
            new = np.array([self.ids[tokens[a] + tokens[b]] for a, b in merges], np.uint64)
            score = np.arange(len(new), dtype=np.uint64) << np.uint64(32) | new
        else:
            rows = []
            for t, i in self.ids.items():
                for cut in range(1, len(t)):
                    a = self.ids.get(t[:cut])
                    if a is not None:
                        b = self.ids.get(t[cut:])
                        if b is not None:
                            rows.append((a, b, i << 32 | i))
            left, right, score = np.array(rows, np.uint64).reshape(-1, 3).T
        size = 1 << max(4, (2 * len(left)).bit_length())
        self._pairs = kernels.build_pairs(left.copy(), right.copy(), score.copy(), size)
        self._cache = np.zeros((2 << kernels.CACHE_BITS, kernels.ROW), np.uint64)

    def encode(self, text, allow_special=False):
        return self.encode_bytes(text.encode())

    def encode_bytes(self, data):
        out = np.empty(len(data) + kernels.MOST + 1, np.uint32)
        n = kernels.encode_pieces(
            np.frombuffer(data, np.uint8),
            CLASSES,
            pattern_code(self.pattern),
            self._byte_ids,
            self._pairs,
            self._cache,
            out,
        )
        return out[:n]
