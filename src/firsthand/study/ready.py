"""The ready studies, by name: each is one file with its cells, its conclusion and its page."""

from collections.abc import Sequence

from firsthand.study.lora_rank import lora_rank
from firsthand.study.mask import mask
from firsthand.study.spam import spam
from firsthand.study.study import Size, Study

STUDIES = {"lora-rank": lora_rank, "mask": mask, "spam": spam}


def study(name: str, words: Sequence[str], seeds: Sequence[int], size: Size) -> Study:
    """A study of the given size."""
    return STUDIES[name](words, seeds, size)
