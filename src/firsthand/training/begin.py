"""How a run begins: with which checkpoint, with which arithmetic, and from where it goes on."""

import json
from pathlib import Path
from typing import Any, Literal

from firsthand import files
from firsthand.checkpoint import bundle
from firsthand.errors import CheckpointError
from firsthand.training import device, state
from firsthand.training.config import TrainConfig
from firsthand.training.job import Job
from firsthand.training.parallel import Ranks, local_device

Start = Literal["new", "resume", "either"]


def find(folder: Path, start: Start) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The checkpoint to go on from, as far as `start` allows one, and newer ones that are damaged."""
    newest, damaged = files.newest(folder)
    if start == "new" and (newest or damaged):
        count = len(files.checkpoints(folder))
        raise CheckpointError(
            f"{folder} already has {count} checkpoint{'s' * (count > 1)}. Go on with --resume, or choose a new out=",
            code=25,
        )
    if start == "resume" and newest is None:
        raise CheckpointError(
            f"no checkpoint to resume in {folder} (0 valid, {len(damaged)} damaged). Start without --resume", code=23
        )
    return newest, damaged


def arithmetic(config: TrainConfig, model: Any, folder: Path, ranks: Ranks) -> device.Arithmetic:
    """Measured once a run and written down: a resumed run must not choose again, and every rank needs the same."""
    note = folder / "run.json"
    known = files.parse_json(files.read_file(note), str(note))["arithmetic"] if note.exists() else {}
    if known and config.dtype in ("auto", known["dtype"]):
        return device.Arithmetic(str(device.pick(config.device)), known["dtype"], known["route"])
    place = local_device() if ranks.world > 1 and config.device == "auto" else config.device
    rows = config.batch_size * model.config.context_length
    chosen = device.agree(device.choose(place, config.dtype, rows, model.config.d_model), ranks)
    if ranks.rank == 0:
        files.write_file(note, json.dumps({"arithmetic": chosen.facts()}, indent=1) + "\n")
    return chosen


def resume(job: Job, newest: Path) -> None:
    """Weights, optimiser, position and random states of a checkpoint."""
    tensors, numbers = bundle.load_training(newest)
    different = state.changes(numbers["facts"], job.facts)
    job.model.load_state_dict(bundle.load(newest).model.state_dict())
    job.progress = state.restore(tensors, numbers, job.optimizer, job.scale)
    job.saved = newest
    job.say(f"going on from {newest.name}")
    if different:
        job.say(f"resume is exact in mathematics, not in bits, because {'; '.join(different)}")


def tidy(job: Job, damaged: list[tuple[Path, str]]) -> None:
    """Move damaged checkpoints out of the way, and cut off what was logged after the step where the run begins now.

    Also when that is step 0: a run killed before its first checkpoint has logged steps that come again.
    """
    if job.ranks.rank:
        return
    for path, reason in damaged:
        aside = files.set_aside(path)
        job.say(f"{path.name} is damaged ({reason}) and now called {aside.name} [FH022]")
    for name, key in (("metrics.jsonl", "train/global_step"), ("samples.jsonl", "step")):
        files.cut_lines(job.folder / name, lambda line, key=key: line.get(key, 0) <= job.progress.step)
