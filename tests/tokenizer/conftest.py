"""GPT-2's tokenizer, in tiktoken and in ours."""

import pytest
from peers import gpt2_merges, gpt2_ranks, ours, theirs


@pytest.fixture(scope="session")
def ranks(shared):
    return gpt2_ranks(shared)


@pytest.fixture(scope="session")
def oracle(ranks):
    return theirs(ranks, "gpt2")


@pytest.fixture(scope="session")
def gpt2(shared, ranks):
    return ours(ranks, "gpt2", gpt2_merges(shared, ranks))
