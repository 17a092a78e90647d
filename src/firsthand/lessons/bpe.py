"""Byte pair encoding, as slowly and clearly as possible.

A computer sees a text as bytes: "café" is 99 97 102 195 169. Bytes are few (256) but a text of bytes is long. Words are
short but never all known. Byte pair encoding finds the middle: start from bytes, look for the two neighbours that
stand side by side most often, give the pair a number of its own, and repeat.

By hand, with "aaabdaaabac" (a = 97, b = 98, c = 99, d = 100):

    97 97 97 98 100 97 97 97 98 97 99    the pair (97, 97) occurs 4 times: call it 256
    256 97 98 100 256 97 98 97 99        (97, 98) and (256, 97) occur twice: the smaller one first, call it 257
    256 257 100 256 257 97 99            (256, 257) occurs twice: call it 258
    258 100 258 97 99                    11 numbers became 5, and the list of three merges is all that was learned

    >>> merges = train(["aaabdaaabac"], 3)
    >>> merges
    [(97, 97), (97, 98), (256, 257)]
    >>> encode("aaabdaaabac", merges)
    [258, 100, 258, 97, 99]
    >>> decode([258, 100, 258, 97, 99], merges)
    'aaabdaaabac'

The text comes in words, because a merge should never join the end of one word with the start of the next: " the" is
worth a number, "e the c" is not. How to cut a text into words is a question of its own (`words` below is the simplest
answer that loses nothing). `tokenizer/learn.py` and `tokenizer/bpe.py` do the same a thousand times faster.

Source: Gage 1994, "A new algorithm for data compression"; Sennrich et al. 2016, arXiv:1508.07909, algorithm 1.
"""

from collections import Counter
from itertools import pairwise

Pair = tuple[int, int]


def words(text: str) -> list[str]:
    """The words of a text, each with the one space before it; joined they are the text again.

    >>> words("to be, or not")
    ['to', ' be,', ' or', ' not']
    """
    first, *others = text.split(" ")
    return [first] + [" " + word for word in others]


def count_pairs(counted: dict[tuple[int, ...], int]) -> Counter[Pair]:
    """How often each two ids stand side by side, over all words: each word counts as often as it occurs.

    >>> count_pairs({(1, 2, 1, 2): 10, (2, 1): 1})
    Counter({(1, 2): 20, (2, 1): 11})
    """
    pairs = Counter()
    for ids, times in counted.items():
        for left, right in pairwise(ids):
            pairs[left, right] += times
    return pairs


def merge(ids: tuple[int, ...], pair: Pair, new: int) -> tuple[int, ...]:
    """The same ids with every occurrence of the pair replaced by one new id, from left to right.

    >>> merge((97, 97, 97, 98), (97, 97), 256)
    (256, 97, 98)
    """
    merged, at = [], 0
    while at < len(ids):
        if ids[at : at + 2] == pair:
            merged.append(new)
            at += 2
        else:
            merged.append(ids[at])
            at += 1
    return tuple(merged)


def train(pieces: list[str], n_merges: int) -> list[Pair]:
    """The pairs to merge, in order; merge number m makes id 256 + m. Fewer if every word has become a single id.

    Of pairs that occur equally often, the one with the smaller left id is merged first, then the smaller right id.
    """
    counted = {tuple(word.encode()): times for word, times in Counter(pieces).items()}
    merges = []
    while len(merges) < n_merges:
        pairs = count_pairs(counted)
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        new = 256 + len(merges)
        counted = {merge(ids, best, new): times for ids, times in counted.items()}
        merges.append(best)
    return merges


def encode(word: str, merges: list[Pair]) -> list[int]:
    """The ids of one word: its bytes, then every merge in the order in which it was learned.

    >>> encode("café", [(97, 102), (99, 256)])
    [257, 195, 169]
    """
    ids = tuple(word.encode())
    for number, pair in enumerate(merges):
        ids = merge(ids, pair, 256 + number)
    return list(ids)


def decode(ids: list[int], merges: list[Pair]) -> str:
    """The text of some ids: each id is a string of bytes, and they are simply joined.

    Half a character can come out when ids were cut off or chosen by a model: it is shown as the replacement sign.
    """
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return b"".join(tokens[number] for number in ids).decode(errors="replace")
