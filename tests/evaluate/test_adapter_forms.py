"""A model with an adapter: merged, and through peft's folder, it says the same; a model without has no such forms."""

import pytest
import torch
from provers import bundle, text

from firsthand.evaluate.forms import FORMS
from firsthand.evaluate.proof import prove
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.linear.lora import Lora, settings_of

ONLY = [form for form in FORMS if form.name in ("merged adapter", "PEFT", "own file", "Hugging Face", "int4")]


def with_adapter(variant, dora):
    made = bundle(variant)
    change(made.model, "lora", ["attention.*", "mlp.up"], settings_of(Lora(rank=3, dora=dora)))
    lora.initialise(made.model, "default", seed=1)
    for layer in lora.adapted(made.model):
        layer.adapter("default").b.data.normal_(generator=torch.Generator().manual_seed(2)).mul_(0.3)
    return made


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_the_forms_of_an_adapter_are_exact(variant, dora):
    made = with_adapter(variant, dora)
    proof = prove(made, text(), [form for form in ONLY if form.exact], strict=True)
    found = {row.form: row for row in proof.rows}
    assert proof.exact
    assert {name for name, row in found.items() if row.verdict == "exact"} == {"merged adapter", "PEFT", "own file"}
    assert "merged model only" in found["Hugging Face"].note
    assert lora.active(made.model) == "default"  # the model itself was left alone


def test_without_an_adapter_there_are_no_such_forms():
    proof = prove(bundle("llama"), text(), ONLY)
    found = {row.form: row for row in proof.rows}
    assert found["merged adapter"].note == found["PEFT"].note == "this model has no adapter that acts"


def test_adapters_around_quantized_layers_are_not_merged():
    made = with_adapter("llama", dora=False)
    lora.remove(made.model, "default")
    change(made.model, "int8", ["mlp.up"], {})
    change(made.model, "lora", ["mlp.up"], settings_of(Lora(rank=3)))
    lora.initialise(made.model, "default", seed=1)
    made.model.blocks[0].mlp.up.adapter("default").b.data.fill_(0.1)
    found = {row.form: row for row in prove(made, text(), ONLY).rows}
    assert "cannot be merged into quantized weights" in found["merged adapter"].note
    assert found["PEFT"].verdict == "exact"
