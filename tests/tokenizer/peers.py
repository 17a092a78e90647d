"""The same vocabularies in tiktoken and in ours, and texts to compare them on."""

import sysconfig
from pathlib import Path

import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.split import SPELLINGS

# As tiktoken and Hugging Face publish them: not our own spelling.
PUBLISHED = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "cl100k": r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
    r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s""",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "smollm": r"\p{N}|\s+(?=\p{N})|"  # its own file cuts twice; test_split.py compares with that too
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
}
assert {SPELLINGS.get(text, "smollm") for text in PUBLISHED.values()} == set(PUBLISHED)
END = "<|endoftext|>"

MULTILINGUAL = """Der Zauberlehrling hat's gewußt: Straße, Füße, Übergröße — „so ist's recht“!
L'été dernier, c'était l'œuvre d'un élève naïf ; « voilà », dit-il à 18 h 45.
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío. ¿Añoraba? ¡Sí!
Съешь же ещё этих мягких французских булок, да выпей чаю. Що це таке? Ґанок.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία· τί ἐστιν ἀλήθεια;
いろはにほへと ちりぬるを。東京特許許可局、３月１４日　一二三。ﾊﾝｶｸ
天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。1949年10月1日
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ٠١٢٣٤٥٦٧٨٩
דג סקרן שט בים מאוכזב ולפתע מצא לו חברה. שָׁלוֹם
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश १२३४
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ๑๒๓ மழை தமிழ் ௧௨ ქართული ენა հայերեն
Pchnąć w tę łódź jeża lub ośm skrzyń fig. Příliš žluťoučký kůň. Şimdi İstanbul'da ığdır.
Tiếng Việt: Trăm năm trong cõi người ta. Ωμέγα ½ ¾ Ⅷ ⅷ ① ² x₂ ſ'ſ K Å
👩‍👩‍👧‍👦 👋🏽 🇺🇳🇩🇪 ❤️‍🔥 1️⃣ 🏴󠁧󠁢󠁳󠁣󠁴󠁿 ☕️ 🫠🫡 e\u0301 \u0000 \u200b \ufeff \ufffd \U0010ffff
a\u00a0b\u3000\u3000c\u2028d\u0085e  f\t\tg \r\n\r\n  h\x1c\x1di I'm WE'LL they'Ve 'S 'ſ ''s can''t
"""


def printable_bytes() -> dict[str, int]:
    """GPT-2's table that writes every byte as a character one can see."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


def gpt2_ranks(shared: Path) -> dict[bytes, int]:
    """Token -> id of GPT-2, read by tiktoken's own reader."""
    folder = shared / "gpt2-tokenizer"
    return data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))


def gpt2_merges(shared: Path, ranks: dict[bytes, int]) -> list[tuple[int, int]]:
    """The merges of GPT-2 as pairs of ids."""
    table = printable_bytes()
    lines = (shared / "gpt2-tokenizer" / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    return [
        (ranks[bytes(table[c] for c in left)], ranks[bytes(table[c] for c in right)])
        for left, right in (line.split(" ") for line in lines)
    ]


def theirs(ranks: dict[bytes, int], pattern: str) -> tiktoken.Encoding:
    """tiktoken with these ranks, <|endoftext|> behind them."""
    return tiktoken.Encoding(
        "test", pat_str=PUBLISHED[pattern], mergeable_ranks=ranks, special_tokens={END: len(ranks)}
    )


def ours(ranks: dict[bytes, int], pattern: str, merges: list[tuple[int, int]] | None = None) -> Tokenizer:
    """Our tokenizer with these ranks, or these merges, <|endoftext|> behind them."""
    tokens = sorted(ranks, key=ranks.__getitem__)
    return Tokenizer([*tokens, END.encode()], merges, pattern, {END: len(ranks)})


def python_files() -> list[Path]:
    """The modules of the standard library, its packages and tests not included."""
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
