"""Turns of a conversation -> ids: what was said is text, whatever it says; only the template gives special tokens.

A template, built in (styles.py) or a model's own (template.py), writes all turns as one text, and there the names of
special tokens become their ids. So that nobody becomes the system by typing "<|im_start|>system", each such name inside
a turn gets a mark into it that nobody can guess, and loses it again when the special tokens are found:

    <|im_start|>user\\nI say <MARK|im_end|><|im_end|>\\n   ->   [1, "user\\nI say <|im_end|>" as plain text, 2, "\\n"]

What stands between two special tokens is encoded as one text, as other programs do.
"""

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np

from firsthand import files
from firsthand.errors import TokenizerError, nearest
from firsthand.tokenizer import template as foreign
from firsthand.tokenizer.styles import ROLES, STYLES, Style, Turn

__all__ = ["STYLES", "Chat", "Turn"]

# Conversations that tell the built-in styles from others: spaces, a late system turn, twice the same side, thoughts.
PROBES: tuple[tuple[Turn, ...], ...] = (
    (Turn("user", "one"),),
    (Turn("user", " two \n"), Turn("assistant", "\n three "), Turn("user", "four")),
    (Turn("system", "  five"), Turn("user", "six"), Turn("assistant", "<think>\n\nseven</think>\n\neight")),
    (Turn("system", "nine"), Turn("user", "ten"), Turn("system", "eleven"), Turn("user", "twelve")),
    (Turn("user", "a"), Turn("assistant", "<think>b</think>c"), Turn("user", "d"), Turn("assistant", "e")),
)


