"""A stranger's chat template -> text, rendered where it can do no harm.

Models bring a template of their own, a program in the language Jinja. It runs in a process of its own (sandbox.py)
which may use 512 MiB, 2 seconds, and no file at all; here it is started, waited for, and ended.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any

from firsthand import files
from firsthand.errors import TokenizerError
from firsthand.tokenizer import sandbox

LONGEST = 64 << 10  # bytes of a template
PATIENCE = 2.5  # seconds until the process is ended, its start included


def render(
    template: str, contexts: Sequence[dict[str, Any]], marks: tuple[str, str] = ("", ""), today: date | None = None
) -> list[str | TokenizerError]:
    """The text of every context, or what the template finds wrong with it.

    A context is what a template sees: messages, add_generation_prompt, bos_token, eos_token. `marks` come before and
    behind what stands in {% generation %}. A template that does not end, or grows too large, is an error itself.
    """
    check_size(template)
    today = today or date.today()
    request = {"template": template, "contexts": contexts, "marks": marks, "today": today.isoformat()}
    try:
        answers = json.loads(ask(json.dumps(request).encode()))
        return [answer["text"] if "text" in answer else refusal(answer["error"]) for answer in answers]
    except (ValueError, RecursionError):  # killed in the middle of its answer, or before
        raise refusal(f"it did not end within {sandbox.SECONDS} seconds and {files.amount(sandbox.MEMORY)}") from None


def check_size(template: str) -> None:
    """Refuse a template that is longer than any real one."""
    if len(template.encode("utf-8", "replace")) > LONGEST:
        raise TokenizerError(
            f"the chat template is larger than {files.amount(LONGEST)}, which is the most allowed here"
        )


def refusal(why: str) -> TokenizerError:
    """Why a template gave no text, in one line."""
    why = ascii(" ".join(why.split()))[1:-1]
    return TokenizerError(
        f"the model's chat template failed: {why[:120]}. Check the turns, or name a style: chatml, alpaca, ..."
    )


def ask(request: bytes) -> bytes:
    """The answer of a new process to a request; cut short where it took too long or said too much."""
    home = Path(str(find_spec("jinja2").origin)).parents[1]  # pyrefly: ignore[missing-attribute]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", sandbox.__file__, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it may have started

    timer = Timer(PATIENCE, end)
    timer.start()
    try:
        with process, suppress(BrokenPipeError):
            process.stdin.write(request)
            process.stdin.close()
            return process.stdout.read(6 * sandbox.OUTPUT)  # JSON writes a character as six at most
    finally:
        timer.cancel()
        end()
    return b""
