"""Losses of pairs against trl's trainers: the same random model, the same text, through their tokenising and batching.

trl takes means over a batch, we take sums. Its DPO trainer scores tokens in float32 (its head is fused), and so does
the odds ratio of ORPO: 1e-5 there. The rest is float64, to what its attention and its turns of float32 leave: 1e-9.
"""

import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch
from kit import gap

from firsthand.interop import hf_config, names
from firsthand.model.assemble import assemble
from firsthand.objectives.preference import Preference, ipo_loss

sys.path.append(str(Path(__file__).parents[1] / "interop"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import datasets
    import hf_folders
    import tokenizers
    import transformers
    from trl import DPOConfig, DPOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
WORDS = 11
# prompt, chosen, rejected; trl ends every answer with the end of text, w0
PAIRS = [([1, 2, 3], [4, 5, 6, 0], [7, 8, 0]), ([9, 2], [10, 4, 0], [1, 1, 3, 10, 5, 0])]
EQUAL = [([1, 2, 3], [4, 5, 6, 0], [7, 8, 2, 0]), ([9, 2], [10, 4, 1, 0], [1, 1, 3, 0])]
ONE_WORD = [([1], [4, 5, 6, 0], [7, 8, 0])]


def policy(seed):
    """transformers' model, and ours with the same weights."""
    theirs = hf_folders.precise(hf_folders.model("llama"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    config, _ = hf_config.read(theirs.config.to_dict(), "llama")
    tensors, _ = names.to_ours({name: one.clone() for name, one in theirs.state_dict().items()}, config, "llama")
    return theirs.train(), assemble(config, tensors, "llama")


def examples(pairs):
    """The same pairs as ours: whole texts, of which the answers are learned."""
    return [
        tuple((prompt + answer, [False] * len(prompt) + [True] * len(answer)) for answer in answers)
        for prompt, *answers in pairs
    ]


def words(ids):
    return "".join(f" w{number}" for number in ids)


def trainer(kind, pairs, folder, **settings):
    """A trainer of trl over pairs, which it tokenises itself, and the batch that it makes of them."""
    vocabulary = {f"w{number}": number for number in range(WORDS)}
    cut = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    cut.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    processing = transformers.PreTrainedTokenizerFast(tokenizer_object=cut, eos_token="w0", pad_token="w0")
    rows = [
        {"prompt": words(prompt)[1:], "chosen": words(chosen[:-1]), "rejected": words(rejected[:-1])}
        for prompt, chosen, rejected in pairs
    ]
    made, configured = {
        "dpo": (DPOTrainer, DPOConfig),
        "cpo": (CPOTrainer, CPOConfig),
        "orpo": (ORPOTrainer, ORPOConfig),
    }[kind]
    usual = {"per_device_train_batch_size": len(pairs), "use_cpu": True, "bf16": False, "report_to": [], "seed": 1}
    arguments = configured(output_dir=str(folder), max_length=64, disable_tqdm=True, **usual, **settings)
    theirs, ours = policy(1)
    reference, base = policy(2)
    given = {"ref_model": reference} if kind == "dpo" else {}
    datasets.disable_progress_bars()
    for name in ("cpo", "orpo"):  # they say on every start which setting they changed
        logging.getLogger(f"trl.experimental.{name}.{name}_trainer").setLevel(logging.ERROR)
    data = datasets.Dataset.from_list(rows)
    trains = made(model=theirs, args=arguments, train_dataset=data, processing_class=processing, **given)
    return trains, next(iter(trains.get_train_dataloader())), ours, base


def compare(kind, pairs, folder, objective, tolerance, times=1.0, **settings):
    """Our mean loss against theirs, `times` a known factor, and the gradients of all weights of the model."""
    trains, batch, ours, base = trainer(kind, pairs, folder, **settings)
    objective.prepare(base)
    loss = objective.loss(ours, objective.collate(examples(pairs)))
    theirs = trains.compute_loss(trains.model, batch)
    mine = loss.total / len(pairs)
    assert gap(mine.detach(), times * theirs.detach().double()) < tolerance * max(1.0, mine.item())
    mine.backward()
    (times * theirs).backward()
    gradients = {name: weight.grad for name, weight in trains.model.named_parameters()}
    found, _ = names.to_ours(gradients, ours.config, "gradients")
    assert found.keys() == dict(ours.named_parameters()).keys()
    for name, weight in ours.named_parameters():
        assert gap(weight.grad, found[name]) < tolerance * max(1.0, weight.grad.abs().max().item()), name
    return trains, loss


def test_dpo_is_trls(tmp_path):
    _, loss = compare("dpo", PAIRS, tmp_path, Preference("dpo", beta=0.3), 1e-5, beta=0.3, loss_type=["sigmoid"])
    assert abs(loss.total.item() / 2 - 0.6931) > 0.05  # the model is not its reference


@pytest.mark.parametrize("pair", PAIRS)
def test_dpo_with_smoothing_is_trls_sorted_loss_of_one_pair(pair, tmp_path):
    # trl's "sigmoid" takes no notice of label_smoothing; "aot" is cDPO of sorted leads, and one lead is sorted
    objective = Preference("dpo", beta=0.3, smoothing=0.2)
    compare("dpo", [pair], tmp_path, objective, 1e-5, beta=0.3, loss_type=["aot"], label_smoothing=0.2)


def test_ipo_of_equally_long_answers_is_trls_times_their_length_squared(tmp_path):
    # trl divides a ratio by its length n, the paper (eq. 17) does not: (d/n - 1/2b)^2 n^2 = (d - 1/(2 b/n))^2; n is 4
    compare("dpo", EQUAL, tmp_path, Preference("ipo", beta=0.3 / 4), 1e-5, times=16.0, beta=0.3, loss_type=["ipo"])


@pytest.mark.parametrize("pair", PAIRS)
def test_ipo_is_the_papers_formula_on_trls_own_ratios(pair, tmp_path):
    trains, batch, ours, base = trainer("dpo", [pair], tmp_path, beta=0.3, loss_type=["ipo"])
    theirs = trains.compute_loss(trains.model, batch).item()
    watched = trains._metrics["train"]
    chosen, rejected = (watched[f"rewards/{side}"][-1] / 0.3 for side in ("chosen", "rejected"))
    objective = Preference("ipo", beta=0.3)
    objective.prepare(base)
    mine = objective.loss(ours, objective.collate(examples([pair]))).total.item()
    assert mine == pytest.approx((chosen - rejected - 1 / 0.6) ** 2, rel=1e-5)
    means = torch.tensor(chosen / len(pair[1])), torch.tensor(rejected / len(pair[2]))
    assert ipo_loss(*means, 0.3).item() == pytest.approx(theirs, rel=1e-5)  # and theirs is ours of means


def test_simpo_is_trls(tmp_path):
    objective = Preference("simpo", beta=2.0, margin=0.7)
    settings = {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.7}
    compare("cpo", PAIRS, tmp_path, objective, 1e-9, beta=2.0, **settings)


def test_orpo_is_trls_where_the_prompt_is_one_token(tmp_path):
    compare("orpo", ONE_WORD, tmp_path, Preference("orpo", beta=0.3), 1e-5, beta=0.3)


def test_orpo_differs_from_trls_by_the_loss_of_the_prompt_alone(tmp_path):
    # trl lets the model learn the prompt as well, over all tokens of a batch; the paper speaks of the answer (eq. 6)
    trains, batch, ours, base = trainer("orpo", PAIRS, tmp_path, beta=0.3)
    theirs = trains.compute_loss(trains.model, batch).item()
    whole_text = trains._stored_metrics["train"]["nll_loss"][-1]
    objective = Preference("orpo", beta=0.3)
    objective.prepare(base)
    loss = objective.loss(ours, objective.collate(examples(PAIRS)))
    answer = -loss.metrics["rewards/chosen"].item() / 0.3
    assert loss.total.item() / 2 - answer / 2 == pytest.approx(theirs - whole_text, abs=1e-5)
