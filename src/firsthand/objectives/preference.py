"""Learn from pairs: of two answers to one question, the chosen one shall become likelier than the rejected one.

A batch holds 2B texts: the B chosen answers, then the B rejected ones. Losses are functions of the log-probability of
whole answers, summed over their tokens; `ratio` is that of the model minus that of the reference, the model as it was.

    dpo     -log sigmoid(beta (ratio_chosen - ratio_rejected))             Rafailov et al. 2023, arXiv:2305.18290, eq. 7
            with `smoothing`, that share of the pairs may be labelled wrongly        Mitchell 2023, cDPO, eq. 3
    ipo     (ratio_chosen - ratio_rejected - 1 / (2 beta))^2               Azar et al. 2023, arXiv:2310.12036, eq. 17
    orpo    loss of the chosen + beta times -log sigmoid(log odds ratio)   Hong et al. 2024, arXiv:2403.07691, eq. 6, 7
    simpo   -log sigmoid(beta (mean_chosen - mean_rejected) - margin)      Meng et al. 2024, arXiv:2405.14734, eq. 6

orpo and simpo use means over the tokens of an answer and need no reference. All are in nats: (B,), (B,) -> (B,).
Two differ from trl, which takes means over tokens in ipo as well (for answers of n tokens its beta is n times ours),
and in orpo learns the prompt too; tests/objectives/test_preference_trl.py holds all four to it.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firsthand.errors import ConfigError, DataError, ModelError
from firsthand.linear import lora
from firsthand.model.gpt import GPT
from firsthand.objectives.base import IGNORE, Batch, Loss
from firsthand.objectives.packing import packed
from firsthand.objectives.rows import Example, rows
from firsthand.objectives.thaw import Thaw, only_upper
from firsthand.objectives.trunk import Trunk, hidden_of

Kind = Literal["dpo", "ipo", "orpo", "simpo"]
REFERENCE = ("dpo", "ipo")  # those that compare with the model as it was
USUAL = {"dpo": 0.1, "ipo": 0.1, "orpo": 0.1, "simpo": 2.0}  # beta, where nothing is said
EXACT = 1e-3  # how far the first margin, in nats, may be from 0: the reference is computed in the same arithmetic


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """How badly each pair is ordered, by ratios: (B,), (B,) -> (B,). With model == reference it is log 2 = 0.693."""
    lead = beta * (chosen - rejected)
    return -(1 - smoothing) * F.logsigmoid(lead) - smoothing * F.logsigmoid(-lead)


def ipo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """How far each pair's lead is from 1 / (2 beta), squared, by ratios: it does not grow without end as DPO's does."""
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def orpo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """The loss of the chosen answer, and how badly the odds are ordered; by mean log-probabilities."""
    odds = chosen - rejected - (_one_minus(chosen) - _one_minus(rejected))
    return -chosen - beta * F.logsigmoid(odds)


def simpo_loss(chosen: Tensor, rejected: Tensor, beta: float, margin: float) -> Tensor:
    """How badly each pair is ordered by mean log-probabilities, `margin` wanted between them."""
    return -F.logsigmoid(beta * (chosen - rejected) - margin)


def _one_minus(logs: Tensor) -> Tensor:
    """log(1 - p) from log p, exact for p near 0 and near 1."""
    return torch.where(logs > -0.693, (-logs.expm1()).log(), (-logs.exp()).log1p())


class Preference:
    """The chosen answer above the rejected one, by one of the losses above. `thaw` as for answers (instruct.py)."""

    def __init__(
        self,
        kind: Kind = "dpo",
        beta: float | None = None,
        smoothing: float = 0.0,
        margin: float = 0.5,
        thaw: Thaw = "all",
        pack: bool = False,
    ):
        beta = USUAL[kind] if beta is None else beta
        if beta <= 0:
            raise ConfigError(f"beta is {beta}; it must be above 0, usual: 0.1 for dpo, 2.0 for simpo")
        if not 0 <= smoothing < 0.5:
            raise ConfigError(f"smoothing is {smoothing}, the share of wrong labels; use 0 or more, below 0.5")
        if smoothing and kind != "dpo":
            raise ConfigError(f"smoothing belongs to dpo, and the loss is {kind}; leave it at 0")
        if thaw == "head":
            raise ConfigError("thaw is head, which is a new head of labels; answers come from the old one. Use block")
        self.kind, self.beta, self.smoothing, self.margin, self.thaw = kind, beta, smoothing, margin, thaw
        self.pack = pack
        self.references = int(kind in REFERENCE)  # forward passes beside the model's own
        self.reference: Any = None
        self.trunk: Trunk | None = None

    def prepare(self, model: nn.Module) -> None:
        """Keep the model as it is now for comparison; one with adapters is its own reference, with them off."""
        assert isinstance(model, GPT)
        only_upper(model, self.thaw)
        if self.kind in REFERENCE and not lora.adapted(model):
            self.reference = deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def check(self, model: Any, batch: Batch) -> None:
        """Refuse to begin where the reference would learn too, or does not say what the model says before it learns."""
        if self.kind not in REFERENCE:
            return
        learning = {weight.data_ptr() for weight in model.parameters() if weight.requires_grad}
        kept = (layer.base for layer in lora.adapted(model)) if self.reference is None else (self.reference,)
        if learning & {weight.data_ptr() for part in kept for weight in part.parameters()}:
            raise ModelError("the reference would learn together with the model, so nothing would be compared")
        training = model.training
        loss = self.loss(model.eval(), batch)
        model.train(training)
        pairs, nothing = batch.count, torch.zeros(1, dtype=loss.total.dtype)
        first, wanted = float(loss.total) / pairs, float(self.each(nothing, nothing))
        margin = float(loss.metrics["rewards/margins"]) / pairs / self.beta
        if not (abs(margin) <= EXACT and abs(first - wanted) <= EXACT * max(1.0, wanted)):
            raise ModelError(
                f"before the first step the margin is {margin:.3g} nats and the loss {first:.4g}, where the reference "
                f"is the model itself: they must be 0 and {wanted:.4g}. Merge adapters first: firsthand merge"
            )

    def collate(self, examples: Sequence[tuple[Example, Example]]) -> Batch:
        """Pairs (chosen, rejected) -> 2B texts, the chosen first; count: the pairs."""
        for chosen, rejected in examples:
            if list(chosen[0]) == list(rejected[0]):
                raise DataError("a pair has the same answer twice; firsthand data check says which", code=35)
        batch = rows([chosen for chosen, _ in examples] + [rejected for _, rejected in examples])
        batch = replace(batch, count=len(examples), parts=2)
        return packed(batch) if self.pack else batch

    def loss(self, model: Any, batch: Batch) -> Loss:
        """The sum over the pairs, and sums of what is worth watching: rewards, margins, log-probabilities."""
        logps = answer_logps(model, batch, self.trunk)
        base = self._reference_logps(model, batch) if self.kind in REFERENCE else None
        scores = self.scores(logps, base, batch.learned)
        return Loss(self.each(*scores.chunk(2)).sum(), self._watched(logps.detach(), scores.detach()))

    def scores(self, logps: Tensor, base: Tensor | None, tokens: Tensor) -> Tensor:
        """What a loss compares, from log-probabilities of answers, those of the reference, and their lengths: (2B,)."""
        return logps / tokens if base is None else logps - base

    def each(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """The loss of every pair, by scores: (B,), (B,) -> (B,)."""
        if self.kind == "dpo":
            return dpo_loss(chosen, rejected, self.beta, self.smoothing)
        if self.kind == "ipo":
            return ipo_loss(chosen, rejected, self.beta)
        if self.kind == "orpo":
            return orpo_loss(chosen, rejected, self.beta)
        return simpo_loss(chosen, rejected, self.beta, self.margin)

    def _watched(self, logps: Tensor, scores: Tensor) -> dict[str, Tensor]:
        (chosen, rejected), (said, unsaid) = (self.beta * scores).chunk(2), logps.chunk(2)
        return {
            "rewards/chosen": chosen.sum(),
            "rewards/rejected": rejected.sum(),
            "rewards/margins": (chosen - rejected).sum(),
            "rewards/accuracies": (chosen > rejected).sum(),
            "logps/chosen": said.sum(),
            "logps/rejected": unsaid.sum(),
        }

    @torch.no_grad()
    def _reference_logps(self, model: Any, batch: Batch) -> Tensor:
        """What the reference thinks of the answers: (2B,)."""
        if self.reference is not None:
            return answer_logps(self.reference.to(batch.inputs.device), batch, self.trunk)
        active, training = [layer.active for layer in lora.adapted(model)], model.training
        lora.use(model, None)
        try:
            return answer_logps(model.eval(), batch, self.trunk)
        finally:
            model.train(training)
            for layer, name in zip(lora.adapted(model), active, strict=True):
                layer.active = name


def answer_logps(model: Any, batch: Batch, trunk: Trunk | None = None) -> Tensor:
    """The log-probability of every text's learned tokens together, in nats: (B, T) -> (N,)."""
    learned = batch.targets != IGNORE
    scores = model.head(hidden_of(model, batch, trunk)[learned])  # (M, V): only where something is learned
    precise = torch.promote_types(scores.dtype, torch.float32)
    said = torch.log_softmax(scores, dim=1, dtype=precise).gather(1, batch.targets[learned][:, None]).squeeze(1)
    return batch.by_text(said.new_zeros(learned.shape).masked_scatter(learned, said))
