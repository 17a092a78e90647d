"""The tokenizer inside a GGUF file: tokens, what each is good for, merges, and how text was cut before.

    tokenizer.ggml.model          gpt2: byte-level BPE, its bytes as printable characters; llama: SentencePiece's BPE
    tokenizer.ggml.pre            gpt2: where the text is cut, by llama.cpp's name for it
    tokenizer.ggml.tokens         the text of every id
    tokenizer.ggml.token_type     1 normal, 2 unknown, 3 control, 4 defined by a user, 5 unused, 6 byte
    tokenizer.ggml.merges         gpt2: "a b", the first to be merged first
    tokenizer.ggml.scores         llama: of two neighbours that make a token, the highest first
    tokenizer.ggml.*_token_id     which ids begin, end, pad

Source: gguf-py/gguf/constants.py of llama.cpp; what it makes of them, src/llama-vocab.cpp.
"""

from typing import Any

import numpy as np

from firsthand import files
from firsthand.errors import TokenizerError
from firsthand.interop.gguf_names import BYTE, NORMAL, PRE, UNUSED, USER_DEFINED
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.sentence import SentenceTokenizer
from firsthand.tokenizer.tokenizer_json import read_bpe
from firsthand.tokenizer.vocabulary import LONGEST_TOKEN

PREFIX = "tokenizer.ggml."
ENDS = ("eos", "eot", "eom")
# Files often name one end alone, though their models use several: these always end an answer, as in llama.cpp.
ENDING = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>")


def read(metadata: dict[str, Any]) -> Tokenizer | SentenceTokenizer:
    """The tokenizer of a file; ids not in use have no token."""
    model, names, types = (
        metadata.get(f"{PREFIX}model"),
        _texts(metadata, "tokens"),
        metadata.get(f"{PREFIX}token_type"),
    )
    if model not in ("gpt2", "llama"):
        raise TokenizerError(
            f"{PREFIX}model is {files.quoted(model)}; gpt2 and llama can be read. "
            f"Use the Hugging Face folder of the same model"
        )
    names = _texts(metadata, "tokens")
    if not isinstance(types, np.ndarray) or len(types) != len(names):
        raise TokenizerError(f"{PREFIX}token_type must be a number for each token; fetch the file again")
    most = UNUSED if model == "gpt2" else BYTE
    if strange := set(types.tolist()) - set(range(NORMAL, most + 1)):
        raise TokenizerError(f"{PREFIX}token_type has a {min(strange)}; of model {model} 1 to {most} are allowed")
    vocab, added = _by_use(names, types.tolist())
    return _merged(metadata, vocab, added, types) if model == "gpt2" else _scored(metadata, vocab, added, len(names))


def _merged(metadata: dict[str, Any], vocab: dict[str, int], added: dict[str, int], types: np.ndarray) -> Tokenizer:
    """Byte-level BPE by a list of merges."""
    pre = metadata.get(f"{PREFIX}pre")
    if not isinstance(pre, str) or pre not in PRE:
        raise TokenizerError(
            f"{PREFIX}pre is {files.quoted(pre)}, not {', '.join(list(PRE)[:5])} or a like; "
            f"its cuts are unknown. Use the Hugging Face folder of the same model"
        )
    pattern, whole = PRE[pre]
    tokens, merges = read_bpe({"vocab": vocab, "merges": _texts(metadata, "merges"), "ignore_merges": whole}, added)
    shown = [name for name, token in added.items() if types[token] == USER_DEFINED]
    # Llama 3 begins every text with an id, even where its file does not say so
    begin = _id(metadata, "bos", len(tokens)) if metadata.get(f"{PREFIX}add_bos_token", whole) else None
    return Tokenizer(tokens, merges, pattern, added, whole=whole, shown=shown, begin=begin)


def _scored(metadata: dict[str, Any], vocab: dict[str, int], added: dict[str, int], count: int) -> SentenceTokenizer:
    """SentencePiece's BPE by the score of each token. Texts begin with an id and a space, unless the file says no."""
    scores, pieces = metadata.get(f"{PREFIX}scores"), [""] * count
    if not isinstance(scores, np.ndarray) or len(scores) != count or not np.isfinite(scores).all():
        raise TokenizerError(f"{PREFIX}scores must be a number for each token; fetch the file again")
    for name, token in (vocab | added).items():
        if len(name) > LONGEST_TOKEN:
            raise TokenizerError(f"token {token} has {len(name):,} characters; at most {LONGEST_TOKEN} are allowed")
        pieces[token] = name
    begin = _id(metadata, "bos", count) if metadata.get(f"{PREFIX}add_bos_token", True) else None
    prefix = metadata.get(f"{PREFIX}add_space_prefix", True) is True
    return SentenceTokenizer.from_scores(pieces, scores.tolist(), added, prefix, begin)


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
        (vocab if kind in (NORMAL, BYTE) else added)[name] = token
    return vocab, added


def ends(metadata: dict[str, Any], tokenizer: Tokenizer | SentenceTokenizer) -> tuple[int, ...]:
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
