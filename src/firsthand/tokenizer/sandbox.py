"""The program that renders a stranger's template; template.py starts it as a process of its own, and ends it.

A sandbox inside the language stops a template from reaching what it should not see, but not from filling memory or
running forever; the operating system does that. So this file imports nothing of ours, gives up files, network, child
processes, memory and time before it looks at the template, and reads one request from its input: JSON with the
template and the conversations to render. It answers each with {"text": ...} or {"error": ...}.

Source: the environment of `apply_chat_template` in transformers 5 (chat_template_utils.py), so that templates mean
the same here. One thing is stricter: printing what was never defined is an error, not an empty place in the prompt.
"""

import json
import resource
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

MEMORY, SECONDS, OUTPUT = 512 << 20, 2, 4 << 20  # bytes of address space; of processor time; bytes of text


def give_up(memory: int, seconds: int) -> None:
    """Renounce, for good: more memory or time than this, writing to a file, opening anything, another process."""
    limits = {"AS": memory, "CPU": seconds, "FSIZE": 0, "CORE": 0, "NOFILE": 3, "NPROC": 0}
    for name, most in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(number, (most, most))


def environment(today: date, start: str, end: str) -> Any:
    """The language a template may use; what stands in {% generation %} comes out between `start` and `end`."""
    from jinja2 import Undefined, ext, nodes
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Missing(Undefined):
        """What was never defined: false, and empty to loop over, but not to be printed."""

        __str__ = Undefined._fail_with_undefined_error

    class Generation(ext.Extension):
        """{% generation %}...{% endgeneration %}: what the model itself has said, its end token included."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

        def parse(self, parser: Any) -> Any:
            """The block as its body between two marks."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            marks = [nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in (start, end)]
            return nodes.Scope([marks[0], *body, marks[1]], lineno=line)

    def raise_exception(message: str) -> None:
        """What templates call when a conversation is not as they want it."""
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        """JSON as it is, not made safe for a web page."""
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols], undefined=Missing
    )
    made.filters["tojson"] = tojson
    made.globals.update(raise_exception=raise_exception, strftime_now=today.strftime)
    return made


def render(template: Any, context: dict[str, Any]) -> str:
    """The text of one conversation, as long as it is not too long."""
    parts, size = [], 0
    for part in template.generate(context):
        size += len(part)
        if size > OUTPUT:
            raise MemoryError
        parts.append(part)
    return "".join(parts)


def attempt(work: Callable[[], Any]) -> dict[str, Any]:
    """What came of it, or why nothing did, in words."""
    from jinja2.exceptions import TemplateSyntaxError

    try:
        return {"text": work()}
    except MemoryError:
        return {"error": "it needs too much memory or makes too long a text"}
    except RecursionError:
        return {"error": "it nests too deep"}
    except TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}
    except Exception as error:  # whatever a stranger's template does wrong
        return {"error": f"{type(error).__name__}: {error}"}


def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The text of every conversation of a request, or what is wrong with it."""
    made = environment(date.fromisoformat(request["today"]), *request["marks"])
    compiled = attempt(lambda: made.from_string(request["template"]))
    if "error" in compiled:
        return [compiled] * len(request["contexts"])
    return [attempt(lambda context=context: render(compiled["text"], context)) for context in request["contexts"]]


if __name__ == "__main__":
    sys.path.append(sys.argv[1])  # where jinja2 lies: started without any other outside library
    # Nothing can be opened once that was given up: so all that rendering needs is used before that.
    every = "{% set n = namespace(x='a\\n') %}{% for i in [1] %}{{ n.x | trim | tojson }}{% endfor %}"
    for more in ("{{ strftime_now('%B') }}", "{{ x.y }}", "{% if %}"):
        answer({"template": every + more, "contexts": [{"x": {}}], "marks": ["", ""], "today": "2000-01-01"})
    give_up(MEMORY, SECONDS)
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))))
