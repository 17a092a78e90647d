"""What a model makes of questions: how likely the answers wanted were to it, and what it says itself."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import DataError
from firsthand.evaluate.stats import Difference, Interval, resampled
from firsthand.infer.draw import evaluating
from firsthand.infer.generate import Sampling, Writer
from firsthand.model.cache import StaticCache
from firsthand.model.gpt import GPT
from firsthand.objectives.preference import answer_logps
from firsthand.objectives.rows import Example, rows
from firsthand.tokenizer.chat import Chat, Turn


class AnswerLoss(NamedTuple):
    """The loss of the answers wanted, in nats per learned token."""

    loss: float
    interval: Interval  # 95 %, over examples
    tokens: int
    nats: np.ndarray  # of every example, to be compared pair by pair with another model's
    counts: np.ndarray  # learned tokens of every example


@torch.inference_mode()
def answer_loss(model: GPT, examples: Sequence[Example], batch_size: int = 8) -> AnswerLoss:
    """How much the answers surprise a model: all their tokens count alike, whatever example they stand in."""
    if not examples:
        raise DataError("there is no example to evaluate on; firsthand data check says what became of them", code=30)
    nats, counts, device = np.zeros(len(examples)), np.zeros(len(examples), dtype=np.int64), model.embed.weight.device
    order = sorted(
        range(len(examples)), key=lambda at: len(examples[at][0])
    )  # neighbours of one length: little padding
    with evaluating(model):
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch = rows([examples[at] for at in chosen]).to(device)
            nats[chosen] = -answer_logps(model, batch).double().cpu().numpy()
            counts[chosen] = batch.learned.cpu().numpy()

    def mean(drawn: np.ndarray) -> float:
        return float(nats[drawn].sum() / counts[drawn].sum())

    return AnswerLoss(mean(np.arange(len(nats))), resampled(mean, len(nats)), int(counts.sum()), nats, counts)


def less_surprised(ours: AnswerLoss, theirs: AnswerLoss) -> Difference:
    """How much lower the first of two losses of the same examples is, in nats per learned token, pair by pair."""
    lower = theirs.nats - ours.nats

    def mean(drawn: np.ndarray) -> float:
        return float(lower[drawn].sum() / ours.counts[drawn].sum())

    return Difference(mean(np.arange(len(lower))), resampled(mean, len(lower)), None)


@torch.inference_mode()
def replies(
    bundle: Bundle, prompts: Sequence[Sequence[int]], ends: Sequence[int], max_tokens: int = 64, batch_size: int = 32
) -> list[str]:
    """What the model says to every prompt, many at once; always the likeliest token.

    An answer ends with one of `ends`, after `max_tokens`, or where the context does.
    """
    said: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    with evaluating(bundle.model):
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            found = _greedy(bundle.model, [prompts[at] for at in chosen], ends, max_tokens)
            for at, ids in zip(chosen, found, strict=True):
                said[at] = ids
    return [bundle.tokenizer.decode(ids) for ids in said]


def _greedy(model: GPT, prompts: list[Sequence[int]], ends: Sequence[int], max_tokens: int) -> list[list[int]]:
    """The likeliest tokens after each of some prompts, without those that end an answer."""
    lengths = torch.tensor([len(ids) for ids in prompts])
    longest, context = int(lengths.max()), model.config.context_length
    cache = StaticCache(model.config, batch=len(prompts), length=min(longest + max_tokens, context))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(list(prompt))
    device = model.embed.weight.device
    hidden = model.hidden(ids.to(device), cache, lengths)[torch.arange(len(ids)), lengths - 1]  # (B, C)
    said: list[list[int]] = [[] for _ in prompts]
    going = torch.full((len(ids),), True)
    for _ in range(max_tokens):
        new = model.head(hidden).argmax(dim=1).cpu()  # (B,)
        going &= ~torch.isin(new, torch.tensor(list(ends)))
        for row in going.nonzero()[:, 0].tolist():
            said[row].append(int(new[row]))
        going &= cache.lengths < cache.capacity
        if not going.any():
            break
        counts = going.long()  # a row that ended takes nothing more
        hidden = model.hidden(new[:, None].to(device), cache, counts)[:, -1]
    return said


def answers(
    bundle: Bundle,
    questions: Sequence[str],
    chat: Chat | None = None,
    max_tokens: int = 32,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """What the model says to every question, each a conversation of its own; always the likeliest token."""
    chat = chat or Chat(bundle.template or "plain", bundle.tokenizer, bundle.ends)
    writer = Writer(bundle, Sampling(max_tokens, temperature=0, top_k=0), ends=chat.ends)
    said = []
    for question in questions:
        tell(len(said), len(questions))
        said.append("".join(token.text for token in writer.answer(chat.prompt([Turn("user", question)]))))
    return said
