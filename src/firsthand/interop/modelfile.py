"""The Modelfile of Ollama: which file, where an answer stops, and how turns become text, in Go's template language."""

from firsthand.interop.foreign import Foreign


def write(model: Foreign, file: str) -> tuple[str, list[str]]:
    """The Modelfile for a GGUF file beside it, and what was left out of it and why."""
    special = {token: name for name, token in model.tokenizer.special_tokens.items()}
    stops = [f'PARAMETER stop "{special[end]}"' for end in model.ends if end in special]
    return "\n".join([f"FROM ./{file}", *stops]) + "\n", []
