"""A model written for another program: opened again, compared, and only then given its name.

1 what the file is meant to hold is known before it is written: a Foreign with the rounded weights
2 its drift from the model is measured on a fixed text: logits, and 32 greedy tokens
3 the folder is written under a temporary name and opened by the reader that opens strangers' files
4 every tensor, token and number of the config must be the one meant, to the bit; so must logits and greedy tokens
5 only then the folder gets its name; otherwise nothing of it stays
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firsthand import files
from firsthand.errors import CheckpointError, FirsthandError, ModelError, TokenizerError
from firsthand.interop.card import Card
from firsthand.interop.foreign import Foreign
from firsthand.model.assemble import assemble
from firsthand.model.cache import GrowingCache
from firsthand.model.gpt import GPT

GREEDY = 32
PROBE = (
    "The first rule of a measurement is that somebody else can repeat it. In 1879, at 5:45 in the morning, she wrote "
    "down 31.4 and then 31.5;\n\n    for row in table:\n        print(row[0], row[1])\n\nNaïve café, 東京, мир, "
    "and don't forget: it's HERE!?  \t'll we've"
)


@dataclass(frozen=True)
class Behaviour:
    """What a model makes of the fixed text, in float32."""

    logits: Tensor  # (T, V), of the text
    tokens: list[int]  # that follow its beginning, each the likeliest


@dataclass(frozen=True)
class Drift:
    """How far the written numbers lead away from the model's own, on a fixed text."""

    largest: float  # difference of a logit
    scale: float  # the model's largest logit
    tokens: int  # greedy tokens compared
    differs_at: int | None  # the first that is another one


@dataclass(frozen=True)
class Written:
    """A model as a format will hold it, and the files that do."""

    meant: Foreign  # with rounded weights, and with what the format can say of the rest
    content: dict[str, files.Content]
    size: int  # bytes that functions among the content will write
    read: Callable[[Path], Foreign]  # opens the folder again
    card: Card


@dataclass(frozen=True)
class Exported:
    """What stands on the disk, and what was found out about it."""

    path: Path
    kind: str
    size: int
    drift: Drift
    notes: tuple[str, ...]
    runs_in: tuple[str, ...]


def publish(model: Foreign, target: Path, written: Written) -> Exported:
    """Write a folder that was seen to hold what it is meant to hold, or nothing."""
    make_way(target)
    files.require_space(target, written.size)
    usual = behaviour(model)
    exact = all(tensor.float().equal(written.meant.tensors[name].float()) for name, tensor in model.tensors.items())
    wanted = usual if exact else behaviour(written.meant)
    drift = compare(usual, wanted)
    card = written.card
    content = {"README.md": card.text(written.meant, drift), **written.content}

    def accept(folder: Path) -> None:
        try:
            found = written.read(folder)
            what = _difference(written.meant, found) or _change(wanted, behaviour(found))
        except FirsthandError as error:
            what = str(error)
        if what:
            raise CheckpointError(
                f"{files.shown(target)}: read back, it is not the model: {what:.80}. "
                f"Nothing of it was kept; please report this fault"
            )

    path = files.publish(target, content, {"made_by": "firsthand export"}, written.size, accept)
    size = sum(part.stat().st_size for part in path.iterdir())
    return Exported(path, card.kind, size, drift, card.notes, card.runs_in)


def finite(name: str, tensor: Tensor, rounded: Tensor) -> Tensor:
    """The rounded numbers of a tensor, if every one of them is a number."""
    if not all(math.isfinite(end) for end in rounded.aminmax()):  # both are NaN if any number is
        at = tuple((~rounded.isfinite()).nonzero()[0].tolist())
        raise ModelError(
            f"tensor {name} holds {tensor[at].item():.6g} at {list(at)}, which cannot be written in this type. "
            f"Use f32 or bf16; if it is no number at all, the model is damaged"
        )
    return rounded


def make_way(target: Path) -> None:
    """An empty folder may become the export; anything else that is there stays."""
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        target.rmdir()
    elif target.exists() or target.is_symlink():
        raise CheckpointError(f"{files.shown(target)} is there already; remove it, or choose another --out", code=25)


def behaviour(model: Foreign) -> Behaviour:
    """What a model makes of the fixed text. The same weights give the same numbers, to the bit.

    The weights are copied: the last bit of a product may depend on where in memory a matrix begins.
    """
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in model.tensors.items()}
    return behaviour_of(assemble(model.config, copies, model.where), model.tokenizer)


@torch.no_grad()
def behaviour_of(model: GPT, tokenizer: Any) -> Behaviour:
    """What a model makes of the fixed text, as it stands."""
    context, device = model.config.context_length, next(model.parameters()).device
    ids = torch.tensor([_ids(tokenizer)[:context]], device=device)
    start = max(1, min(12, context // 2, ids.shape[1]))
    cache, said, tokens = GrowingCache(model.config), ids[:, :start], []
    for _ in range(min(GREEDY, context - start)):
        said = model(said, cache)[:, -1].argmax(-1, keepdim=True)
        tokens.append(int(said))
    return Behaviour(model(ids)[0], tokens)


def _ids(tokenizer: Any) -> list[int]:
    """The ids of the fixed text; of a vocabulary without its characters simply all ids, the first 200."""
    try:
        return tokenizer.encode(PROBE).tolist()
    except TokenizerError:
        return list(range(tokenizer.vocab_size))[:200]


def compare(model: Behaviour, other: Behaviour) -> Drift:
    """How far two behaviours are apart."""
    pairs = enumerate(zip(model.tokens, other.tokens, strict=True))
    first = next((at for at, (one, two) in pairs if one != two), None)
    largest = (model.logits - other.logits).abs().max().item()
    return Drift(largest, model.logits.abs().max().item(), len(model.tokens), first)


def _difference(meant: Foreign, found: Foreign) -> str:
    """The first thing that was read otherwise than it was meant; empty if there is none."""
    config = replace(found.config, dropout=meant.config.dropout)  # which matters in training only
    pairs = {
        "config": (meant.config, config),
        "names of tensors": (meant.tensors.keys(), found.tensors.keys()),
        "tokenizer": (meant.tokenizer.fingerprint, found.tokenizer.fingerprint),
        "ids of a text": (_ids(meant.tokenizer), _ids(found.tokenizer)),
        "chat template": (meant.template, found.template),
        "ids that end an answer": (meant.ends, found.ends),
    }
    for what, (one, two) in pairs.items():
        if one != two:
            return f"its {what} came back as {files.quoted(two)}"
    for name, tensor in meant.tensors.items():
        if tensor.dtype != found.tensors[name].dtype or not tensor.equal(found.tensors[name]):
            return f"its tensor {name} came back with other numbers"
    return ""


def _change(wanted: Behaviour, found: Behaviour) -> str:
    drift = compare(wanted, found)
    same = drift.largest == 0 and drift.differs_at is None  # NaN is not 0
    return "" if same else f"its logits came back changed by {drift.largest:.3g}"
