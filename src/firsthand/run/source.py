"""Where a model comes from: a path, or a name of the catalog or the hub; what lies there says how it is read.

runs/mine                               a run, or a checkpoint, made here
smollm2-135m-instruct                   a name of the catalog
HuggingFaceTB/SmolLM2-135M              a name of the hub; @REVISION for another than its newest
./folder, model.gguf                    a Hugging Face folder, OpenAI's GPT-2 files, a GGUF file
"""

from collections.abc import Callable
from pathlib import Path

import torch

from firsthand import files
from firsthand.checkpoint import bundle as bundles
from firsthand.checkpoint.bundle import Bundle
from firsthand.data import catalog, hub
from firsthand.data.catalog import Progress
from firsthand.data.rows import ROWS
from firsthand.errors import CheckpointError
from firsthand.interop import gguf, huggingface, openai_gpt2
from firsthand.interop.foreign import Foreign
from firsthand.interop.peft_config import CONFIG

Reader = Callable[[Path], Foreign]


def load(
    source: str | Path,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    progress: Progress | None = None,
) -> Bundle:
    """The model, tokenizer and origin of whatever a word names, in `dtype`; None leaves the numbers as they are stored.

    Of a run folder it is the newest checkpoint that is whole. Names of the catalog and of the hub are fetched once.
    """
    path = locate(source, progress)
    reader = reader_of(path)
    if reader is None:
        return bundles.load(checkpoint_of(path), device, dtype)
    given = reader(path)
    about = {**given.about, "ends": list(given.ends)}
    return Bundle(given.build(dtype).to(device), given.tokenizer, about, path, given.template)


def locate(source: str | Path, progress: Progress | None = None) -> Path:
    """The file or folder that a word names; a name is fetched unless it is here already."""
    path, name = Path(source), str(source)
    if path.exists():
        return path
    if name in [row.name for row in ROWS]:
        return catalog.get(name, progress=progress)
    if hub.is_name(name) and not path.parent.exists():
        return hub.get(name, progress=progress)
    return checkpoint_of(path)  # which says that there is nothing


def reader_of(path: Path) -> Reader | None:
    """What reads this file or folder; None if it is one of ours."""
    if path.is_file():
        with files.open_regular(path) as file:
            return gguf.read if file.read(4) == b"GGUF" else None
    if (path / "hparams.json").exists():
        return openai_gpt2.read
    if (path / "config.json").exists():
        config = (path / "config.json").resolve()  # the hub's own cache holds links
        fields = files.parse_json(files.read_file(config), files.shown(config))
        return huggingface.read if "architectures" in fields or "model_type" in fields else None
    if (path / CONFIG).exists():
        mend = f"firsthand import BASE --adapter {files.shown(path)} --out DIR"
        raise CheckpointError(f"{files.shown(path)} holds an adapter and no model. Put it onto its base: {mend}")
    if found := sorted(path.glob("*.gguf")):
        if len(found) > 1:
            raise CheckpointError(f"{files.shown(path)} has {len(found)} GGUF files. Name one: {files.shown(found[0])}")
        return lambda folder: gguf.read(found[0])
    return None


def checkpoint_of(source: str | Path) -> Path:
    """The checkpoint that a path means; a damaged newest one of a run is passed over aloud."""
    path = Path(source)
    if not path.exists():
        runs = [str(run) for run in sorted(Path("runs").glob("*")) if files.checkpoints(run)]
        there = f"Trained here: {', '.join(runs[:5])}" if runs else "Train one: firsthand train"
        raise CheckpointError(f"there is no model at {str(path)!r}. {there}.", code=23)
    if not files.checkpoints(path):
        return path
    found, damaged = files.newest(path)
    if found is None:
        raise CheckpointError(f"no checkpoint of {files.shown(path)} is whole: {damaged[0][1]}.", code=22)
    return found
