"""A tiny good model in every format that can be read, and how each of its files is made bad.

A specimen is {name of a file: its bytes}. `MUTATE[format](files, chance)` gives the files that changed; most mutants
are made by somebody who knows the format, so that checksums and lengths around the lie are right.
"""

import hashlib
import json
import struct
import sys
from pathlib import Path

import mutants
import numpy as np

from firsthand.files import tensors as stored
from firsthand.interop import names
from firsthand.model.assemble import weights
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT
from firsthand.tokenizer import formats, tokenizer_json
from firsthand.tokenizer.bpe import Tokenizer

sys.path.append(str(Path(__file__).parents[1] / "interop"))
import bundle_writer as tensorflow

TOKENS = [bytes([i]) for i in range(256)] + [b"th", b"the", b" the", b"<|endoftext|>"]
ROWS = len(TOKENS)
GPT2 = ModelConfig(vocab_size=ROWS, context_length=7, n_layer=1, n_head=2, d_model=6)
LLAMA = ModelConfig(
    vocab_size=ROWS,
    context_length=7,
    n_layer=1,
    n_head=4,
    n_kv_head=2,
    d_model=8,
    d_ff=10,
    norm="rmsnorm",
    mlp="swiglu",
    rope_theta=1e4,
    bias="none",
    tied=False,
)


def tokenizer():
    return Tokenizer(TOKENS, [(116, 104), (256, 101), (32, 257)], "gpt2", {"<|endoftext|>": 259})


def written(model):
    """The bytes of a safetensors file."""
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in model.items()}, {"format": "pt"})


# ---------------------------------------------------------------- safetensors, alone and in a folder


def safetensors(folder):
    return {"model.safetensors": written(weights(GPT(GPT2)))}


def mutate_safetensors(files, chance):
    """Mostly the header, its length right; else any bytes."""
    name = chance.choice([name for name in files if name.endswith(".safetensors")])
    good = files[name]
    length = int.from_bytes(good[:8], "little")
    match chance.randrange(4):
        case 0:
            return {name: mutants.bytes_of(good[: 8 + length], chance) + good[8 + length :]}
        case 1:
            return {name: mutants.numbers_of(good, [(0, 8)], chance)}
        case _:
            header = mutants.json_of(json.loads(good[8 : 8 + length]), chance)
            return {name: len(header).to_bytes(8, "little") + header + good[8 + length :]}


def huggingface(folder):
    """A Llama in two shards, with everything that may lie beside it."""
    model = names.to_theirs(weights(GPT(LLAMA)), LLAMA)
    cut = len(model) // 2
    shards = {f"model-{at:05d}-of-00002.safetensors": part for at, part in ((1, [*model][:cut]), (2, [*model][cut:]))}
    places = {name: shard for shard, part in shards.items() for name in part}
    size = sum(tensor.numel() * 4 for tensor in model.values())
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": ROWS, "hidden_size": 8}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 10}
    config |= {"max_position_embeddings": 7, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": False}
    config |= {"hidden_act": "silu", "bos_token_id": 259, "eos_token_id": 259, "torch_dtype": "float32"}
    beside = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [259, 2], "do_sample": True, "temperature": 0.6},
        "tokenizer_config.json": {"chat_template": "{{ messages[0].content }}", "eos_token": "<|endoftext|>"},
        "special_tokens_map.json": {"eos_token": {"content": "<|endoftext|>"}},
        "model.safetensors.index.json": {"metadata": {"total_size": size}, "weight_map": places},
        "tokenizer.json": tokenizer_json.document(tokenizer()),
    }
    files = {name: json.dumps(value).encode() for name, value in beside.items()}
    return files | {shard: written({name: model[name] for name in part}) for shard, part in shards.items()}


def gpt2(folder):
    """The original folder of GPT-2: one file of weights, fused and turned matrices, vocab.json and merges.txt."""
    model = names.to_theirs(weights(GPT(GPT2)), GPT2)
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": ROWS, "n_positions": 7}
    config |= {"n_embd": 6, "n_layer": 1, "n_head": 2, "activation_function": "gelu_new", "eos_token_id": 259}
    merges, ids = formats.pair_of(tokenizer())
    held = {"config.json": json.dumps(config).encode(), "vocab.json": ids, "merges.txt": merges}
    return held | {"model.safetensors": written(model)}


