"""What Ollama is told beside a GGUF file."""

import re
from dataclasses import replace

import pytest
from outgoing import CHATML, outgoing

from firsthand.interop import modelfile
from firsthand.interop.card import Card
from firsthand.interop.verified import Drift
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.styles import STYLES, Turn

TURNS = [Turn("system", "Be brief."), Turn("user", "Hi {{ there }}"), Turn("assistant", "Yo"), Turn("user", "a\n\nb")]


def go(template, turns):
    """What Go makes of the few words of its template language that are used here."""
    before, inside, behind = re.fullmatch(
        r"(.*?)\{\{ range .Messages \}\}(.*)\{\{ end \}\}(.*)", template, re.DOTALL
    ).groups()
    cases = re.findall(r'\{\{ (?:else )?if eq .Role "(\w+)" \}\}(.*?)(?=\{\{ else|\{\{ end)', inside, re.DOTALL)
    bodies = dict(cases)
    return before + "".join(bodies[turn.role].replace("{{ .Content }}", turn.content) for turn in turns) + behind


@pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))
def test_go_writes_what_the_style_writes(style):
    style = style.ending("<|end|>")
    assert go(modelfile.template(style), TURNS) == style.write(TURNS, True)


def named(*names, template):
    """A model whose special tokens have these names; the first ends an answer."""
    model = outgoing("llama")
    old = model.tokenizer
    special = dict(zip(names, old.special_tokens.values(), strict=False))
    tokens = [*old.tokens[:304], *(name.encode() for name in special)]
    tokenizer = Tokenizer(tokens, old.merges, old.pattern, special).padded(307)
    return replace(model, tokenizer=tokenizer, template=template, ends=(special[names[0]],))


def test_a_model_of_a_known_style_gets_a_template_and_its_stops():
    text, notes = modelfile.write(outgoing("llama"), "model.gguf")
    assert notes == []
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>')
    assert text.endswith('<|im_start|>assistant\n"""\nPARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\n')


def test_a_system_turn_that_the_template_adds_is_kept():
    jinja = (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}" + CHATML
    )
    text, _ = modelfile.write(replace(outgoing("llama"), template=jinja), "model.gguf")
    assert '\nSYSTEM """Be kind"""\n' in text


def test_llama_3_cuts_white_space_and_ollama_does_not():
    names = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
    text, notes = modelfile.write(named(*names, template=STYLES["llama3"].jinja), "model.gguf")
    assert '<|start_header_id|>user<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ else if eq .Role "assistant"' in text
    assert notes == ["Ollama does not cut white space from the ends of a turn, as the model's own template does"]


def test_a_template_of_no_known_style_is_left_out_and_said():
    text, notes = modelfile.write(replace(outgoing("llama"), template="{{ messages[0]['content'] }}!"), "model.gguf")
    assert "TEMPLATE" not in text
    assert notes == ["the Modelfile has no TEMPLATE: this chat template is none that could be put into Go's language"]


def test_a_strange_name_of_a_token_gives_no_line_of_its_own():
    text, _ = modelfile.write(named('<a>"\nADAPTER /etc/passwd', "<b>", template=None), "model.gguf")
    assert text == "FROM ./model.gguf\n"


def test_the_card_says_what_is_known_and_no_folder_of_anybody():
    model = replace(outgoing("llama"), about={"source": "/home/somebody/secret/model.gguf", "license": "apache-2.0"})
    card = Card("mine", "gguf", "llama", "Q8_0", ("llama.cpp",), ("a note",), "    llama-cli -m model.gguf")
    text = card.text(model, Drift(0.25, 12.5, 32, 7))
    assert text.startswith(
        "---\nlibrary_name: gguf\npipeline_tag: text-generation\ntags: [firsthand]\nlicense: apache-2.0"
    )
    assert "| made from | 'model.gguf' |" in text and "somebody" not in text
    assert "| parameters | 81,408 |" in text and "\n\n- a note\n" in text
    assert "by at most 0.25 (its largest logit is 12.5); the 32 tokens differ from number 8 on." in text
    hostile = replace(model, about={"license": "mit\nbase_model: evil/evil"})
    assert "evil" not in card.text(hostile, Drift(0, 12.5, 32, None))
