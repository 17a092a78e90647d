"""tokenizer.json of Llama 2's kind: which fields it has, and what of them must be so."""

import json
from typing import Any

from firsthand.errors import TokenizerError
from firsthand.tokenizer.sentence import SPACE, SentenceTokenizer

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, REPLACE]}
BACK = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def parts(tokenizer: SentenceTokenizer) -> dict[str, Any]:
    """Normalizer, pre-tokenizer, decoder and model of the file."""
    unknown = "<unk>" if "<unk>" in tokenizer.special_tokens else None
    model = {"type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
    names = tokenizer.pieces
    return {
        "normalizer": PREPEND if tokenizer.prefix else REPLACE,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [*BACK, STRIP] if tokenizer.prefix else BACK},
        "model": model
        | {
            "vocab": {name: at for at, name in enumerate(names) if name},
            "merges": [[names[left], names[right]] for left, right in tokenizer.merges],
        },
    }


def prefixed(file: dict[str, Any]) -> bool:
    """Whether a space is put before every text; a file that treats texts otherwise is refused."""
    for name, allowed in (("normalizer", (PREPEND, REPLACE)), ("pre_tokenizer", (None,))):
        if file.get(name) not in allowed:
            raise TokenizerError(
                f"{name} {json.dumps(file.get(name)):.70} of this byte_fallback file is none we know; only Llama 2's "
                "form (Prepend and Replace, no pre_tokenizer) can be read"
            )
    for token in file.get("added_tokens") or []:
        if token.get("normalized"):
            raise TokenizerError(f"added token {token['content'][:40]!a} is normalized, which cannot be done here")
    return file["normalizer"] == PREPEND
