"""A whole run: it begins or goes on, looks, saves, and stops as it should, whatever happens.

run/   run.json       the arithmetic that was measured and chosen at the first start
       metrics.jsonl  one line a step, one a validation
       samples.jsonl  text the model wrote while it learned
       step-000200/   a checkpoint: all that is needed to go on, bit for bit
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.data.loader import Loader
from firsthand.errors import TrainingError
from firsthand.linear.shrink import trainable
from firsthand.objectives.base import Objective
from firsthand.training import begin, device, groups, parallel, schedule, state, track
from firsthand.training.config import TrainConfig
from firsthand.training.job import Evaluate, Job, Sample
from firsthand.training.loop import LossScale, NonFinite, Record, steps
from firsthand.training.signals import Interrupted, Signals


@dataclass(frozen=True)
class Fitted:
    """What a run ended with: its last checkpoint, how far it came, and the records of this start."""

    path: Path
    progress: state.Progress
    records: list[Record]


def fit(
    config: TrainConfig,
    model: Any,
    tokenizer: Any,
    objective: Objective,
    train_data: Sequence,
    validation_data: Sequence,
    run: Path | str,
    *,
    start: begin.Start = "new",
    tracker: str = "none",
    about: dict | None = None,
    template: str | None = None,
    evaluate: Evaluate | None = None,
    sample: Sample | None = None,
) -> Fitted:
    """Train `model` for `config.steps` updates, and keep everything in the folder `run`.

    `start` says what may be there: "new" refuses a folder with checkpoints, "resume" one without, "either" takes both.
    Resumed at any point, a run ends with the same bits as one that was never stopped, on the same machine.
    """
    folder, ranks = Path(run), parallel.join()
    with ExitStack() as stack:
        stack.callback(parallel.leave)
        if ranks.rank == 0:
            stack.enter_context(files.RunLock(folder))
            files.sweep(folder)
        newest, damaged = begin.find(folder, start)
        signals = stack.enter_context(Signals())
        arithmetic = begin.arithmetic(config, model, folder, ranks)
        stack.enter_context(arithmetic.products())
        device.keep_memory()
        objective.prepare(model)
        trainable(model)
        model.to(arithmetic.device).checkpointing = config.checkpointing
        job = Job(
            config=config,
            model=model,
            tokenizer=tokenizer,
            objective=objective,
            data=train_data,
            validation=validation_data,
            folder=folder,
            arithmetic=arithmetic,
            ranks=ranks,
            optimizer=groups.build(model, config, arithmetic.dtype),
            scale=LossScale(arithmetic.dtype),
            evaluate=evaluate or held_out(objective, config.batch_size),
            sample=sample,
            about=about or {},
            template=template,
            trackers=[] if ranks.rank else track.trackers(tracker, folder, config.steps, asdict(config)),
        )
        for each in job.trackers:
            stack.callback(each.close)
        job.say(f"arithmetic: {arithmetic}")
        if newest is not None:
            begin.resume(job, newest)
        begin.tidy(job, damaged)
        if config.compile:
            _translate(job)
        return _train(job, signals)


def _train(job: Job, signals: Signals) -> Fitted:
    """The turns of the loop, and what happens between two of them."""
    config, records = job.config, []
    try:
        for record in _records(job):
            records.append(record)
            job.note(record)
            stop = job.ranks.largest(signals.received)  # agreed, so that all ranks stop after the same step
            last = record.step == config.steps
            if last or _due(record.step, config.eval_every):
                job.look()
            if _due(record.step, config.sample_every):
                job.write()
            if last or stop or _due(record.step, config.save_every):
                job.save()
            if last:
                break
            if stop:
                raise Interrupted(stop, record.step, job.folder / f"step-{record.step:06d}")
    except NonFinite as error:
        raise _with_a_mend(error, job) from error
    assert job.saved is not None
    return Fitted(job.saved, job.progress, records)


def _records(job: Job) -> Iterator[Record]:
    """The records of the steps that are left; none if the run is already complete."""
    config, progress, ranks = job.config, job.progress, job.ranks
    if progress.step >= config.steps:
        return iter(())
    loader = Loader(job.data, config.batch_size, config.seed, ranks.rank, ranks.world, progress.position)
    return steps(
        job.model,
        job.objective,
        map(job.objective.collate, loader),
        job.optimizer,
        schedule=schedule.build(config),
        accumulate=config.accumulate,
        clip=config.clip,
        start=progress.step,
        position=progress.position,
        seed=config.seed,
        nonfinite=config.nonfinite,
        arithmetic=job.arithmetic,
        scale=job.scale,
        ranks=ranks,
    )


def held_out(objective: Objective, batch_size: int) -> Evaluate:
    """The plain validation: the objective's own loss and whatever else it sums up, once over all examples."""

    def evaluate(model: Any, data: Sequence) -> dict[str, float]:
        sums, count = {"loss": 0.0}, 0
        for first in range(0, len(data), batch_size):
            batch = objective.collate([data[i] for i in range(first, min(first + batch_size, len(data)))])
            loss = objective.loss(model, batch.to(next(model.parameters()).device))
            for name, value in {"loss": loss.total, **loss.metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            count += batch.count
        return {f"eval/{name}": value / max(1, count) for name, value in sums.items()}

    return evaluate


def _translate(job: Job) -> None:
    """torch.compile, block by block: names of weights stay as they are, and equal blocks are translated once."""
    job.say("compile: the first step translates the model, which can take a minute")
    for block in job.model.blocks:
        block.compile()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _with_a_mend(error: NonFinite, job: Job) -> TrainingError:
    """The same error with the file that tells more, and a command that goes on."""
    facts = error.facts
    rate = job.config.learning_rate / 10
    return TrainingError(
        f"loss became {facts['loss']} at step {facts['step']} (gradient norm {facts['norm']}, "
        f"batch in {job.keep_facts(facts)}). No update was applied. Go on with --resume train.learning_rate={rate:g}",
        code=37,
    )
