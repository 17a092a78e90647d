"""What a model makes of questions: how likely the answers wanted were to it, and what it says itself."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import DataError
from firsthand.evaluate.stats import Interval, resampled
from firsthand.infer.draw import evaluating
from firsthand.infer.generate import Sampling, Writer
from firsthand.model.gpt import GPT
from firsthand.objectives.base import IGNORE
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
            counts[chosen] = (batch.targets != IGNORE).sum(dim=1).cpu().numpy()

    def mean(drawn: np.ndarray) -> float:
        return float(nats[drawn].sum() / counts[drawn].sum())

    return AnswerLoss(mean(np.arange(len(nats))), resampled(mean, len(nats)), int(counts.sum()), nats, counts)


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
