"""OpenAI's own release of GPT-2 (2019): TensorFlow's checkpoint, read into our names and layout.

    hparams.json    n_vocab, n_ctx, n_embd, n_head, n_layer         encoder.json, vocab.bpe    the tokenizer
    model.ckpt.index, model.ckpt.data-00000-of-00001                the weights (tensor_bundle.py)

They keep a matrix as (1, in, out), because they computed x W by a convolution of width 1; we keep (out, in). And they
compute queries, keys and values by one matrix of width 3 C, whose thirds are our three. The head is the embedding.
Source: https://github.com/openai/gpt-2, src/model.py.
"""

import re
from pathlib import Path

from torch import Tensor

from firsthand import files
from firsthand.errors import CheckpointError, ModelError
from firsthand.interop import tensor_bundle
from firsthand.interop.foreign import Foreign, require_numbers
from firsthand.model.config import ModelConfig
from firsthand.tokenizer import formats
from firsthand.tokenizer.bpe import Tokenizer

FIELDS = {  # theirs -> ours
    "n_vocab": "vocab_size",
    "n_ctx": "context_length",
    "n_embd": "d_model",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
PARTS = {
    "ln_1": "attention_norm",
    "ln_2": "mlp_norm",
    "attn/c_attn": "attention.qkv",
    "attn/c_proj": "attention.o",
    "mlp/c_fc": "mlp.up",
    "mlp/c_proj": "mlp.down",
}
KINDS = {"w": "weight", "g": "weight", "b": "bias"}
WHOLE = {"model/wte": "embed.weight", "model/wpe": "positions.weight"}
WHOLE |= {"model/ln_f/g": "norm.weight", "model/ln_f/b": "norm.bias"}


def read(folder: Path | str) -> Foreign:
    """The model in a folder of OpenAI's files."""
    folder = Path(folder)
    config = _config(folder / "hparams.json")
    tokenizer = _tokenizer(folder, config.vocab_size)
    tensors = _ours(tensor_bundle.read(_index(folder)), files.shown(folder))
    end = tokenizer.end_of_text
    ends = () if end is None else (end,)
    about = {"format": "openai-gpt2", "source": str(folder), "architecture": "gpt2"}
    about |= {"ends": list(ends), "reserved_tokens": 0}
    return Foreign(config, tensors, tokenizer, files.shown(folder), ends=ends, about=about)


def _config(path: Path) -> ModelConfig:
    """The shape of the model; what is not said there is GPT-2's, and so our default."""
    given = files.parse_json(files.read_file(path), files.shown(path))
    for name, value in given.items():
        if name not in FIELDS or type(value) is not int or not 0 < value < 1 << 31:
            raise CheckpointError(
                f"{files.shown(path)}: {files.quoted(name)} is {files.quoted(value)}; "
                f"allowed are {', '.join(FIELDS)}, each a whole number",
                code=33,
            )
    if missing := FIELDS.keys() - given.keys():
        raise CheckpointError(f"{files.shown(path)} lacks {', '.join(sorted(missing))}. Fetch it again", code=33)
    try:
        return ModelConfig(**{FIELDS[name]: value for name, value in given.items()})
    except ModelError as error:
        raise ModelError(f"{files.shown(path)}: {error}") from error


def _tokenizer(folder: Path, rows: int) -> Tokenizer:
    """The tokenizer, which must have a token for each row of the embedding."""
    tokenizer = formats.only_bpe(formats.load(folder / "vocab.bpe"), folder)
    if tokenizer.vocab_size != rows:
        raise ModelError(
            f"tokenizer has {tokenizer.vocab_size:,} tokens but the model of {files.shown(folder)} has {rows:,} "
            f"embedding rows (encoder.json, hparams.json:n_vocab). Use the files of one release",
            code=1,
        )
    return tokenizer


def _index(folder: Path) -> Path:
    """The one checkpoint of a folder."""
    found = sorted(folder.glob("*.index"))
    if len(found) != 1:
        held = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(f"{files.shown(folder)} must hold one checkpoint NAME.index; there is: {held:.80}")
    return found[0]


def _ours(theirs: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Their tensors in our names and layout. Of each, only one copy is alive."""
    ours = {}
    for name in list(theirs):
        tensor = theirs.pop(name)
        match = re.fullmatch(r"model/h(0|[1-9]\d{0,3})/(.+)/(.)", name, re.ASCII)
        require_numbers(name, tensor, where)
        if name in WHOLE:
            ours[WHOLE[name]] = tensor
        elif match and match[2] in PARTS and match[3] in KINDS:
            tensor = _upright(tensor, match[3], f"{where}: tensor {files.quoted(name)}")
            ours |= _thirds(f"blocks.{match[1]}.{PARTS[match[2]]}.{KINDS[match[3]]}", tensor)
        else:
            raise ModelError(f"{where}: tensor {files.quoted(name)} is not part of a GPT-2. Give OpenAI's own files")
    return ours


def _upright(tensor: Tensor, kind: str, where: str) -> Tensor:
    """A matrix (1, in, out) -> (out, in); vectors stay."""
    shape = list(tensor.shape)
    if len(shape) != (3 if kind == "w" else 1) or (kind == "w" and shape[0] != 1):
        raise ModelError(f"{where} is {shape!s:.60}; expected is {'[1, in, out]' if kind == 'w' else '[width]'}")
    return tensor[0].T if kind == "w" else tensor


def _thirds(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A matrix (out, in) or a vector of a block, cut in three where it is queries, keys and values."""
    if "qkv" not in name:
        return {name: tensor.contiguous()}
    thirds = zip("qkv", tensor.tensor_split(3), strict=True)
    return {name.replace("qkv", letter): third.contiguous() for letter, third in thirds}