def mutate_gpt2(files, chance):
    match chance.randrange(6):
        case 0:
            return {"merges.txt": mutants.bytes_of(files["merges.txt"], chance)}
        case 1 | 2:
            return mutate_safetensors(files, chance)
        case _:
            return mutate_json(files, chance, chance.choice(["config.json", "config.json", "vocab.json"]))


def mutate_json(files, chance, name):
    """A file of JSON: by its meaning, or by its bytes."""
    if chance.randrange(4) == 0:
        return {name: mutants.bytes_of(files[name], chance)}
    return {name: mutants.json_of(json.loads(files[name]), chance)}


def mutate_huggingface(files, chance):
    if chance.randrange(5) == 0:
        return mutate_safetensors(files, chance)
    heavy = ["config.json", "model.safetensors.index.json"] * 3
    return mutate_json(files, chance, chance.choice([*heavy, *(name for name in files if name.endswith(".json"))]))


# ---------------------------------------------------------------- tokenizer.json


def tokenizers(folder):
    return {"tokenizer.json": tokenizer_json.write(tokenizer())}


def mutate_tokenizers(files, chance):
    return mutate_json(files, chance, "tokenizer.json")


# ---------------------------------------------------------------- GGUF

U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
FORMATS = {U32: "I", F32: "f", BOOL: "B"}


class Gguf:
    """A writer that remembers where its numbers stand."""

    def __init__(self):
        self.data, self.places = b"GGUF", []

    def number(self, value, form="Q"):
        self.places.append((len(self.data), struct.calcsize(form)))
        self.data += struct.pack(f"<{form}", value)

    def text(self, value):
        self.number(len(value.encode()))
        self.data += value.encode()

    def value(self, kind, value):
        if kind == STRING:
            self.text(value)
        else:
            self.number(value, FORMATS[kind])

    def entry(self, key, kind, value):
        self.text(key)
        if isinstance(value, list):
            self.number(ARRAY, "I")
            self.number(kind, "I")
            self.number(len(value))
        else:
            self.number(kind, "I")
        for item in value if isinstance(value, list) else [value]:
            self.value(kind, item)


