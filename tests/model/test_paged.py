"""Blocks are shared, copied and given back, and no row ever notices."""

import kit
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_kv_cache import feed

from firsthand.errors import ModelError
from firsthand.model.cache import GrowingCache
from firsthand.model.paged import PagedCache, Pool


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def share(*rows: int, blocks: int = 20, size: int = 3) -> tuple[PagedCache, Pool]:
    """A cache of some rows over one pool."""
    pool = Pool(kit.LLAMA, blocks, size)
    return PagedCache(kit.LLAMA, *rows, pool=pool), pool


def test_equal_prompts_share_their_full_blocks_and_compute_only_the_rest():
    model, ids = kit.tiny("llama"), kit.ids(1, 19)[0]
    cache, pool = share(3)
    assert cache.admit(0, ids[:8].tolist()) == 0  # nobody was here before
    model(ids[None, :8], cache.at([0]))
    # 8 tokens are the blocks 0-2 and 3-5 and two tokens of a third, which is not full and so not shared
    assert cache.admit(1, ids[:11].tolist()) == 6
    assert len(pool.free) == 20 - 3
    logits = model(ids[None, 6:11], cache.at([1]))
    assert kit.gap(logits, model(ids[None, :11])[:, 6:]) < 1e-10
    assert cache.rows[0].blocks[:2] == cache.rows[1].blocks[:2]
    assert len(pool.free) == 20 - 3 - 2
    # a prompt that is there to its last token keeps one block for itself: the model must answer something
    assert cache.admit(2, ids[:9].tolist()) == 6
    assert cache.bytes().total == 5 * 3 * 384


def test_another_beginning_shares_nothing_though_its_later_tokens_are_equal():
    model, ids = kit.tiny("llama"), kit.ids(1, 19)[0]
    cache, _ = share(2)
    cache.admit(0, ids[:9].tolist())
    model(ids[None, :9], cache.at([0]))
    other = [(int(ids[0]) + 1) % 11, *ids[1:9].tolist()]
    assert cache.admit(1, other) == 0


def test_a_released_prompt_is_found_again_until_its_blocks_are_needed():
    model, ids, others = kit.tiny("llama"), kit.ids(1, 19)[0], kit.ids(1, 19, seed=3)
    cache, pool = share(2, blocks=7)
    cache.admit(0, ids[:10].tolist())
    model(ids[None, :10], cache.at([0]))
    cache.release(0)
    assert len(pool.free) == 7
    assert cache.admit(1, ids[:10].tolist()) == 9
    assert kit.gap(model(ids[None, 9:12], cache.at([1])), model(ids[None, :12])[:, 9:]) < 1e-10
    cache.release(1)
    cache.admit(0, others[0].tolist())
    model(others, cache.at([0]))  # takes all seven blocks
    cache.release(0)
    assert cache.admit(1, ids[:10].tolist()) == 0


def test_a_shared_block_is_copied_by_the_row_that_writes_into_it():
    model, ids = kit.tiny("llama"), kit.ids(3, 19)
    cache, pool = share(1)
    model(ids[:1, :7], cache)  # three blocks, the last with one token
    cache.select(torch.tensor([0, 0, 0]))
    last = cache.rows[0].blocks[2]
    assert pool.references[last] == 3
    assert len(pool.free) == 20 - 3
    ids[:, :7] = ids[0, :7]
    assert kit.gap(model(ids[:, 7:9], cache), model(ids[:, :9])[:, 7:]) < 1e-10
    assert len(pool.free) == 20 - 5  # two copies; the third row keeps the block
    assert len({row.blocks[2] for row in cache.rows}) == 3
    assert last in {row.blocks[2] for row in cache.rows}


def test_a_row_that_rests_copies_nothing():
    model, ids = kit.tiny("llama"), kit.ids(2, 19)
    cache, pool = share(1, blocks=4)
    model(ids[:1, :7], cache)
    cache.select(torch.tensor([0, 0, 0]))
    feed(model, cache, ids[[0, 0, 0]], [0, 0, 2])
    assert not pool.free  # three blocks, and one copy for the row that wrote


def test_a_row_that_goes_back_into_a_shared_prompt_does_not_spoil_it():
    model, ids = kit.tiny("llama"), kit.ids(1, 19)[0]
    cache, pool = share(3)
    cache.admit(0, ids[:10].tolist())
    model(ids[None, :10], cache.at([0]))
    cache.admit(1, ids[:10].tolist())
    cache.rewind(torch.tensor([5, 9, 0]))
    model(kit.ids(1, 4, seed=7), cache.at([0]))  # other tokens over positions 5 to 8
    assert kit.gap(model(ids[None, 9:12], cache.at([1])), model(ids[None, :12])[:, 9:]) < 1e-10
    assert cache.admit(2, ids[:10].tolist()) == 9  # still there, by row 1
    cache.release(1)
    cache.release(2)
    cache.rewind(torch.tensor([0, 0, 0]))
    assert len(pool.free) == 20


