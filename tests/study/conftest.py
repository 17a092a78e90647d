"""What the tests of sweeps share."""

import pytest
import torch
from sweeps import talking_words, tiny_words


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """What `finetune` takes, for a tiny model and a tiny data set."""
    return tiny_words(tmp_path_factory.mktemp("sweeps"))


@pytest.fixture(scope="session")
def talking(tmp_path_factory):
    """What a study of answers takes, for a tiny model and easy questions."""
    return talking_words(tmp_path_factory.mktemp("talking"))


@pytest.fixture
def one_thread():
    """Cells of one thread each: two at once compute what one alone does, bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
