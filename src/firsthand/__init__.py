"""firsthand: build a large language model with your own hands.

    import firsthand as fh
    bundle = fh.train("configs/shakespeare-char-fast.toml").bundle
    print(fh.generate(bundle, "To be, or not", max_tokens=64))

The public names, and no others. Each is imported when it is first used: `import firsthand` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firsthand.errors import FirsthandError as FirsthandError
    from firsthand.infer.generate import generate as generate
    from firsthand.infer.generate import stream as stream
    from firsthand.model.config import ModelConfig as ModelConfig
    from firsthand.model.gpt import GPT as GPT
    from firsthand.run.source import load as load
    from firsthand.run.train import train as train
    from firsthand.tokenizer.bpe import Tokenizer as Tokenizer

__version__ = "0.1.0"

_HOMES = {
    "FirsthandError": "firsthand.errors",
    "GPT": "firsthand.model.gpt",
    "ModelConfig": "firsthand.model.config",
    "Tokenizer": "firsthand.tokenizer.bpe",
    "generate": "firsthand.infer.generate",
    "load": "firsthand.run.source",
    "stream": "firsthand.infer.generate",
    "train": "firsthand.run.train",
}
__all__ = [*sorted(_HOMES), "__version__"]  # pyrefly: ignore


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"firsthand has no {name!r}; its names are {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