def gguf_file():
    """A Llama: the bytes of the file, and where its numbers stand."""
    model, theirs = weights(GPT(LLAMA)), {"self_attn.": "attn_", "mlp.": "ffn_", "_proj": "", "o.": "output."}
    theirs |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "model.layers": "blk"}
    theirs |= {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    tensors = {}
    for name, tensor in names.to_theirs(model, LLAMA).items():
        for old, new in theirs.items():
            name = name.replace(old, new) if old != "o." else name.replace("attn_o.", "attn_output.")
        tensors[name] = tensor.detach().numpy().astype(np.float32)
    numbers = {"block_count": 1, "context_length": 7, "embedding_length": 8, "feed_forward_length": 10}
    numbers |= {"attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 2}
    entries = [("general.architecture", STRING, "llama"), ("general.alignment", U32, 32)]
    entries += [(f"llama.{key}", U32, value) for key, value in numbers.items()]
    entries += [("llama.attention.layer_norm_rms_epsilon", F32, 1e-5), ("llama.rope.freq_base", F32, 1e4)]
    texts = [tokenizer_json.visible(token) for token in TOKENS[:-1]] + ["<|endoftext|>"]
    entries += [("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, "gpt-2")]
    entries += [("tokenizer.ggml.tokens", STRING, texts), ("tokenizer.ggml.token_type", U32, [1] * (ROWS - 1) + [3])]
    entries += [("tokenizer.ggml.merges", STRING, ["t h", "th e", "Ġ the"]), ("tokenizer.ggml.eos_token_id", U32, 259)]
    entries += [("tokenizer.ggml.add_bos_token", BOOL, 0), ("tokenizer.chat_template", STRING, "{{ messages }}")]
    file = Gguf()
    file.number(3, "I")
    file.number(len(tensors))
    file.number(len(entries))
    for entry in entries:
        file.entry(*entry)
    end = 0
    for name, tensor in tensors.items():
        file.text(name)
        file.number(tensor.ndim, "I")
        for axis in tensor.shape[::-1]:
            file.number(axis)
        file.number(0, "I")  # float32
        file.number(end)
        end += tensor.nbytes + -tensor.nbytes % 32
    head = len(file.data)
    file.data += bytes(-head % 32) + b"".join(
        tensor.tobytes() + bytes(-tensor.nbytes % 32) for tensor in tensors.values()
    )
    return file.data, file.places, head


def gguf(folder):
    return {"model.gguf": gguf_file()[0]}


PLACES: list = []


def mutate_gguf(files, chance):
    """Mostly the numbers outside the vocabulary, which has most of them; else the bytes of the header."""
    good = files["model.gguf"]
    if not PLACES:
        _, places, head = gguf_file()
        inside = range(good.index(b"ggml.tokens") + 40, good.index(b"tokenizer.ggml.merges") - 40)
        PLACES[:] = [place for place in places if place[0] not in inside] + places[::50], head
    places, head = PLACES
    if chance.randrange(3):
        return {"model.gguf": mutants.numbers_of(good, places, chance)}
    return {"model.gguf": mutants.bytes_of(good[:head], chance) + good[head:]}


# ---------------------------------------------------------------- OpenAI's GPT-2


def openai(folder):
    """The release, written with another writer than the reader's own tests of the model."""
    theirs = {"attention_norm": "ln_1", "mlp_norm": "ln_2", "attention.o": "attn/c_proj", "mlp.up": "mlp/c_fc"}
    theirs |= {"mlp.down": "mlp/c_proj", "norm": "ln_f", "embed": "wte", "positions": "wpe"}
    tensors, fused = {}, {"weight": [], "bias": []}
    for name, tensor in weights(GPT(GPT2)).items():
        part, kind = name.removeprefix("blocks.0.").rsplit(".", 1)
        if part[-2:] in (".q", ".k", ".v"):
            fused[kind].append(tensor.numpy())
            continue
        place = f"model/{'h0/' * name.startswith('blocks')}{theirs[part]}"
        array = tensor.numpy()
        if part in ("embed", "positions"):
            tensors[place] = array
        elif kind == "bias":
            tensors[f"{place}/b"] = array
        else:
            tensors[f"{place}/{'g' if 'norm' in part else 'w'}"] = array if "norm" in part else array.T[None]
    tensors["model/h0/attn/c_attn/w"] = np.concatenate(fused["weight"]).T[None]
    tensors["model/h0/attn/c_attn/b"] = np.concatenate(fused["bias"])
    listed = {name: (1, array.shape, array.tobytes()) for name, array in tensors.items()}
    formats.save(tokenizer(), folder / "vocab.bpe")
    tensorflow.write(folder, *tensorflow.lay_out(listed, 2))
    shape = {"n_vocab": ROWS, "n_ctx": 7, "n_embd": 6, "n_head": 2, "n_layer": 1}
    (folder / "hparams.json").write_text(json.dumps(shape))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def mutate_openai(files, chance):
    """The index with right checksums, by fields, messages or blocks; else hparams.json, the tokenizer, any bytes."""
    match chance.randrange(10):
        case 0:
            name = chance.choice([*files])
            return {name: mutants.bytes_of(files[name], chance)}
        case 1:
            return mutate_json(files, chance, "hparams.json")
        case 2:
            return mutate_json(files, chance, "encoder.json")
        case 3:
            return {"vocab.bpe": mutants.bytes_of(files["vocab.bpe"], chance)}
        case 4 | 5:
            block = tensorflow.block(pairs_in(files["model.ckpt.index"]), 3)
            return {"model.ckpt.index": tensorflow.table([mutants.bytes_of(block, chance)], bounds=[b"n"])}
        case 6:
            pairs = pairs_in(files["model.ckpt.index"])
            at = chance.randrange(len(pairs))
            pairs[at] = (pairs[at][0], mutants.bytes_of(pairs[at][1], chance))
            return {"model.ckpt.index": tensorflow.table([pairs])}
        case 7:
            good = files["model.ckpt.index"]
            handles = mutants.bytes_of(good[-48:-8], chance)[:40].ljust(40, b"\0")
            return {"model.ckpt.index": good[:-48] + handles + good[-8:]}
        case _:
            return {"model.ckpt.index": lying_index(files, chance)}


def pairs_in(index):
    """The pairs of a good index."""
    from firsthand.interop import sorted_table

    return list(sorted_table.read(index).items())


def lying_index(files, chance):
    """An index whose fields say something else."""
    pairs = pairs_in(files["model.ckpt.index"])
    at = chance.randrange(1, len(pairs))
    numbers = [number for number in mutants.NUMBERS if type(number) is int and 0 <= number < 2**64]
    message = b""
    for number, value in fields_in(pairs[at][1]):
        match chance.randrange(6):
            case 0 if isinstance(value, int):
                value = chance.choice([*numbers, value + 1, value * 2])
            case 1 if isinstance(value, bytes):
                value = b"".join(
                    tensorflow.field(2, tensorflow.field(1, chance.choice(numbers))) for _ in range(chance.randrange(5))
                )
            case 2:
                number = chance.choice([number, 1, 7, 2**40])
        message += tensorflow.field(number, value) * chance.choice((1, 1, 1, 1, 1, 1, 1, 0, 2))
    key = chance.choice([pairs[at][0]] * 5 + [b"", b"\xff", b"m" * 250, pairs[at - 1][0], b"model/h99/ln_1/g"])
    pairs[at] = (key, message)
    return tensorflow.table([pairs if chance.randrange(3) else sorted(pairs)])


def fields_in(message):
    """(number, value) of the fields of a good entry of a tensor."""
    from firsthand.interop import tensor_bundle

    for number, values in tensor_bundle._fields(message, tensor_bundle.ENTRY).items():
        yield number, (values[0].to_bytes(4, "little"),) if number == 6 else values[0]


# ---------------------------------------------------------------- our own


def bundle(folder):
    from firsthand.checkpoint import bundle

    place = bundle.save(folder / "bundle", GPT(GPT2), tokenizer(), {"step": 1}, template="{{ messages }}")
    return {path.name: path.read_bytes() for path in place.iterdir()}


def mutate_bundle(files, chance):
    """Any file, and mostly a manifest that vouches for what it became."""
    inside = [name for name in files if name != "MANIFEST.json"]
    name = chance.choice([*inside, "config.json", "config.json"])
    if name.endswith(".json"):
        changed = mutate_json(files, chance, name)
    elif name.endswith(".safetensors"):
        changed = mutate_safetensors(files, chance)
    else:
        changed = {name: mutants.bytes_of(files[name], chance)}
    match chance.randrange(8):
        case 0:
            return changed
        case 1:
            body = json.loads(files["MANIFEST.json"])
            body.pop("seal")
            return {"MANIFEST.json": sealed(mutants.tree_of(body, chance))}
        case _:
            return changed | {"MANIFEST.json": vouched({name: changed.get(name, files[name]) for name in inside})}


def vouched(files):
    """The manifest of whatever files there are."""
    listed = {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()}
    return sealed({"format": 1, "about": {}, "files": listed})


def sealed(body):
    """A manifest whose seal is right, whatever it says; written here again, not with the code under test."""
    seal = hashlib.sha256(json.dumps(body, indent=1).encode()).hexdigest()
    body = {**body, "seal": seal} if isinstance(body, dict) else body
    return json.dumps(body, indent=1).encode() + b"\n"


# ---------------------------------------------------------------- all of them


def read_safetensors(folder):
    return stored.read(folder / "model.safetensors")


def read_tokenizer(folder):
    return formats.load(folder / "tokenizer.json")


def read_openai(folder):
    from firsthand.interop import openai_gpt2

    return openai_gpt2.read(folder)


def read_huggingface(folder):
    from firsthand.interop import huggingface

    return huggingface.read(folder)


def read_gguf(folder):
    from firsthand.interop import gguf

    return gguf.read(folder / "model.gguf")


def read_bundle(folder):
    from firsthand.checkpoint import bundle

    return bundle.load(folder)


MAKE = {
    "safetensors": safetensors,
    "huggingface": huggingface,
    "gpt2": gpt2,
    "tokenizer.json": tokenizers,
    "gguf": gguf,
    "openai": openai,
    "bundle": bundle,
}
MUTATE = {
    "safetensors": mutate_safetensors,
    "huggingface": mutate_huggingface,
    "gpt2": mutate_gpt2,
    "tokenizer.json": mutate_tokenizers,
    "gguf": mutate_gguf,
    "openai": mutate_openai,
    "bundle": mutate_bundle,
}
READ = {
    "safetensors": read_safetensors,
    "huggingface": read_huggingface,
    "gpt2": read_huggingface,
    "tokenizer.json": read_tokenizer,
    "gguf": read_gguf,
    "openai": read_openai,
    "bundle": read_bundle,
}
