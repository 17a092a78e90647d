"""The tokenizer inside a GGUF file: tokens, what each is good for, merges, and how text was cut before.

    tokenizer.ggml.model          gpt2: byte-level BPE, its bytes as printable characters
    tokenizer.ggml.pre            where the text is cut, by llama.cpp's name for it
    tokenizer.ggml.tokens         the text of every id
    tokenizer.ggml.token_type     1 normal, 2 unknown, 3 control, 4 defined by a user, 5 unused, 6 byte
    tokenizer.ggml.merges         "a b", the first to be merged first
    tokenizer.ggml.*_token_id     which ids begin, end, pad

Source: gguf-py/gguf/constants.py of llama.cpp; what it makes of them, src/llama-vocab.cpp.
"""

from typing import Any

import numpy as np

from firsthand import files
from firsthand.errors import TokenizerError
from firsthand.interop.gguf_names import CONTROL, NORMAL, PRE, UNKNOWN, UNUSED, USER_DEFINED
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.tokenizer_json import read_bpe

PREFIX = "tokenizer.ggml."
ENDS = ("eos", "eot", "eom")
# Files often name one end alone, though their models use several: these always end an answer, as in llama.cpp.
ENDING = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>")


def read(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a file; unused ids at its end are left out."""
    model, pre = metadata.get(f"{PREFIX}model"), metadata.get(f"{PREFIX}pre")
    if model != "gpt2":
        raise TokenizerError(
            f"tokenizer.ggml.model is {files.quoted(model)}; only gpt2, byte-level BPE, can be read. "
            f"Use the Hugging Face folder of the same model"
        )
    if not isinstance(pre, str) or pre not in PRE:
        raise TokenizerError(
            f"tokenizer.ggml.pre is {files.quoted(pre)}, not {', '.join(list(PRE)[:5])} or a like; "
            f"its cuts are not known here. Use the Hugging Face folder of the same model"
        )
    names, types = _texts(metadata, "tokens"), metadata.get(f"{PREFIX}token_type")
    if not isinstance(types, np.ndarray) or len(types) != len(names):
        raise TokenizerError("tokenizer.ggml.token_type must be a number for each token; fetch the file again")
    if strange := set(types.tolist()) - {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED}:
        raise TokenizerError(f"tokenizer.ggml.token_type has a {min(strange)}; in byte-level BPE 1 to 5 are allowed")
    pattern, whole = PRE[pre]
    vocab, added = _by_use(names, types.tolist())
    tokens, merges = read_bpe({"vocab": vocab, "merges": _texts(metadata, "merges"), "ignore_merges": whole}, added)
    shown = [name for name, token in added.items() if types[token] == USER_DEFINED]
    # Llama 3 begins every text with an id, even where its file does not say so
    begin = _id(metadata, "bos", len(tokens)) if metadata.get(f"{PREFIX}add_bos_token", whole) else None
    return Tokenizer(tokens, merges, pattern, added, whole=whole, shown=shown, begin=begin)


def _texts(metadata: dict[str, Any], key: str) -> list[str]:
    """A list of texts that has to be there."""
    found = metadata.get(PREFIX + key)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise TokenizerError(f"{PREFIX}{key} must be a list of texts; fetch the file again")
    return found


def _by_use(names: list[str], types: list[int]) -> tuple[dict[str, int], dict[str, int]]:
    """Ids of the ordinary and of the special tokens, by their text."""
    vocab: dict[str, int] = {}
    added: dict[str, int] = {}
    for token, (name, kind) in enumerate(zip(names, types, strict=True)):
        if kind == UNUSED:
            continue
        if name in vocab or name in added:
            raise TokenizerError(f"token {files.quoted(name)} stands twice in {PREFIX}tokens; fetch the file again")
        (vocab if kind == NORMAL else added)[name] = token
    return vocab, added


def ends(metadata: dict[str, Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids after which an answer is over: those the file names, and those that always are, by their text."""
    named = [_id(metadata, key, tokenizer.vocab_size) for key in ENDS]
    always = [tokenizer.special_tokens.get(name) for name in ENDING]
    return tuple(dict.fromkeys(token for token in [*named, *always] if token is not None))


def _id(metadata: dict[str, Any], key: str, most: int) -> int | None:
    """An id that the file names, if it does."""
    token = metadata.get(f"{PREFIX}{key}_token_id")
    if token is None or (type(token) is int and 0 <= token < most):
        return token
    raise TokenizerError(f"{PREFIX}{key}_token_id is {files.quoted(token)}; there are {most:,} tokens")
