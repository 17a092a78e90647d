"""Tokenizers on disk: which file is which, and the two older formats.

    tokenizer.json                   Hugging Face's and ours (tokenizer_json.py); says everything
    vocab.bpe + encoder.json         GPT-2's pair: merges in order, and {token: id}; also merges.txt + vocab.json
    NAME.tiktoken                    a line for each token: its bytes in base64, a space, its rank, which is its id

A rank file says neither pattern nor special tokens; they are known for OpenAI's files by their names.
Everything here may come from a stranger: sizes are bounded, and whatever is wrong becomes one TokenizerError.
"""

import base64
import binascii
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.errors import CheckpointError, TokenizerError, nearest
from firsthand.tokenizer import tokenizer_json
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.simple import CharTokenizer, WordTokenizer
from firsthand.tokenizer.split import pattern_code
from firsthand.tokenizer.tokenizer_json import AnyTokenizer, checked_ids, raw, read_merges, visible

MOST_BYTES = 64 << 20  # Llama 3's file has 9 MB
PAIRS = {"vocab.bpe": "encoder.json", "merges.txt": "vocab.json"}  # merges -> ids
MERGES_OF = {ids: merges for merges, ids in PAIRS.items()}

# What OpenAI's rank files leave unsaid. Source: tiktoken_ext/openai_public.py of tiktoken 0.14.
KNOWN: dict[str, tuple[str, dict[str, int]]] = {
    "gpt2": ("gpt2", {"<|endoftext|>": 50256}),
    "r50k_base": ("gpt2", {"<|endoftext|>": 50256}),
    "p50k_base": ("gpt2", {"<|endoftext|>": 50256}),
    "cl100k_base": (
        "cl100k",
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
}


def load(path: str | Path, pattern: str | None = None, special_tokens: dict[str, int] | None = None) -> AnyTokenizer:
    """The tokenizer in a file or folder, of any kind. `pattern` and `special_tokens` are for rank files alone."""
    path = Path(path)
    path = find(path) if path.is_dir() else path
    if path.suffix != ".tiktoken" and (pattern or special_tokens):
        raise TokenizerError(f"{files.shown(path)} says its own pattern and special tokens; leave them out")
    with one_line(path):
        if path.suffix == ".tiktoken":
            return read_ranks(path, pattern, special_tokens)
        if path.name in PAIRS:
            return read_pair(path, path.with_name(PAIRS[path.name]))
        if path.name in MERGES_OF:
            return read_pair(path.with_name(MERGES_OF[path.name]), path)
        if path.suffix == ".json":
            return tokenizer_json.read(json_of(path))
    raise TokenizerError(
        f"{files.shown(path)} has a name of no tokenizer; allowed: tokenizer.json, *.tiktoken, "
        f"vocab.bpe with encoder.json, merges.txt with vocab.json.{nearest(path.name, ['tokenizer.json', *PAIRS])}"
    )


def save(tokenizer: AnyTokenizer, path: str | Path) -> None:
    """Write a tokenizer: a folder or *.json gives tokenizer.json, vocab.bpe GPT-2's pair, *.tiktoken the ranks."""
    path = Path(path)
    if path.suffix == "" or path.is_dir():
        files.write_file(path / "tokenizer.json", tokenizer_json.write(tokenizer))
    elif path.name == "vocab.bpe":
        merges, ids = pair_of(only_bpe(tokenizer, path))
        files.write_file(path.with_name("encoder.json"), ids)
        files.write_file(path, merges)
    elif path.suffix == ".tiktoken":
        files.write_file(path, ranks_of(only_bpe(tokenizer, path)))
    elif path.suffix == ".json":
        files.write_file(path, tokenizer_json.write(tokenizer))
    else:
        raise TokenizerError(f"{files.shown(path)}: unknown ending; write a folder, *.json, vocab.bpe, or *.tiktoken")


def find(folder: Path) -> Path:
    """The tokenizer file in a folder."""
    ranks = sorted(folder.glob("*.tiktoken"))
    found = [folder / name for name in ("tokenizer.json", *PAIRS) if (folder / name).exists()] + ranks
    if not found or (found[0] in ranks and len(ranks) > 1):
        raise TokenizerError(
            f"{files.shown(folder)} holds {len(ranks)} *.tiktoken and none of tokenizer.json, {', '.join(PAIRS)}; "
            "name the file itself"
        )
    return found[0]


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file, as one TokenizerError that names it."""
    try:
        yield
    except CheckpointError as error:
        raise TokenizerError(str(error)) from error
    except (TokenizerError, UnicodeEncodeError, RecursionError) as error:  # half a surrogate pair; endless nesting
        raise TokenizerError(f"{files.shown(path)}: {error}") from error


def bytes_of(path: Path) -> bytes:
    """The bytes of a file; links are followed here, since the hub's cache is made of them."""
    return files.read_file(os.path.realpath(path), MOST_BYTES)


def json_of(path: Path) -> dict[str, Any]:
    """A JSON object, read strictly."""
    return files.parse_json(bytes_of(path), files.shown(path))


def only_bpe(tokenizer: AnyTokenizer, path: Path) -> Tokenizer:
    """The same tokenizer, if it is byte-level BPE."""
    if not isinstance(tokenizer, Tokenizer):
        raise TokenizerError(f"{path.name} holds only bpe, this is a {tokenizer.kind} tokenizer; save tokenizer.json")
    return tokenizer


def padded(tokenizer: AnyTokenizer, rows: int) -> AnyTokenizer:
    """The same tokenizer with as many ids as a model has rows; one of characters or words cannot be widened."""
    if isinstance(tokenizer, CharTokenizer | WordTokenizer):
        raise TokenizerError(f"a {tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} ids cannot have {rows:,} rows")
    return tokenizer.padded(rows)


# ---------------------------------------------------------------- GPT-2: vocab.bpe and encoder.json


def read_pair(merges: Path, ids: Path) -> Tokenizer:
    """GPT-2's pair. Special is what neither is a byte nor made by a merge, and looks like <this> or [this]."""
    numbers = checked_ids(json_of(ids))
    try:
        lines = bytes_of(merges).decode().split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"byte {error.start:,} is not UTF-8; is this a list of merges?") from None
    start = lines[0].startswith("#version")
    joined = read_merges([line.rstrip("\r") for line in lines[start:] if line.strip()], numbers)
    names = {number: name for name, number in numbers.items()}
    made = {names[left] + names[right] for left, right in joined}
    special = {name: number for name, number in numbers.items() if len(name) > 1 and name not in made}
    if unmade := [name for name in special if name[0] + name[-1] not in ("<>", "[]")]:
        raise TokenizerError(
            f"{len(unmade):,} tokens of {ids.name} are made by no merge, such as {files.quoted(unmade[0])}: "
            f"{merges.name} is cut, or of another model. Fetch it again"
        )
    tokens = [b""] * (max(numbers.values(), default=-1) + 1)
    for name, number in numbers.items():
        tokens[number] = name.encode() if name in special else raw(name)
    return Tokenizer(tokens, joined, "gpt2", special)