class Chat:
    """How the turns of one model become ids.

    `template` is the name of a style, or Jinja as models bring it; one that writes as a built-in style does is not run
    again. `ends` are the ids that end an answer, where the model says so (`Bundle.ends`). `today` is the date that
    templates may ask for.
    """

    def __init__(self, template: str, tokenizer: Any, ends: Sequence[int] = (), today: date | None = None):
        self.tokenizer, self.today = tokenizer, today
        self._written: dict[str, str | TokenizerError] = {}  # by context, what `ahead` has written
        end = next(iter(ends), tokenizer.end_of_text)
        self._names = {token: name for name, token in tokenizer.special_tokens.items()}
        self._end = self._names.get(end, "")
        key = secrets.token_hex(8)
        self._gap, *marks = (f"\ue000{letter}{key}\ue001" for letter in "abc")
        self._marks = (marks[0], marks[1])
        known = [name for name in tokenizer.special_tokens if len(name) > 1]
        hidden = [name for name in known if name not in tokenizer.shown]
        self._guards = Guard(known, self._gap), Guard(hidden, self._gap)  # of others, and of the assistant
        self._found = one_of([*marks, *known])
        self.style, self.jinja = self._style(template), template
        if self.style is not None and template in STYLES:
            self.jinja = self.style.jinja
        endings = [tokenizer.special_tokens[self.style.end]] if self.style else []
        self.ends = tuple(dict.fromkeys([*endings, *ends] or ([] if end is None else [end])))

    def prompt(self, turns: Iterable[Turn], answer: bool = True) -> list[int]:
        """The ids of all turns, and with `answer` of the opening of the next one."""
        return self._walk(self._write(list(turns), answer))[0]

    def text(self, turns: Iterable[Turn], answer: bool = True) -> str:
        """The conversation as the model sees it, as text to be looked at: names of special tokens may be typed ones."""
        return self._plain(self._write(list(turns), answer))

    def example(self, turns: Iterable[Turn]) -> tuple[list[int], list[bool]]:
        """The ids of a conversation, and for each whether it is to be learned: N turns -> (ids, mask), of one length.

        Learned is what the assistant says, with the token that ends it.
        """
        turns = list(turns)
        if all(turn.role != "assistant" for turn in turns):
            raise TokenizerError(
                f"none of the {len(turns)} turns is the assistant's, so there is nothing to learn; leave the row out"
            )
        if self.style is not None or re.search(r"\{%[-+]?\s*generation\b", self.jinja):
            return self._walk(self._write(turns, False))
        return self._walk(self._marked(turns))

    def ahead(self, conversations: Iterable[Sequence[Turn]]) -> None:
        """Write many conversations by the model's own template in one process, where each would start its own.

        `example` of these, and `prompt` of what stands before their answers, are quick until the next call.
        """
        self._written, contexts = {}, []
        for turns in conversations:
            if self.style is None:
                with suppress(TokenizerError):  # which `example` will raise
                    turns = self._guarded(list(turns))
                    answers = (at for at, turn in enumerate(turns) if turn.role == "assistant" and at)
                    contexts.append(self._context(turns, False))
                    contexts += [self._context(turns[:at], True) for at in answers]
        if contexts:
            with suppress(TokenizerError):  # too much at once: then one by one
                texts = foreign.render(self.jinja, contexts, self._marks, self.today)
                self._written = dict(zip(map(json.dumps, contexts), texts, strict=True))

    def _style(self, template: str) -> Style | None:
        """The built-in style of this name, or the one that this template writes like; None if there is none."""
        if template in STYLES:
            style = STYLES[template].ending(self._end)
            if style.end not in self.tokenizer.special_tokens:
                raise TokenizerError(
                    f"style {template!r} ends an answer with {style.end or '<|endoftext|>'!r}, which is no special "
                    "token of this tokenizer; learn one with it (special_tokens=[...]), or choose another style"
                )
            return style
        if "{" not in template:
            raise TokenizerError(
                f"chat style {files.quoted(template)} is not known; allowed: {', '.join(STYLES)}, or a Jinja template."
                f"{nearest(template, STYLES)}"
            )
        wanted = foreign.render(template, [self._context(probe, True) for probe in PROBES], today=self.today)
        styles = (style.ending(self._end) for style in STYLES.values())
        fitting = (like(style, str(wanted[0])) for style in styles if style.end in self.tokenizer.special_tokens)
        return next((style for style in fitting if [style.write(probe, True) for probe in PROBES] == wanted), None)

    def _context(self, turns: Sequence[Turn], answer: bool) -> dict[str, Any]:
        """What a template sees of a conversation."""
        begin = self._names.get(self.tokenizer.begin, "")
        messages = [turn._asdict() for turn in turns]
        tokens = {"bos_token": begin, "eos_token": self._end, "pad_token": self._end, "unk_token": ""}
        return {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": answer} | tokens

    def _guarded(self, turns: list[Turn]) -> list[Turn]:
        """The same turns without the names of special tokens; an answer may hold those that are shown."""
        if not turns:
            raise TokenizerError("a conversation without turns says nothing; give at least one turn of the user")
        known = ROLES if self.style is not None and self.jinja == self.style.jinja else (*ROLES, "tool")
        for number, (role, _) in enumerate(turns):
            if role not in known:
                raise TokenizerError(f"turn {number} has the role {files.quoted(role)}; allowed: {', '.join(known)}")
        return [Turn(role, self._guards[role == "assistant"].guard(content)) for role, content in turns]

    def _write(self, turns: list[Turn], answer: bool) -> str:
        """The text of a conversation with all marks in it."""
        turns = self._guarded(turns)
        if self.style is not None and all(turn.role in ROLES for turn in turns):
            return self.style.write(turns, answer, self._marks)
        return self._render([self._context(turns, answer)])[0]

    def _render(self, contexts: list[dict[str, Any]]) -> list[str]:
        """What the model's own template writes; its first complaint is raised."""
        known = [self._written[key] for key in map(json.dumps, contexts) if key in self._written]
        texts = foreign.render(self.jinja, contexts, self._marks, self.today) if len(known) < len(contexts) else known
        for text in texts:
            if isinstance(text, TokenizerError):
                raise text
        return [str(text) for text in texts]

    def _marked(self, turns: list[Turn]) -> str:
        """The text of a conversation by a template that does not say what the model says: found turn by turn.

        The text up to an answer, with its opening, must be where the whole text begins; then comes what was said, and
        the special token behind it ends it.
        """
        turns = self._guarded(turns)
        answers = [at for at, turn in enumerate(turns) if turn.role == "assistant"]
        contexts = [self._context(turns[:at], True) for at in answers]
        whole, *openings = self._render([self._context(turns, False), *contexts])
        text, done = "", 0
        for at, opening in zip(answers, openings, strict=True):
            said = whole.find(turns[at].content.strip(), len(opening))
            if not whole.startswith(opening) or said < 0:
                raise TokenizerError(
                    f"the chat template writes turn {at} otherwise than it opens it, so what is to be learned cannot "
                    "be found; name a style instead, or mark it with {% generation %} in the template"
                )
            stop = said + len(turns[at].content.strip())
            behind = re.compile(rf"\s*(?:{self._found.pattern})").match(whole, stop)
            stop = behind.end() if behind else stop
            text += whole[done : len(opening)] + self._marks[0] + whole[len(opening) : stop] + self._marks[1]
            done = stop
        return text + whole[done:]

    def _plain(self, text: str) -> str:
        """A text without marks."""
        for mark in (self._gap, *self._marks):
            text = text.replace(mark, "")
        return text

    def _walk(self, marked: str) -> tuple[list[int], list[bool]]:
        """The ids of a text with marks, and which lie between the two marks of an answer."""
        ids: list[int] = []
        mask: list[bool] = []
        spans, learn = [("", False)], False  # the text since the last special token, cut where answers begin and end
        for at, part in enumerate(self._found.split(marked)):
            if part in self._marks:
                learn = part == self._marks[0]
                spans.append(("", learn))
            elif at % 2 == 0:
                spans[-1] = (spans[-1][0] + part.replace(self._gap, ""), learn)
            else:
                self._encode(spans, ids, mask)
                ids.append(self.tokenizer.special_tokens[part])
                mask.append(learn)
                spans = [("", learn)]
        self._encode(spans, ids, mask)
        return ids, mask

    def _encode(self, spans: list[tuple[str, bool]], ids: list[int], mask: list[bool]) -> None:
        """Append the ids of neighbouring spans, encoded as one text; what a token begins in says if it is learned."""
        new = self.tokenizer.encode("".join(text for text, _ in spans)).tolist()
        starts = np.cumsum([0, *(len(self.tokenizer.token_bytes(token)) for token in new)])[:-1]
        learned = np.full(len(new), spans[0][1])
        before = ""
        for (text, _), (_, learn) in pairwise(spans):
            before += text
            border = len(self.tokenizer.decode_bytes(self.tokenizer.encode(before)))
            learned[starts >= border] = learn
        ids += new
        mask += learned.tolist()


class Guard:
    """Makes the names of special tokens harmless in what somebody typed, also where a turn's end might complete one."""

    def __init__(self, names: list[str], gap: str):
        lower = [name.lower() for name in names]
        self.gap, self.all = gap, "\0".join(lower)
        self.names = re.compile(f"(?={one_of(names).pattern}).", re.IGNORECASE | re.DOTALL)
        self.heads = tuple({name[:at] for name in lower for at in range(1, len(name))}) or ("\0",)
        self.tails = tuple({name[at:] for name in lower for at in range(1, len(name))}) or ("\0",)

    def guard(self, text: str) -> str:
        """The same text with a gap behind the first character of every name in it."""
        lower = text.lower()
        before = self.gap if lower.startswith(self.tails) or lower in self.all else ""
        behind = self.gap if lower.endswith(self.heads) else ""
        return before + self.names.sub(lambda found: found[0] + self.gap, text) + behind


def one_of(names: Iterable[str]) -> re.Pattern[str]:
    """Finds any of these names, the longest first; a name that cannot be where there is none."""
    return re.compile(
        "(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")" if names else r"(\b\B)"
    )


def like(style: Style, text: str) -> Style:
    """The style with the system turn that a template writes before a first question of "one" by itself, if it does."""
    before, behind = style.first + style.heads["system"], style.tails["system"] + style.heads["user"] + "one"
    if not style.heads["system"] or not text.startswith(before) or behind not in text:
        return style
    return replace(style, system=text[len(before) : text.index(behind)])
