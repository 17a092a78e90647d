"""Templates of strangers: rendered as transformers renders them, and whatever they try, ended and without a way out."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest
from templates import ENDLESS, HOSTILE

from firsthand.errors import TokenizerError
from firsthand.tokenizer import sandbox
from firsthand.tokenizer.template import render

CONTEXT = {"messages": [{"role": "user", "content": "hi"}], "bos_token": "<s>", "tools": None}


def attacked(template):
    """What comes of a template, and how many seconds it took."""
    began = time.monotonic()
    try:
        (text,) = render(template, [CONTEXT])
    except TokenizerError as error:
        text = error
    return text, time.monotonic() - began


def test_a_text_is_made_of_what_the_template_sees():
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role | upper }}: {{ m['content'] | trim }}"
        "{% if m.tool_calls %}no{% endif %}{% if loop.index > 5 %}{% break %}{% endif %}{% continue %}never{% endfor %}"
        "{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }} {{ messages[0] | tojson }} "
        "{{ strftime_now('%d %b %Y') }} {% generation %}said{% endgeneration %}"
    )
    texts = render(template, [CONTEXT, CONTEXT | {"bos_token": "é"}], ("[", "]"), date(2024, 7, 26))
    assert texts[0] == '<s>USER: hi2 {"role": "user", "content": "hi"} 26 Jul 2024 [said]'
    assert texts[1] == "é" + str(texts[0])[3:]


def test_one_context_may_fail_and_the_others_not():
    good, bad = render("{{ x }}", [{"x": 5}, {}])
    assert good == "5"
    assert "UndefinedError: 'x' is undefined" in str(bad)


def test_forty_hostile_templates_end_soon_and_give_one_line(tmp_path):
    canary = Path("/tmp/canary")
    assert len(HOSTILE) >= 40 and not canary.exists()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(attacked, HOSTILE))
    for template, (text, seconds) in zip(HOSTILE, answers, strict=True):
        assert seconds < 4, template  # two at a time, on a machine that does other things too
        if isinstance(text, TokenizerError):
            assert str(text).isprintable() and len(str(text)) <= 240, template
        else:
            assert len(text) <= sandbox.OUTPUT, template
            assert "root:" not in text and "uid=" not in text and "object at" not in text, template
    refused = sum(isinstance(text, TokenizerError) for text, _ in answers)
    assert refused >= 40 and not canary.exists()


@pytest.mark.parametrize("template", [ENDLESS[0], pytest.param(ENDLESS[1:], marks=pytest.mark.deep)])
def test_a_template_without_an_end_is_ended(template):
    for endless in [template] if isinstance(template, str) else template:
        text, seconds = attacked(endless)
        assert isinstance(text, TokenizerError) and seconds < 4
        assert re.search("it did not end within 2 seconds|too much memory|nests too deep", str(text))


def test_a_template_larger_than_64_kib_is_refused_before_any_process_starts():
    with pytest.raises(TokenizerError, match=r"larger than 65\.5 kB"):
        render("é" * 32_769, [CONTEXT])


def test_what_was_given_up_cannot_be_had_again():
    reader, writer = os.pipe()
    if not (child := os.fork()):
        sandbox.give_up(1 << 40, 2)
        tried = 0
        for act in (lambda: os.open("/dev/null", os.O_RDONLY), os.pipe, lambda: bytes(1 << 41)):
            try:
                act()
            except (OSError, MemoryError):
                tried += 1
        os.write(writer, bytes([tried]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"\x03"
    os.close(reader)
    os.close(writer)