def test_a_prompt_that_was_overwritten_is_not_found_any_more():
    model, ids = kit.tiny("llama"), kit.ids(1, 19)[0]
    cache, _ = share(2)
    cache.admit(0, ids[:10].tolist())
    model(ids[None, :10], cache.at([0]))
    cache.rewind(torch.tensor([5, 0]))
    model(kit.ids(1, 6, seed=7), cache.at([0]))  # the second block is written over where it lies
    assert cache.admit(1, ids[:10].tolist()) == 3
    assert kit.gap(model(ids[None, 3:10], cache.at([1])), model(ids[None, :10])[:, 3:]) < 1e-10


def test_a_prompt_that_was_left_before_its_end_is_not_found():
    model, ids = kit.tiny("llama"), kit.ids(1, 19)[0]
    cache, _ = share(2)
    cache.admit(0, ids[:10].tolist())
    model(ids[None, :4], cache.at([0]))
    cache.rewind(torch.tensor([2, 0]))
    model(kit.ids(1, 8, seed=7), cache.at([0]))  # as many tokens as the prompt, but others
    assert cache.admit(1, ids[:10].tolist()) == 0


def test_rows_that_are_not_neighbours_go_through_the_model_together():
    model, ids = kit.tiny("gpt2"), kit.ids(4, 19)
    full, cache = model(ids), PagedCache(kit.SMALL, 4, Pool(kit.SMALL, 40, 3))
    feed(model, cache, ids, [5, 2, 7, 3])
    logits = model(torch.stack([ids[3, 3:5], ids[1, 2:4]]), cache.at([3, 1]))
    assert kit.gap(logits, torch.stack([full[3, 3:5], full[1, 2:4]])) < 1e-10
    assert cache.lengths.tolist() == [5, 4, 7, 5]
    feed(model, cache, ids, [1, 1, 1, 1])


def test_one_row_may_be_searched_in_many_beams_and_stays_a_row():
    model, ids = kit.tiny("llama"), kit.ids(4, 19)
    ids[:, :5] = ids[0, :5]
    cache, pool = share(2)
    model(ids[:1, :5], cache.at([1]))
    beams = cache.at([1])
    beams.select(torch.tensor([0, 0, 0, 0]))
    model(ids[:, 5:8], beams)
    beams.select(torch.tensor([2]))
    assert kit.gap(model(ids[2:3, 8:11], cache.at([1])), model(ids[2:3, :11])[:, 8:]) < 1e-10
    cache.release(1)
    assert len(pool.free) == 20


def test_a_first_forward_that_was_interrupted_takes_no_blocks_with_it():
    model, ids = kit.tiny("llama"), kit.ids(1, 19)[0]
    cache, pool = share(2)
    cache.admit(0, ids[:8].tolist())
    model(ids[None, :8], cache.at([0]))
    cache.at([1]).begin(torch.tensor([5]), 5)  # and nothing more
    assert cache.admit(1, ids[:8].tolist()) == 6
    assert kit.gap(model(ids[None, 6:8], cache.at([1])), model(ids[None, :8])[:, 6:]) < 1e-10
    assert len(pool.free) == 20 - 4


def test_two_caches_share_one_pool():
    model, ids = kit.tiny("llama"), kit.ids(1, 19)[0]
    first, pool = share(1)
    second = PagedCache(kit.LLAMA, 1, pool)
    first.admit(0, ids[:7].tolist())
    model(ids[None, :7], first)
    assert second.admit(0, ids[:7].tolist()) == 6
    assert kit.gap(model(ids[None, 6:7], second), model(ids[None, :7])[:, 6:]) < 1e-10


def test_what_the_free_blocks_cannot_hold_is_refused_before_anything_changes():
    model, ids = kit.tiny("llama"), kit.ids(2, 19)
    cache, pool = share(2, blocks=5)
    model(ids[:, :4], cache)  # two blocks each
    with pytest.raises(ModelError, match="6 tokens need 2 more blocks of 3, and 1 of 5 are free; release a row or"):
        model(ids[:, 4:7], cache)
    assert len(pool.free) == 1
    assert kit.gap(model(ids[:, 4:6], cache), model(ids)[:, 4:6]) < 1e-10
    with pytest.raises(ModelError, match="row 1 holds 6 tokens; release it before another text begins in it"):
        cache.admit(1, [1, 2])
    with pytest.raises(ModelError, match=r"rows \[1, 1\] name a row twice"):
        cache.at([1, 1])
    with pytest.raises(ModelError, match="a pool of 0 blocks of 3 tokens holds nothing"):
        Pool(kit.LLAMA, 0, 3)


def keep(cache, k: torch.Tensor, v: torch.Tensor, counts: list[int]) -> list[list[torch.Tensor]]:
    """Append made-up keys and values in both layers, as a model does; all that is then held, by layer."""
    cache.begin(torch.tensor(counts), k.shape[2])
    held = [cache.append(layer, k + layer, v - layer) for layer in range(2)]
    cache.advance()
    return held


