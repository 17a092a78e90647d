"""The stages of the journey, in order: each a function from what came before to a dictionary of plain numbers.

`lines` are said in the terminal, the rest becomes figures in the report. A stage may be slow: it is done once.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from firsthand.data.tokens import Tokens, show_windows, windows
from firsthand.errors import DownloadError
from firsthand.journey import faster, real, tuned
from firsthand.lessons import attention as rungs
from firsthand.lessons import gpt as lesson
from firsthand.model import sizes
from firsthand.model.attention import Attention, attention_maps
from firsthand.model.config import ModelConfig
from firsthand.run import speak, use
from firsthand.run import text as texts
from firsthand.run.settings import model_config, read_run
from firsthand.run.source import load
from firsthand.run.train import prepare, train
from firsthand.study.embeddings import neighbours
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.measure import measure, word_steps

PROMPT = "The function returns"
SENTENCE = "The quick brown fox doesn't understand tokenization."
WORDS = ["return", "string", "file", "error", "number", "object", "class", "thread"]

# What is trained: small enough for two CPU cores and a few minutes, large enough to form sentences.
SETTINGS = (
    "tokenizer.vocab_size=2048",
    "model.n_head=6",
    "model.d_model=192",
    "train.steps=600",
    "train.batch_size=16",
    "train.optimizer=muon",
    "train.learning_rate=0.006",
    "train.min_learning_rate=0.0001",
    "train.embedding_learning_rate=0.02",
    "train.schedule=stable-decay",
    "train.warmup=10",
    "train.cooldown=0.6",
    "train.save_every=100",
)


@dataclass(frozen=True)
class Trip:
    """Where the journey's results lie, and what earlier stages found."""

    out: Path
    results: dict[str, dict[str, Any]]

    @property
    def run(self) -> Path:
        """The folder of the pretraining run: one for each text, tokenizer and settings, so that nothing is mixed."""
        made = hashlib.sha256(repr((SETTINGS, self.results.get("tokenizer", {}).get("made"))).encode())
        return self.out / f"pretrain-{made.hexdigest()[:8]}"

    def settings(self) -> tuple[str, ...]:
        return (*SETTINGS, f"out={self.run}", f"sample.prompt={PROMPT}", f"tokenizer.source={self.out / 'tokenizer'}")


def tokenizer(trip: Trip) -> dict[str, Any]:
    """Text becomes tokens: learn a byte-level BPE from the embedded corpus, and look at what it learned."""
    corpus = texts.locate("pydocs")
    read_from = [corpus]
    text = texts.sample_text(read_from)
    size = read_run(trip.settings()).tokenizer.vocab_size
    learned = texts.learn("bpe", read_from, size, "gpt2")
    learned.save(trip.out / "tokenizer")
    numbers = measure(learned, text)
    lengths = Counter(len(learned.token_bytes(id)) for id in range(learned.vocab_size))
    ids = learned.encode(SENTENCE)
    return {
        "lines": [
            f"corpus pydocs: {len(text.encode()):,} bytes of Python's own documentation",
            f"{learned.vocab_size:,} tokens, {numbers['bytes_per_token']:.2f} bytes a token (1.00 without merges)",
            " ".join(f"[{learned.decode([id])}]" for id in ids),
        ],
        "bytes": len(text.encode()),
        "made": [hashlib.sha256(text.encode()).hexdigest(), learned.fingerprint],
        "numbers": numbers,
        "first_merges": [
            [learned.token_bytes(a).decode("utf-8", "replace") for a in pair] for pair in learned.merges[:40]
        ],
        "token_lengths": {str(length): count for length, count in sorted(lengths.items())},
        "sentence": {"text": SENTENCE, "ids": ids.tolist(), "tokens": [learned.decode([id]) for id in ids]},
        "steps": word_steps(learned, " tokenization understanding"),
        "longest": [
            learned.decode([id]) for id in sorted(range(size), key=lambda i: -len(learned.token_bytes(i)))[:24]
        ],
    }


