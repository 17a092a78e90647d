"""Several tokens a forward pass, without a second model: guess that the text goes on as it did before.

When the last words occurred earlier, what followed them then is a good guess for what follows now: in code, in
summaries, in answers that quote. One pass through the model scores all guessed tokens at once, which costs hardly
more than one, for most of the time goes into reading the weights. Guesses are kept as long as they are right.

Each token is chosen from the same scores with the same random number as without guessing, so the text is the same:
always in exact arithmetic, and in float32 wherever two tokens do not tie within its rounding.
Source: Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding; checking guesses: Leviathan et al. 2023,
arXiv:2211.17192, algorithm 1, where a guess is a distribution that is sure of one token.
"""

from collections.abc import Callable, Iterator
from itertools import cycle, islice

from torch import Tensor

from firsthand.infer.draw import Drawn, Reader, last_scores
from firsthand.model.cache import Cache

LONGEST = 3  # tokens at the end of the text that are looked for; the longest that occurred counts


class Lookup:
    """Guesses up to `most` tokens at once: few after a wrong guess, twice as many after a right one; and counts."""

    def __init__(self, most: int):
        self.most = most
        self.size = min(2, most)  # of SmolLM2-135M on one core, 3 tokens a pass cost 1.2 times as much as 1, 9 twice
        self.after: dict[tuple[int, ...], int] = {}  # where the text went on after the last tokens, when last seen
        self.read = 0
        self.guessed = self.right = self.passes = 0

    def guess(self, ids: list[int]) -> list[int]:
        """What followed the end of the text when it last occurred; nothing if it never did."""
        for place in range(self.read, len(ids)):
            for length in range(1, min(LONGEST, place) + 1):
                self.after[tuple(ids[place - length : place])] = place
        self.read = len(ids)
        tails = (tuple(ids[-length:]) for length in range(min(LONGEST, len(ids)), 0, -1))
        place = next((self.after[tail] for tail in tails if tail in self.after), None)
        # what followed reaches up to the end; if it repeats until there, it will go on repeating
        return [] if place is None else list(islice(cycle(ids[place:]), self.size))

    def learn(self, guessed: int, right: int) -> None:
        """Be bolder after a guess that was right, and more careful after one that was not."""
        if guessed:
            self.size = min(2 * guessed, self.most) if right == guessed else max(1, right)


def draw_guessing(
    model: Reader, ids: list[int], choose: Callable[[Tensor], int], cache: Cache, lookup: Lookup
) -> Iterator[Drawn]:
    """What `draw` gives, in fewer passes through the model."""
    while True:
        guess, begin = lookup.guess(ids)[: cache.capacity - len(ids)], len(ids)
        lookup.guessed, lookup.passes = lookup.guessed + len(guess), lookup.passes + 1
        new = ids[int(cache.lengths[0]) :] + guess
        for at, scores in enumerate(last_scores(model, new, 1 + len(guess), cache)):
            ids.append(choose(scores))
            right = guess[at : at + 1] == ids[-1:]
            lookup.right += right
            yield Drawn(ids[-1], scores)
            if not right:  # what was guessed after it is void
                break
        lookup.learn(len(guess), len(ids) - begin - 1)
        cache.rewind(len(ids) - 1)
