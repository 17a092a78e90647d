"""transformers generates with a cache of its own, and so do we: the same scores at every step."""

import hf_folders
import kit
import pytest
import torch

from firsthand.interop import huggingface
from firsthand.model.cache import GrowingCache, StaticCache
from firsthand.model.paged import PagedCache
from firsthand.model.window_cache import WindowCache

KINDS = {"llama": [GrowingCache, StaticCache, PagedCache], "mistral": [StaticCache, PagedCache, WindowCache]}


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_greedy_text_and_scores_are_those_of_transformers(name, tmp_path):
    theirs = hf_folders.precise(hf_folders.write(name, tmp_path))
    theirs.generation_config.eos_token_id = None
    ids, model = kit.ids(2, 5, vocab_size=hf_folders.TOKENS), huggingface.read(tmp_path).build(torch.float64)
    made = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=13,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert made.sequences.shape == (2, 18)
    for kind in KINDS[name]:
        cache, text, new = kind(model.config, 2), ids, ids
        for scores in made.logits:
            last = model(new, cache)[:, -1]
            assert kit.gap(last, scores) < 1e-6 * float(scores.abs().max())  # `generate` gives scores in float32
            new = last.argmax(dim=-1, keepdim=True)
            text = torch.cat([text, new], dim=1)
        assert text.tolist() == made.sequences.tolist()