def data(trip: Trip) -> dict[str, Any]:
    """Tokens become a data set: windows that slide over the text, each position asked for the next token."""
    settings = read_run(trip.settings())
    prepared = prepare(*trip.settings())
    learned = Tokenizer.load(trip.out / "tokenizer")
    shard = Tokens(Path(prepared["train"]))
    context = model_config(settings.model, learned.vocab_size).context_length
    rows = windows(shard, context, settings.data.stride)
    shown = [row.__dict__ for row in show_windows(rows, learned, range(3))]
    return {
        "lines": [
            f"{prepared['train_tokens']:,} tokens to learn from; {prepared['split']}",
            f"{len(rows):,} windows of {context} tokens; position t sees 0..t and must say t+1",
        ],
        "prepared": prepared,
        "windows": shown,
        "count": len(rows),
    }


def attention(trip: Trip) -> dict[str, Any]:
    """The ladder of attention: five rungs from one query to the fused kernel, each equal to the next."""
    T, C, H = 7, 24, 3
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(T, C, generator=generator, dtype=torch.float64)
    wq, wk, wv, wo = (torch.randn(C, C, generator=generator, dtype=torch.float64) / C**0.5 for _ in range(4))
    q, k, v = x @ wq.T, x @ wk.T, x @ wv.T
    whole = rungs.self_attention(q, k, v)
    looked = rungs.causal(q, k, v)
    one_head = rungs.multi_head(x, wq, wk, wv, torch.eye(C, dtype=torch.float64), 1)
    heads = rungs.multi_head(x, wq, wk, wv, wo, H)
    batched = rungs.fused(x[None], wq, wk, wv, wo, H)
    production = _production(x[None], (wq, wk, wv, wo), H)
    found = [
        ("one_query", "a token looks at all tokens", torch.stack([rungs.one_query(row, k, v) for row in q]), whole),
        ("self_attention", "all queries at once, one matrix product", whole[-1], looked[-1]),
        ("causal", "the future gets the score minus infinity", looked, one_head),
        ("multi_head", "several heads look side by side", heads, batched[0]),
        ("fused", "one view, one kernel", batched, production),
    ]
    ladder = [
        {"rung": name, "new": new, "max_difference": float((ours - above).abs().max())}
        for name, new, ours, above in found
    ]
    worst = max(row["max_difference"] for row in ladder)
    assert worst < 1e-10, f"a rung of the ladder differs by {worst}"
    lines = [
        f"{row['rung']:<16} {row['new']:<42} differs from the next by {row['max_difference']:.1e}" for row in ladder
    ]
    return {"lines": [*lines, "the last rung equals model.attention.Attention, which trains below"], "ladder": ladder}


def _production(x: torch.Tensor, weights: tuple[torch.Tensor, ...], n_head: int) -> torch.Tensor:
    """The production module with the ladder's weights: (B, T, C) -> (B, T, C)."""
    from firsthand.model.attention import Pass, attend

    config = ModelConfig(
        vocab_size=8, context_length=x.shape[1], n_layer=1, n_head=n_head, d_model=x.shape[2], bias="none"
    )
    layer = Attention(config, 0).double()
    for part, weight in zip((layer.q, layer.k, layer.v, layer.o), weights, strict=True):
        part.weight.data = weight
    with torch.no_grad():
        return layer(x, Pass(None, None, None, attend))


def model(trip: Trip) -> dict[str, Any]:
    """The parts become a GPT: count its parameters, and see that untrained it knows nothing."""
    from firsthand.model.gpt import GPT

    settings = read_run(trip.settings())
    config = model_config(settings.model, settings.tokenizer.vocab_size)
    built = GPT(config)
    counted = sum(parameter.numel() for parameter in built.parameters())
    assert counted == sizes.parameters(config)
    with_shortcuts, without = lesson.gradient_norms(lesson.shortcut), lesson.gradient_norms(lesson.plain)
    return {
        "lines": [
            f"{config.n_layer} blocks of width {config.d_model}, {config.n_head} heads: {counted:,} parameters",
            f"{sizes.flops_per_token(config, config.context_length) / 1e6:.1f} million operations a token in training",
            f"gradient at the first of 12 layers: {with_shortcuts[0]:.1e} with shortcuts, {without[0]:.1e} without",
        ],
        "parameters": counted,
        "config": {name: getattr(config, name) for name in config.__dataclass_fields__},
        "gradients": {"with": with_shortcuts, "without": without},
    }


