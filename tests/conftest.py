"""What every test may ask for."""

import os
from pathlib import Path

import pytest

from firsthand.data import catalog
from firsthand.errors import DownloadError

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public test data: FIRSTHAND_SHARED, or beside the checkout; skips where there is none."""
    folder = Path(os.environ.get("FIRSTHAND_SHARED", BESIDE))
    if not (folder / "tinyshakespeare.txt").is_file():
        pytest.skip("no folder of test data: set FIRSTHAND_SHARED to one (README, 'Tests')")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of the real SmolLM2-135M-Instruct, through the catalog; skips where nothing can be fetched."""
    try:
        return catalog.get("smollm2-135m-instruct")
    except DownloadError as error:
        pytest.skip(f"no SmolLM2: {error}")
