"""Models of the Hugging Face hub by name -> a folder here, of one commit, every byte checked.

    get("HuggingFaceTB/SmolLM2-135M") -> ~/.cache/firsthand/hub/HuggingFaceTB--SmolLM2-135M/COMMIT/

The hub tells the commit behind a revision, and of every file the size and a hash: SHA-256 where it is stored as a large
file, else Git's own, SHA-1 over "blob SIZE\\0" and the bytes. A file gets its name when both agree. Only what a model
needs is fetched: config, tokenizer, chat template, and weights in safetensors. Once here, no network is asked again.
Source: https://huggingface.co/docs/hub/api; Git's hash: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import quote

from firsthand import files
from firsthand.data import catalog, fetch
from firsthand.errors import CheckpointError, DownloadError

PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
NAME = re.compile(rf"({PART}/{PART})(?:@([A-Za-z0-9_][A-Za-z0-9_./-]{{0,99}}))?")
BESIDE = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
SMALL = 64 << 20  # bytes; a larger list, config or tokenizer is none
OPEN = "HuggingFaceTB/SmolLM2-135M"


class Promise(NamedTuple):
    """What the hub says of a file."""

    name: str
    size: int
    kind: str  # of the hash: "sha256" or "sha1"
    digest: str


def is_name(text: str) -> bool:
    """Whether a text has the form owner/name or owner/name@revision."""
    return NAME.fullmatch(text) is not None and "--" not in text.split("@")[0] and ".." not in text and "//" not in text


def get(name: str, force: bool = False, progress: catalog.Progress | None = None) -> Path:
    """The folder of a model; fetched if no complete copy of that revision is here, or if `force`."""
    if not is_name(name):
        raise DownloadError(
            f"{files.quoted(name)} is no name of a model on the hub; give owner/name or owner/name@revision, as {OPEN}"
        )
    repository, _, revision = name.partition("@")
    home = catalog.home() / "hub" / repository.replace("/", "--")
    if not force and (found := _here(home, revision or "main")):
        return found
    parts = catalog.home() / ".parts" / home.name
    try:
        commit, content = collect(repository, revision or "main", parts, progress or catalog.silent)
    except DownloadError as error:
        raise DownloadError(
            f"{files.quoted(name)} could not be fetched ({error}). {_mend(repository, error)}"
        ) from error
    catalog.replace(home / commit, content, {"hub": repository, "revision": revision or "main", "commit": commit})
    files.discard(parts)
    return home / commit


def collect(
    repository: str, revision: str, parts: Path, progress: catalog.Progress
) -> tuple[str, dict[str, files.Content]]:
    """The commit behind a revision, and its files, fetched into `parts` and checked."""
    commit, promises = _listed(repository, revision, parts)
    files.require_space(parts, 2 * sum(promise.size for promise in promises))  # in parts, and in its place
    content: dict[str, files.Content] = {}
    for promise in promises:
        done = parts / promise.name  # a file has this name only after it was checked
        if not (done.exists() and _found(done, promise) == promise.digest):
            url = f"{fetch.HUB}/{repository}/resolve/{commit}/{quote(promise.name)}"
            path = fetch.download(url, parts, promise.size, progress)
            if (found := _found(path, promise)) != promise.digest:
                path.unlink()
                told = f"{promise.kind} {found[:8]}, not {promise.digest[:8]}"
                raise DownloadError(f"gave other bytes for {promise.name}: {told}")
            path.rename(done)
        content[promise.name] = catalog.Copy(done)
    return commit, content


def _here(home: Path, revision: str) -> Path | None:
    """A complete copy of a revision, the one fetched last."""
    for folder in sorted(home.glob("[0-9a-f]*"), key=lambda folder: folder.stat().st_mtime, reverse=True):
        try:
            about = files.verify(folder)["about"]
        except CheckpointError:
            continue
        if revision in (folder.name, about.get("revision")):
            return folder
    return None


def _listed(repository: str, revision: str, parts: Path) -> tuple[str, list[Promise]]:
    """The commit of a revision, and what the hub promises of the files we need."""
    url = f"{fetch.HUB}/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
    path = fetch.download(url, parts, SMALL, catalog.silent)
    try:
        answer = files.parse_json(files.read_file(path, SMALL), "list of files")
    except CheckpointError as error:
        raise DownloadError(f"gave no list of files: {error}") from error
    finally:
        path.unlink()
    commit, listed = answer.get("sha"), answer.get("siblings")
    if not _is_digest(commit, 40) or not isinstance(listed, list) or (_is_digest(revision, 40) and commit != revision):
        raise DownloadError(f"gave no commit with a list of files for {files.quoted(revision)}")
    entries = [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("rfilename"), str)]
    named = {entry["rfilename"]: entry for entry in entries}
    if len(named) < len(listed):
        raise DownloadError("gave a list that names a file twice, or not at all")
    weights = {WEIGHTS} if WEIGHTS in named else {INDEX, *filter(SHARD.fullmatch, named)}
    if not weights <= named.keys():
        raise DownloadError(f"has no {WEIGHTS} of this name; other forms, such as pickles, are never opened")
    return commit, [_promise(named[name]) for name in sorted((BESIDE & named.keys()) | weights)]


def _promise(entry: dict[str, Any]) -> Promise:
    """One entry of the list, believed only as far as it makes sense."""
    name, size, large = entry["rfilename"], entry.get("size"), entry.get("lfs")
    kind, digest = ("sha256", large.get("sha256")) if isinstance(large, dict) else ("sha1", entry.get("blobId"))
    if type(size) is not int or not 0 <= size <= (SMALL if name in BESIDE | {INDEX} else 1 << 50):
        raise DownloadError(f"says that {name} has {files.quoted(size)} bytes")
    if not _is_digest(digest, 64 if kind == "sha256" else 40):
        raise DownloadError(f"says that {name} has the {kind} {files.quoted(digest)}")
    return Promise(name, size, kind, digest)


def _found(path: Path, promise: Promise) -> str:
    """The hash of a file, of the kind that was promised; none where the size differs already."""
    with files.open_regular(path) as file:
        size = path.stat().st_size
        if size != promise.size:
            return f"{size:,} bytes"
        if promise.kind == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.file_digest(file, lambda: hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)).hexdigest()


def _is_digest(value: object, length: int) -> TypeGuard[str]:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{length}}}", value) is not None


def _mend(repository: str, error: DownloadError) -> str:
    """What helps against a refusal."""
    status = error.status if isinstance(error, fetch.Refused) else 0
    if status in (401, 403):
        return f"Accept its terms at {fetch.HUB}/{repository} and set HF_TOKEN, or use {OPEN}, which is open"
    if status == 404:
        return f"Check owner, name and revision at {fetch.HUB}/models"
    return "This works here: smollm2-135m-instruct"
