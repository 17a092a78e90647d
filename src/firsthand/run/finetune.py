"""A fine-tuning run from its settings: a model that exists, rows that teach it, a report that says what it is worth.

OUT/config.toml    the settings, resolved       OUT/report.json    the test: every number with interval and baseline
OUT/step-000300/   the model                    OUT/metrics.jsonl run.json    what happened
OUT/trunk-*.bin    what the frozen layers made of the rows, computed once; deleted at the end
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from firsthand import config as configs
from firsthand import files
from firsthand.data.catalog import Progress
from firsthand.errors import ConfigError, ModelError
from firsthand.run.classify import Labelling
from firsthand.run.instruct import Instructing
from firsthand.run.prefer import Preferring
from firsthand.run.train import agree
from firsthand.run.tuning import TuneConfig, read_tuning

if TYPE_CHECKING:
    from firsthand.checkpoint.bundle import Bundle


class Task(Protocol):
    """What a task must do: what is asked of it stands here in the order of a run."""

    def examples(self, bundle: "Bundle") -> dict[str, list[Any]]:
        """What the objective collates, by part: train, validation, test."""
        ...

    def facts(self) -> dict[str, Any]:
        """What became of the rows."""
        ...

    def refuse(self) -> None:
        """An error where these rows must not be learned from."""

    def objective(self) -> Any:
        """What is learned."""
        ...

    def begin(self, objective: Any, model: Any, rows: Sequence) -> None:
        """An error where the first step would already be wrong."""

    def speaks(self) -> tuple[str | None, list[int] | None]:
        """The chat template of the model from now on, and what ends its answers; None: as it was."""
        ...

    def evaluate(self, objective: Any, model: Any, rows: Sequence) -> dict[str, float]:
        """The validation part, under the names of the metrics file."""
        ...

    def report(self, tuned: "Bundle", load: Callable[[], "Bundle"], rows: Sequence) -> dict[str, Any]:
        """What the model is worth on the test part; `load` gives the untuned one."""
        ...


TASKS: dict[str, Callable[[TuneConfig], Task]] = {
    "classify": Labelling,
    "instruct": Instructing,
    "prefer": Preferring,
}
Tell = Callable[[str, dict[str, Any]], None]  # "rows", "cost" or "test", and the facts of it


def silent(what: str, facts: dict[str, Any]) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Tuned:
    """What `finetune` gives back: the folder, the model, its report, and the time it took."""

    path: Path
    bundle: "Bundle"
    report: dict[str, Any]
    seconds: float


def finetune(
    *words: str | Path,
    resume: bool = False,
    track: str = "none",
    tell: Tell = silent,
    progress: Progress | None = None,
) -> Tuned:
    """Teach the model that the words name, test it on rows it never saw, and write the report beside it.

    A folder that holds checkpoints is refused unless `resume`; then the run goes on, bit for bit as if never stopped.
    `tell` hears what became of the rows, and what the run will cost, before it starts.
    """
    from firsthand.run.source import load
    from firsthand.training import begin
    from firsthand.training.fit import fit
    from firsthand.training.parallel import ALONE

    began = time.monotonic()
    settings = read_tuning(words)
    folder = Path(settings.out)
    task = TASKS[settings.task.kind](settings)
    begin.find(folder, "resume" if resume else "new")
    bundle = _start(settings, load(settings.model, progress=progress))
    agree(settings, folder, resume)
    rows, objective = _ready(settings, task, bundle, tell)
    arithmetic = begin.arithmetic(settings.train, bundle.model, folder, ALONE)
    trunk = _trunk(folder, bundle.model, objective, [*rows["train"], *rows["validation"]])
    cost = costs(settings, bundle, objective, rows["train"], trunk, arithmetic.gigaflops)
    tell("cost", cost)
    prepared = time.monotonic()
    _begin(task, bundle.model, objective, rows["train"], arithmetic)
    if trunk is not None:
        _fill(trunk, bundle.model, arithmetic, progress)
        objective.trunk = trunk
    ready = time.monotonic()
    fitted = fit(
        settings.train,
        bundle.model,
        bundle.tokenizer,
        objective,
        rows["train"],
        rows["validation"],
        folder,
        start="resume" if resume else "new",
        tracker=track,
        about=_about(settings, bundle, task),
        template=task.speaks()[0],
        evaluate=partial(task.evaluate, objective),
    )
    tell("test", {"rows": len(rows["test"])})
    tuned = load(fitted.path, arithmetic.device)
    spent = {"trunk": ready - prepared, "training": fitted.progress.seconds}
    told = _report(settings, task, tuned, fitted.progress, rows["test"])
    spent |= {"test": told.pop("seconds"), "all": time.monotonic() - began}
    told |= {"cost": {**cost, "seconds": spent, "arithmetic": str(arithmetic)}, "settings": asdict(settings)}
    files.write_file(folder / "report.json", json.dumps(told, indent=1) + "\n")
    if trunk is not None:
        trunk.forget()
    return Tuned(folder, tuned, told, time.monotonic() - began)


def _report(settings: TuneConfig, task: Task, tuned: "Bundle", progress: Any, rows: list[Any]) -> dict[str, Any]:
    """What was done, and what the model is worth now."""
    from firsthand.run.source import load

    began, device = time.monotonic(), str(tuned.model.embed.weight.device)

    def untuned() -> "Bundle":
        return _unpacked(load(settings.model, device))

    return {
        "model": settings.model,
        "run": settings.out,
        "task": settings.task.kind,
        "seed": settings.train.seed,
        "steps": progress.step,
        "tokens": progress.tokens,
        "rows": task.facts(),
        **task.report(_unpacked(tuned), untuned, rows),
        "seconds": time.monotonic() - began,
    }


def _unpacked(bundle: "Bundle") -> "Bundle":
    """The same function with plain layers: a test takes many products, and each would unpack the whole numbers."""
    from firsthand.linear.shrink import layers, plain, rounds_inputs

    if not layers(bundle.model) or rounds_inputs(bundle.model):
        return bundle
    return replace(bundle, model=plain(bundle.model))


def plan(*words: str | Path, tell: Tell = silent, progress: Progress | None = None) -> dict[str, Any]:
    """What a run would be, without doing it: its settings, its rows, and what it costs."""
    from firsthand.run.source import load
    from firsthand.training import device

    settings = read_tuning(words)
    task = TASKS[settings.task.kind](settings)
    bundle = _start(settings, load(settings.model, progress=progress))
    rows, objective = _ready(settings, task, bundle, tell)
    shape, train = bundle.model.config, settings.train
    arithmetic = device.choose(train.device, train.dtype, train.batch_size * shape.context_length, shape.d_model)
    trunk = _trunk(Path(settings.out), bundle.model, objective, [*rows["train"], *rows["validation"]])
    told = {**task.facts(), **costs(settings, bundle, objective, rows["train"], trunk, arithmetic.gigaflops)}
    return {"settings": configs.write(settings), **told, "arithmetic": str(arithmetic)}


def _start(settings: TuneConfig, bundle: "Bundle") -> "Bundle":
    """The model as it begins: what it knows, or, for comparison, nothing."""
    if settings.task.start == "random":
        if bundle.model.swaps:
            raise ConfigError(
                f"{settings.model} has layers replaced, so task.start=random has no meaning; leave it out"
            )
        bundle.model.initialise(settings.train.seed)
    return bundle


def _ready(settings: TuneConfig, task: Task, bundle: "Bundle", tell: Tell) -> tuple[dict[str, list[Any]], Any]:
    """The rows, looked at and told before anything is refused, and the objective, for which the model is changed."""
    rows = task.examples(bundle)
    tell("rows", task.facts())
    task.refuse()
    objective = task.objective()
    _prepare(settings, bundle.model, objective)
    return rows, objective


def _begin(task: Task, model: Any, objective: Any, rows: list, arithmetic: Any) -> None:
    """Look at the first step before it is done, with the arithmetic of the run."""
    import torch

    model.to(arithmetic.device)
    with torch.no_grad(), arithmetic.products(), arithmetic.autocast():
        task.begin(objective, model, rows)


def _prepare(settings: TuneConfig, model: Any, objective: Any) -> None:
    """Build, swap, prepare, in this order: an adapter freezes what it stands around, the objective thaws its head."""
    from firsthand.linear import lora
    from firsthand.linear.kinds import change
    from firsthand.linear.lora import Lora, settings_of
    from firsthand.linear.shrink import described, layers

    thaw = settings.task.thaw
    if lora.names(model):
        raise ConfigError(f"{settings.model} has adapters already; merge them first: firsthand merge")
    if thaw not in ("lora", "head") and (found := layers(model)):
        raise ModelError(
            f"{settings.model} is quantized ({described(found)}): whole numbers have no gradient, and task.thaw={thaw} "
            "would learn them. Use task.thaw=lora, or tune the original",
            code=13,
        )
    if thaw == "lora":
        chosen = settings.lora
        adapter = Lora("default", chosen.rank, chosen.alpha, chosen.dropout, chosen.root, chosen.dora)
        change(model, "lora", list(chosen.patterns), settings_of(adapter))
        lora.initialise(model, adapter.name, settings.train.seed)
    objective.prepare(model)


def _trunk(folder: Path, model: Any, objective: Any, rows: list) -> Any:
    """The frozen part of the model over these rows; None where nothing at the bottom is frozen."""
    from firsthand.objectives.thaw import frozen_below
    from firsthand.objectives.trunk import Trunk

    blocks = frozen_below(model, objective.thaw)[0]
    return Trunk(folder, read(objective, rows), blocks) if blocks else None


def read(objective: Any, examples: list) -> list[list[int]]:
    """The ids that a model reads of some examples, row by row."""
    return [ids.tolist() for example in examples for ids in objective.collate([example]).texts]


def _fill(trunk: Any, model: Any, arithmetic: Any, progress: Progress | None) -> None:
    """Compute the frozen part with the arithmetic of the run."""
    model.to(arithmetic.device)
    with arithmetic.products(), arithmetic.autocast():
        trunk.fill(model, None if progress is None else lambda done, total: progress("frozen layers", done, total))


def costs(
    settings: TuneConfig, bundle: "Bundle", objective: Any, rows: list, trunk: Any, gigaflops: float
) -> dict[str, Any]:
    """Parameters, bytes and seconds; time by half the measured speed of a product, as far as one was measured."""
    from firsthand.linear.shrink import layers

    model, train = bundle.model, settings.train
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    sizes |= {f"{name}.codes": its.in_features * its.out_features for name, its in layers(model).items()}
    learned = sum(sizes[name] for name, weight in model.named_parameters() if weight.requires_grad)
    tables = sum(sizes[name] for name in sizes if name.startswith(("embed.", "positions.")))
    below = 0 if trunk is None else sum(n for name, n in sizes.items() if _under(name, trunk.blocks))
    one = sum(map(len, read(objective, rows))) / len(rows)  # of an example, on average
    tokens = int(train.steps * train.batch_size * train.accumulate * one)
    body = sum(sizes.values()) - tables - below
    back = body if objective.thaw == "lora" else learned  # to reach adapters, the way back leads through everything
    passes = tokens * (2 * body * (1 + objective.references) + 2 * back + 2 * learned)
    operations = passes + (0 if trunk is None else 2 * below * trunk.tokens)
    return {
        "parameters": sum(sizes.values()),
        "parameters_learned": learned,
        "training_tokens": tokens,
        "trunk_tokens": 0 if trunk is None else trunk.tokens,
        "trunk_bytes": 0 if trunk is None else trunk.bytes(model),
        "operations": operations,
        "seconds_about": operations / (0.5e9 * gigaflops) if gigaflops else None,
    }


def _under(name: str, blocks: int) -> bool:
    """Whether a weight belongs to the first `blocks` blocks."""
    return name.startswith("blocks.") and int(name.split(".")[1]) < blocks


def _about(settings: TuneConfig, bundle: "Bundle", task: Task) -> dict[str, Any]:
    """What the checkpoint says of its origin."""
    facts, ends = task.facts(), task.speaks()[1]
    data = {"source": settings.data.source, **{name: facts[name] for name in ("train", "test")}}
    parent = {"model": settings.model, **{key: bundle.about[key] for key in ("source", "step") if key in bundle.about}}
    reading: dict[str, Any] = {} if settings.data.longest is None else {"longest": settings.data.longest}
    if settings.task.frame != "{text}":
        reading["frame"] = settings.task.frame
    if settings.task.reads != "last":
        reading["reads"] = settings.task.reads
    return {
        "objective": settings.task.kind,
        "parent": parent,
        "data": data,
        **reading,
        "ends": list(bundle.ends) if ends is None else ends,
        "settings": configs.write(settings),
    }