def pair_of(tokenizer: Tokenizer) -> tuple[bytes, bytes]:
    """The bytes of vocab.bpe and encoder.json."""
    if tokenizer.merges is None or tokenizer.pattern != "gpt2":
        how = "ranks instead of merges" if tokenizer.merges is None else f"pattern {tokenizer.pattern!r}"
        raise TokenizerError(f"GPT-2's pair of files means merges and GPT-2's pattern, this has {how}; save a folder")
    special = {number: name for name, number in tokenizer.special_tokens.items()}
    names = {number: special.get(number, visible(token)) for number, token in enumerate(tokenizer.tokens) if token}
    lines = ["#version: 0.2", *(f"{names[left]} {names[right]}" for left, right in tokenizer.merges), ""]
    return "\n".join(lines).encode(), json.dumps({name: number for number, name in names.items()}).encode()


# ---------------------------------------------------------------- tiktoken: ranks


def read_ranks(path: Path, pattern: str | None, special_tokens: dict[str, int] | None) -> Tokenizer:
    """A rank file, with what its name says about pattern and special tokens, unless they are given."""
    known = KNOWN.get(path.name.removesuffix(".tiktoken"), (None, {}))
    pattern = pattern or known[0]
    if pattern is None:
        raise TokenizerError("a rank file does not say its pattern: formats.load(path, pattern='cl100k') does")
    pattern_code(pattern)
    special = known[1] if special_tokens is None else special_tokens
    ranks: dict[str, int] = {}
    for number, line in enumerate(bytes_of(path).splitlines(), 1):
        if line:
            token, rank = parse_rank(line, number)
            if ranks.setdefault(token, rank) != rank:
                raise TokenizerError(f"line {number}: the token {files.quoted(token)} stands twice")
    checked_ids(ranks)
    if taken := set(ranks.values()) & set(special.values()):
        raise TokenizerError(f"rank {min(taken)} is the id of a special token too; give other special_tokens")
    tokens = [b""] * (max([*ranks.values(), *special.values()], default=-1) + 1)
    for token, rank in ranks.items():
        tokens[rank] = token.encode("latin-1")
    for name, rank in special.items():
        tokens[rank] = name.encode()
    return Tokenizer(tokens, None, pattern, special)


def parse_rank(line: bytes, number: int) -> tuple[str, int]:
    """One line: base64, a space, a rank. The bytes come as the characters of latin-1."""
    try:
        token, rank = line.split(b" ")
        if not rank.isdigit() or len(rank) > 10:
            raise ValueError
        return base64.b64decode(token, validate=True).decode("latin-1"), int(rank)
    except (ValueError, binascii.Error):
        raise TokenizerError(f"line {number} is {line[:40]!r}; it must be base64, a space, and a rank") from None


def ranks_of(tokenizer: Tokenizer) -> bytes:
    """The bytes of a rank file; special tokens and pattern have no place in it."""
    special = set(tokenizer.special_tokens.values())
    if tokenizer.merges is not None:
        made = [tokenizer.tokens[left] + tokenizer.tokens[right] for left, right in tokenizer.merges]
        ids = {token: number for number, token in enumerate(tokenizer.tokens) if number not in special}
        if [ids[token] for token in made] != sorted(ids[token] for token in made):
            raise TokenizerError("the ids are not in the order of the merges, as ranks must be; save a folder")
    lines = [
        base64.b64encode(token) + b" " + str(rank).encode()
        for rank, token in enumerate(tokenizer.tokens)
        if token and rank not in special
    ]
    return b"\n".join([*lines, b""])
