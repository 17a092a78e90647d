"""The Modelfile of Ollama: which file, how turns become text, where an answer stops.

Ollama writes turns with a template in Go's language. One is made here from a built-in style (tokenizer/styles.py), if
the model's own template was seen to write like that style; any other template is left out, and Ollama then guesses
from the one inside the GGUF file.
Source: docs/modelfile.md and docs/template.md of Ollama.
"""

from firsthand.errors import TokenizerError
from firsthand.interop.foreign import Foreign
from firsthand.tokenizer.chat import Chat
from firsthand.tokenizer.styles import ROLES, Style


def write(model: Foreign, file: str) -> tuple[str, list[str]]:
    """The Modelfile for a GGUF file beside it, and what was left out of it and why."""
    lines, notes = [f"FROM ./{file}"], []
    style = _style(model)
    if style is not None:
        lines.append(f'TEMPLATE """{template(style)}"""')
        if style.system and '"""' not in style.system:
            lines.append(f'SYSTEM """{style.system}"""')
        if style.trim:
            notes.append("Ollama does not cut white space from the ends of a turn, as the model's own template does")
    elif model.template is not None:
        notes.append("the Modelfile has no TEMPLATE: this chat template is none that could be put into Go's language")
    special = {token: name for name, token in model.tokenizer.special_tokens.items()}
    stops = [special[end] for end in model.ends if end in special]
    lines += [f'PARAMETER stop "{name}"' for name in stops if name.isprintable() and not {'"', "\\"} & set(name)]
    return "\n".join(lines) + "\n", notes


def template(style: Style) -> str:
    """A style as a template of Go: a case for each role, then the opening of the answer."""
    cases = []
    for number, role in enumerate(ROLES):
        test = f'{"else " if number else ""}if eq .Role "{role}"'
        end = style.end if role == "assistant" else ""
        cases.append(f"{{{{ {test} }}}}{style.heads[role]}{{{{ .Content }}}}{end}{style.tails[role]}")
    turns = "{{ range .Messages }}" + "".join(cases) + "{{ end }}{{ end }}"
    return style.first + turns + style.heads["assistant"]


def _style(model: Foreign) -> Style | None:
    """The built-in style that the model's template writes like; None where it is another, or fails."""
    try:
        return None if model.template is None else Chat(model.template, model.tokenizer, model.ends).style
    except TokenizerError:
        return None
