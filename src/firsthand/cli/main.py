"""The entry point: one command, its errors as one line each, its exit codes.

0 done · 1 failed · 2 something the user can mend · 130 interrupted · 143 terminated (a checkpoint was written first)
"""

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from firsthand import __version__
from firsthand.cli import verbs
from firsthand.errors import FirsthandError

EXAMPLES = """Examples:

    firsthand journey                            the whole way, here, in minutes
    firsthand tokenize "How are tokens made?"    see a text as tokens
    firsthand train train.steps=300              pretrain a small GPT
    firsthand generate runs/run "The file"       let it speak
    firsthand chat smollm2-135m-instruct         talk with a real model
    firsthand prove smollm2-135m-instruct        is every form of it the same model?
"""

app = App(
    name="firsthand",
    help="Build a large language model with your own hands.",
    help_epilogue=EXAMPLES,
    help_format="plaintext",
    version=__version__,
)
for verb in verbs.ALL:
    app.command(verb)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; `--debug` anywhere shows the traceback of an error."""
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return app(words, exit_on_error=False, print_error=False, result_action="return_value") or 0
    except FirsthandError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error), error.exit_code)
    except CycloptsError as error:
        return _fail(f"{' '.join(str(error).split())} See: firsthand {' '.join(words[:1])} --help", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing more to say
        return 0
    except Exception:
        traceback.print_exc()
        return _fail("this is a fault in firsthand, not in what you did; please report the lines above", 1)


def _fail(message: str, code: int) -> int:
    print(f"firsthand: error: {message}", file=sys.stderr)
    return code


def entry() -> None:
    """What the installed command calls."""
    sys.exit(main())