def pretrain(trip: Trip) -> dict[str, Any]:
    """The GPT learns to predict the next token, and its samples turn from noise into sentences."""
    resume = bool(list(trip.run.glob("step-*")))
    trained = train(*trip.settings(), resume=resume)
    found = use.evaluate(trip.run)
    low, high = found["interval_95"]
    return {
        "lines": [
            f"held-out loss {found['loss']:.3f} nats per token, 95 % [{low:.3f}, {high:.3f}], "
            f"{found['bits_per_byte']:.3f} bits per byte",
            f"baselines: {found['baseline_uniform_loss']:.3f} knowing nothing, "
            f"{found['baseline_unigram_loss']:.3f} knowing only how often each token occurs",
        ],
        "run": str(trip.run),
        "evaluation": found,
        "records": trained.records,
    }


def generate(trip: Trip) -> dict[str, Any]:
    """The trained model speaks: the same prompt at several temperatures and top-k, and what each does to the choice."""
    bundle = load(trip.run)
    ways = [(0.0, 0), (0.5, 0), (0.8, 40), (1.0, 0), (1.0, 10), (1.5, 0)]
    spoken = []
    for temperature, top_k in ways:
        sampling = speak.Sampling(48, temperature, top_k, seed=1)
        text = "".join(speak.continued(bundle, PROMPT, sampling))
        spoken.append({"temperature": temperature, "top_k": top_k, "text": text})
    ids = torch.from_numpy(bundle.tokenizer.encode(f"{PROMPT} a list of strings.").astype("int64"))[None]
    return {
        "lines": [f"T={way['temperature']:<3} top-k={way['top_k']:<3} {PROMPT}{way['text']!r}" for way in spoken],
        "prompt": PROMPT,
        "spoken": spoken,
        "choice": speak.explain(bundle, PROMPT, speak.Sampling(temperature=0.7, top_k=8)),
        "attention": {
            "tokens": [bundle.tokenizer.decode([id]) for id in ids[0].tolist()],
            "maps": attention_maps(bundle.model, ids).round(decimals=4).tolist(),
        },
        "neighbours": _neighbours(bundle),
    }


def _neighbours(bundle: Any) -> dict[str, Any]:
    """For a few words that are one token, the tokens whose embeddings point the same way, and a map of all these."""
    tokens = [bundle.tokenizer.decode([id]) for id in range(bundle.tokenizer.vocab_size)]
    spelled = {word: bundle.tokenizer.encode(f" {word}").tolist() for word in WORDS}
    whole = {word: ids[0] for word, ids in spelled.items() if len(ids) == 1}
    return neighbours(bundle.model.embed.weight.detach().numpy(), tokens, whole)


def weights(trip: Trip) -> dict[str, Any]:
    """A model that others trained comes in, is the same in every form, and answers."""
    return real.weights(trip.out)


def cache(trip: Trip) -> dict[str, Any]:
    """What a token costs with and without a cache, by position; of the real model, if it is there."""
    return faster.cache(trip.run if "left_out" in trip.results["weights"] else trip.out / "real")


def quantize(trip: Trip) -> dict[str, Any]:
    """The pretrained model in fewer bits."""
    return faster.quantize(trip.run)


def classify(trip: Trip) -> dict[str, Any]:
    """The real model learns to tell spam from ham."""
    return _real(trip, tuned.classify)


def instruct(trip: Trip) -> dict[str, Any]:
    """The real model learns to answer tasks, by adapters."""
    return _real(trip, tuned.instruct)


def ranks(trip: Trip) -> dict[str, Any]:
    """How small an adapter may be."""
    return _real(trip, tuned.ranks)


def mask(trip: Trip) -> dict[str, Any]:
    """Whether the questions shall be learned too."""
    return _real(trip, tuned.masked)


def preferences(trip: Trip) -> dict[str, Any]:
    """The real model learns which of two answers is preferred."""
    return _real(trip, tuned.preferences)


def _real(trip: Trip, teach: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """A stage that needs the real model; one line where there is none, or no data."""
    reason = trip.results["weights"].get("left_out")
    if reason is None:
        try:
            return teach(trip.out)
        except DownloadError as error:
            reason = str(error)
    return {"lines": [f"left out: {reason}"], "left_out": reason}


STAGES: tuple[Callable[[Trip], dict[str, Any]], ...] = (
    tokenizer,
    data,
    attention,
    model,
    pretrain,
    generate,
    weights,
    cache,
    quantize,
    classify,
    instruct,
    ranks,
    mask,
    preferences,
)