class Paging(RuleBasedStateMachine):
    """Rows come, grow, go back, are copied, and leave; beside each stands a growing cache of its own.

    The keys of a token are a function of the tokens up to it, as a model's are: equal prefixes have equal keys.
    """

    ROWS, BLOCKS, SIZE = 4, 24, 3

    @initialize()
    def start(self):
        self.cache, self.pool = share(self.ROWS, blocks=self.BLOCKS, size=self.SIZE)
        self.texts: list[list[int]] = [[] for _ in range(self.ROWS)]
        self.beside = [GrowingCache(kit.LLAMA) for _ in range(self.ROWS)]

    def numbers(self, text: list[int], start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of tokens start to end of a text: (1, 3, T, 4) twice."""
        sums = [float(hash(tuple(text[: at + 1])) % 1009) for at in range(start, end)]
        k = torch.tensor(sums, dtype=torch.float64).view(1, 1, -1, 1).expand(1, 3, -1, 4)
        return k + torch.arange(12).view(1, 3, 1, 4), -k

    def grow(self, new: list[list[int]]) -> None:
        """Append some tokens to every row, and compare what is held with what stands beside."""
        counts, T = [len(tokens) for tokens in new], max(1, *map(len, new))
        k, v = (torch.full((self.ROWS, 3, T, 4), torch.nan, dtype=torch.float64) for _ in range(2))
        expected = []
        for row, tokens in enumerate(new):
            start = len(self.texts[row])
            self.texts[row] += tokens
            row_k, row_v = self.numbers(self.texts[row], start, start + len(tokens))
            k[row, :, : len(tokens)], v[row, :, : len(tokens)] = row_k[0], row_v[0]
            expected.append(keep(self.beside[row], row_k, row_v, [len(tokens)]))
        held = keep(self.cache, k, v, counts)
        for row, text in enumerate(self.texts):
            for layer in range(2):
                for side in range(2):
                    mine = held[layer][side][row]
                    assert torch.equal(mine[:, : len(text)], expected[row][layer][side][0])
                    assert not mine[:, len(text) :].any()  # nothing, not even padding, beyond the end

    @rule(new=st.lists(st.lists(st.integers(0, 1), max_size=4), min_size=ROWS, max_size=ROWS))
    def append(self, new):
        self.grow([tokens[: 18 - len(text)] for tokens, text in zip(new, self.texts, strict=True)])

    @precondition(lambda self: not all(self.texts))
    @rule(text=st.sampled_from(["000000000000", "000100000000"]), length=st.integers(1, 12))
    def admit(self, text, length):
        prompt = [int(one) for one in text[:length]]
        row = self.texts.index([])
        found = self.cache.admit(row, prompt)
        assert found % self.SIZE == 0
        assert found < len(prompt)
        if found:
            keep(self.beside[row], *self.numbers(prompt, 0, found), [found])
        self.texts[row] = prompt[:found]
        self.grow([prompt[found:] if at == row else [] for at in range(self.ROWS)])

    @rule(data=st.data())
    def rewind(self, data):
        lengths = [data.draw(st.integers(0, len(text))) for text in self.texts]
        self.cache.rewind(torch.tensor(lengths))
        for row, length in enumerate(lengths):
            self.texts[row] = self.texts[row][:length]
            self.beside[row].rewind(length)

    @rule(row=st.integers(0, ROWS - 1))
    def release(self, row):
        self.cache.release(row)
        self.texts[row] = []
        self.beside[row].rewind(0)

    @rule(rows=st.lists(st.integers(0, ROWS - 1), min_size=ROWS, max_size=ROWS))
    def select(self, rows):
        self.cache.select(torch.tensor(rows))
        self.texts = [[*self.texts[row]] for row in rows]
        self.beside = [GrowingCache(kit.LLAMA) for _ in rows]
        for text, cache in zip(self.texts, self.beside, strict=True):
            if text:
                keep(cache, *self.numbers(text, 0, len(text)), [len(text)])

    @invariant()
    def every_block_is_counted_and_none_is_lost(self):
        referred = [block for row in self.cache.rows for block in row.blocks]
        assert self.pool.references == [referred.count(block) for block in range(self.BLOCKS)]
        assert set(self.pool.free) == set(range(self.BLOCKS)) - set(referred)
        assert self.cache.lengths.tolist() == [len(text) for text in self.texts]
        for row, text in zip(self.cache.rows, self.texts, strict=True):
            assert len(row.blocks) == -(-len(text) // self.SIZE)
        assert {block: name for name, block in self.pool.named.items()} == self.pool.names
        assert len(self.pool.named) == len(self.pool.names)

    def teardown(self):
        for row in range(self.ROWS):
            self.cache.release(row)
        assert set(self.pool.free) == set(range(self.BLOCKS))


TestPaging = Paging.TestCase
TestPaging.settings = settings(
    max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
