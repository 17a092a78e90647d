"""The usual ways to write a conversation down, as data: what stands before and behind the turns of each role.

    chatml   <|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\nHi<|im_end|>\\n       SmolLM2, Qwen
    llama3   <|start_header_id|>user<|end_header_id|>\\n\\nHello<|eot_id|>...                 Llama 3
    phi      <|user|>\\nHello<|end|>\\n<|assistant|>\\nHi<|end|>\\n                            Phi-3
    alpaca   Below is an instruction ... ### Instruction:\\nHello\\n\\n### Response:\\nHi<end>   Taori et al. 2023
    plain    User:\\nHello\\n\\nAssistant:\\nHi<end>\\n\\n                                        nothing but words

The models learn an answer together with the token that ends it, so that token must be a special one; the other
markers are special tokens where the tokenizer has them, and plain text where not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

ROLES = ("system", "user", "assistant")


class Turn(NamedTuple):
    """What one side said: `role` is system, user or assistant (tool, if the model's own template knows it)."""

    role: str
    content: str


@dataclass(frozen=True)
class Style:
    """A way to write turns down."""

    name: str
    heads: dict[str, str]  # what stands before what was said, by role
    tails: dict[str, str]  # what stands behind it; behind an answer, after its `end`
    end: str = ""  # the token that ends an answer; "" means the tokenizer's end of text
    first: str = ""  # stands before everything
    system: str = ""  # what a system turn says where there is none; "" means that there is none then
    trim: bool = False  # white space around what was said is left out

    def write(self, turns: Sequence[Turn], answer: bool, marks: tuple[str, str] = ("", "")) -> str:
        """The text of a conversation; with `answer` the opening of the next one. `marks` enclose what a model says."""
        if self.system and (not turns or turns[0].role != "system"):
            turns = [Turn("system", self.system), *turns]
        text = self.first
        for role, content in turns:
            content = content.strip() if self.trim else content
            said = f"{marks[0]}{content}{self.end}{marks[1]}" if role == "assistant" else content
            text += self.heads[role] + said + self.tails[role]
        return text + self.heads["assistant"] if answer else text

    @property
    def jinja(self) -> str:
        """The same as a chat template, which other programs read too."""
        said = "message['content'] | trim" if self.trim else "message['content']"
        default = self.heads["system"] + self.system + self.tails["system"] if self.system else ""
        before = [f"{{{{ {quote(self.first)} }}}}"] if self.first else []
        if default:
            before.append(f"{{% if messages[0]['role'] != 'system' %}}{{{{ {quote(default)} }}}}{{% endif %}}")
        cases = []
        for role in ("system", "user"):
            body = f"{{{{ {quote(self.heads[role])} + ({said}) + {quote(self.tails[role])} }}}}"
            cases.append(f"{{% {'el' if cases else ''}if message['role'] == '{role}' %}}{body}")
        learned = f"{{% generation %}}{{{{ ({said}) + {quote(self.end)} }}}}{{% endgeneration %}}"
        head, tail = quote(self.heads["assistant"]), quote(self.tails["assistant"])
        cases.append(f"{{% else %}}{{{{ {head} }}}}{learned}{{{{ {tail} }}}}{{% endif %}}")
        return "".join(
            [
                *before,
                "{% for message in messages %}",
                *cases,
                "{% endfor %}",
                f"{{% if add_generation_prompt %}}{{{{ {head} }}}}{{% endif %}}",
            ]
        )

    def ending(self, end: str) -> "Style":
        """The same style where an answer ends with `end`, if it does not say itself what ends it."""
        return self if self.end else replace(self, end=end)


def quote(text: str) -> str:
    """A text as a string of Jinja."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def around(before: str, behind: str) -> dict[str, str]:
    """The same words around the name of every role."""
    return {role: f"{before}{role}{behind}" for role in ROLES}


def behind(text: str, answer: str) -> dict[str, str]:
    """What stands behind what was said by others, and behind an answer."""
    return {"system": text, "user": text, "assistant": answer}


ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
STYLES = {
    style.name: style
    for style in (
        Style("chatml", around("<|im_start|>", "\n"), behind("<|im_end|>\n", "\n"), "<|im_end|>"),
        Style(
            "llama3",
            around("<|start_header_id|>", "<|end_header_id|>\n\n"),
            behind("<|eot_id|>", ""),
            "<|eot_id|>",
            first="<|begin_of_text|>",
            trim=True,
        ),
        Style("phi", around("<|", "|>\n"), behind("<|end|>\n", "\n"), "<|end|>"),
        Style(
            "alpaca",
            {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"},
            behind("\n\n", "\n\n"),
            system=ALPACA,
        ),
        Style(
            "plain",
            {"system": "System:\n", "user": "User:\n", "assistant": "Assistant:\n"},
            behind("\n\n", "\n\n"),
        ),
    )
}
