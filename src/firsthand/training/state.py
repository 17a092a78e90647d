"""Everything beside the weights that a run must get back, to go on bit for bit as if it had never stopped.

What is compared with the present falls into two kinds: what must be the same (another model, other data: an error), and
what only changes the bits (another torch, another number of threads: one line of warning).
"""

import base64
import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firsthand.errors import CheckpointError, nearest
from firsthand.training.config import TrainConfig
from firsthand.training.device import Arithmetic
from firsthand.training.loop import LossScale
from firsthand.training.optim import Optimizer
from firsthand.training.parallel import Ranks


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # updates done
    position: int = 0  # samples taken, all ranks
    tokens: int = 0  # read
    seconds: float = 0.0  # of training, all starts together
    best: float | None = None  # lowest validation loss


def capture(progress: Progress, optimizer: Optimizer, scale: LossScale, facts: dict) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the numbers that `restore` needs."""
    tensors = {**optimizer.tensors(), **_random_tensors()}
    state = {
        "progress": asdict(progress),
        "loss_scale": [scale.value, scale.fine],
        "random": _random_numbers(),
        "facts": facts,
    }
    return tensors, state


def restore(tensors: dict[str, Tensor], state: dict, optimizer: Optimizer, scale: LossScale) -> Progress:
    """Put everything back where `capture` found it."""
    for name, tensor in optimizer.tensors().items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"the checkpoint's optimiser has no {name!r} of shape {list(tensor.shape)}: it was saved with another "
                f"optimizer or model.{nearest(name, tensors)}"
            )
        tensor.copy_(tensors[name])
    scale.value, scale.fine = state["loss_scale"]
    _set_random(tensors, state["random"])
    return Progress(**state["progress"])


def facts(
    config: TrainConfig, model_config: Any, tokenizer: Any, data: Sequence, arithmetic: Arithmetic, ranks: Ranks
) -> dict[str, dict[str, Any]]:
    """What decides the course of a run: `same` must be the same on resume, `bits` change only the bits."""
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    hard = {name: settings.pop(name) for name in ("seed", "optimizer")}
    for name in ("device", "dtype", "eval_every", "save_every", "keep", "sample_every"):
        settings.pop(name)  # the first two are in `arithmetic`, resolved; the others do not touch a weight
    return {
        "same": {
            **{f"model.{name}": value for name, value in asdict(model_config).items()},
            **{f"train.{name}": value for name, value in hard.items()},
            "tokenizer": tokenizer.fingerprint,
            "data": fingerprint(data),
        },
        "bits": {
            **{f"train.{name}": value for name, value in settings.items()},
            **arithmetic.facts(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "ranks": ranks.world,
        },
    }


def changes(saved: dict[str, dict[str, Any]], present: dict[str, dict[str, Any]]) -> list[str]:
    """What is no longer as it was, each as `name: old -> new`; CheckpointError where it must be the same."""
    hard = _differences(saved["same"], present["same"])
    if hard:
        raise CheckpointError(
            f"this run cannot go on with other settings ({'; '.join(hard)[:150]}). Put them back, or choose a new out="
        )
    return _differences(saved["bits"], present["bits"])


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = [*old, *(name for name in new if name not in old)]
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def fingerprint(data: Sequence) -> str:
    """How many examples, and a hash over a hundred of them spread evenly: other data will not have the same."""
    digest = hashlib.sha256(str(len(data)).encode())
    for i in range(0, len(data), max(1, len(data) // 100)):
        digest.update(repr(_plain(data[i])).encode())
    return f"{len(data)} examples, {digest.hexdigest()[:16]}"


def _plain(example: Any) -> Any:
    """An example as lists and numbers: a window of ids, or a tuple of parts that need not be equally long."""
    return [_plain(part) for part in example] if isinstance(example, tuple) else np.asarray(example).tolist()


def _random_tensors() -> dict[str, Tensor]:
    """The states of torch's generators, on the processor and on every GPU."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"random.torch": torch.get_rng_state(), **{f"random.cuda.{i}": state for i, state in enumerate(gpus)}}


def _random_numbers() -> dict[str, Any]:
    """The states of Python's and numpy's generators, as JSON can hold them."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, base64.b64encode(np.asarray(keys).tobytes()).decode(), position, has_gauss, cached],
    }


def _set_random(tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["random.torch"])
    for i in range(torch.cuda.device_count()):
        if f"random.cuda.{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda.{i}"], i)
    version, state, gauss = numbers["python"]
    random.setstate((version, tuple(state), gauss))
    name, keys, position, has_gauss, cached = numbers["numpy"]
    words = np.frombuffer(base64.b64decode(keys), dtype=np.uint32)
    np.random.set_state((name, words, position, has_gauss, cached))
