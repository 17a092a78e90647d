"""Text, tokens and tokenizers: what can be done before there is a model. Nothing here imports torch."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from firsthand.data import catalog
from firsthand.data.rows import ROWS
from firsthand.data.sources import read
from firsthand.errors import DataError, TokenizerError
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.measure import measure, word_steps
from firsthand.tokenizer.simple import CharTokenizer, WordTokenizer

END_OF_TEXT = "<|endoftext|>"
DEFAULT_SIZE = 4096


def locate(source: str | Path) -> Path:
    """The file or folder that a word names: a path that exists, otherwise a row of the catalog, fetched if need be."""
    path = Path(source)
    if path.exists():
        return path
    return catalog.get(str(source))


def default_tokenizer() -> Any:
    """A tokenizer learned from the embedded corpus; learned once, then kept beside the downloads."""
    folder = catalog.home() / f"pydocs-{DEFAULT_SIZE}"
    if not (folder / "tokenizer.json").exists():
        learn("bpe", [locate("pydocs")], DEFAULT_SIZE, "gpt2").save(folder)
    return Tokenizer.load(folder)


def tokenizer_for(source: str | Path | None) -> Any:
    """The tokenizer that a word names; the default one for no word."""
    return Tokenizer.load(locate(source)) if source else default_tokenizer()


def learn(kind: str, sources: Sequence[Path], vocab_size: int, pattern: str) -> Any:
    """A new tokenizer of a kind, from the documents of files and folders, which pass once and are not kept."""
    with TemporaryDirectory(prefix="firsthand-") as spool:
        texts = (document.text for document in read(sources, Path(spool)))
        if kind == "char":
            return CharTokenizer.train(texts)
        if kind == "word":
            return WordTokenizer.train(texts)
        return Tokenizer.train(texts, vocab_size, pattern, [END_OF_TEXT])


def sample_text(sources: Sequence[Path], most: int = 8_000_000) -> str:
    """The documents of files and folders, one after the other, up to about `most` characters."""
    with TemporaryDirectory(prefix="firsthand-") as spool:
        parts, size = [], 0
        for document in read(sources, Path(spool)):
            parts.append(document.text)
            size += len(document.text)
            if size >= most:
                break
    return "\n".join(parts)


def tokenized(text: str, tokenizer: str = "", steps: bool = False) -> dict[str, Any]:
    """A text as tokens: ids, the text of each, sizes, and on demand how its first words were merged."""
    if not text:
        raise DataError("there is no text to tokenize. Give some: firsthand tokenize 'How are tokens made?'", code=15)
    chosen = tokenizer_for(tokenizer)
    ids = chosen.encode(text)
    shown = {
        "tokenizer": tokenizer or f"pydocs-{DEFAULT_SIZE}",
        "kind": chosen.kind,
        "characters": len(text),
        "bytes": len(text.encode("utf-8")),
        "ids": ids.tolist(),
        "tokens": [chosen.token_bytes(int(id)).decode("utf-8", "backslashreplace") for id in ids],
    }
    if steps and chosen.kind != "bpe":
        raise TokenizerError(f"a {chosen.kind} tokenizer merges nothing: there are no steps. Leave --steps out.")
    return shown | ({"steps": word_steps(chosen, text)} if steps else {})


def train_tokenizer(sources: Sequence[str], out: Path, vocab_size: int, pattern: str, kind: str) -> dict[str, Any]:
    """Learn a tokenizer from files, folders or catalog names, save it, and measure it on what it was learned from."""
    paths = [locate(source) for source in sources]
    learned = learn(kind, paths, vocab_size, pattern)
    learned.save(out)
    return {"tokenizer": str(out), "kind": kind, **measure(learned, sample_text(paths))}


def compare_tokenizers(tokenizers: Sequence[str], source: str) -> list[dict[str, Any]]:
    """Every tokenizer measured on the same text, the default one first if fewer than two are named."""
    names = list(tokenizers) if len(tokenizers) > 1 else ["", *tokenizers]
    text = sample_text([locate(source)])
    return [{"tokenizer": name or f"pydocs-{DEFAULT_SIZE}", **measure(tokenizer_for(name), text)} for name in names]


def catalog_rows() -> list[dict[str, Any]]:
    """Every name of the catalog: what it is, its licence, its size, and whether it is here already."""
    return [
        {
            "name": row.name,
            "what": row.about,
            "licence": row.licence,
            "megabytes": row.size / 1e6,
            "here": catalog.here(row.name),
        }
        for row in ROWS
    ]


def fetch(name: str, force: bool = False, progress: catalog.Progress | None = None) -> dict[str, Any]:
    """Get one row of the catalog, and say where it lies and what it may be used for."""
    path = catalog.get(name, force=force, progress=progress)
    row = catalog.row(name)
    return {"name": row.name, "path": str(path), "what": row.about, "licence": row.licence}
