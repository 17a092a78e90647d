"""Our safetensors writer and guard, beside the library everybody uses."""

import json
import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from firsthand import files
from firsthand.errors import CheckpointError
from firsthand.files import tensors


def every_kind():
    """A tensor of every type, among them scalars, empty ones, and one that is not contiguous."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, dtype in tensors.DTYPES.items():
        raw = torch.randint(0, 2 if dtype == torch.bool else 100, (3, 5), generator=generator)
        made[f"a.{name}"] = raw.to(dtype)
    made |= {"scalar": torch.tensor(7, dtype=torch.int32), "empty": torch.zeros(0, 4), "odd": torch.zeros(3).byte()}
    made["turned"] = torch.arange(6.0).view(2, 3).T
    return made


def write(path, held):
    size, content = tensors.stream(held)
    files.write_file(path, content)
    assert path.stat().st_size == size
    return path


def test_the_library_reads_what_we_write_bit_for_bit(tmp_path):
    held = every_kind()
    theirs = load_file(write(tmp_path / "a.safetensors", held))
    assert theirs.keys() == held.keys()
    for name, tensor in held.items():
        assert theirs[name].dtype == tensor.dtype and torch.equal(theirs[name], tensor), name
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_we_read_what_the_library_writes_bit_for_bit(tmp_path):
    held = {name: tensor.contiguous() for name, tensor in every_kind().items()}
    save_file(held, tmp_path / "b.safetensors", {"who": "them"})
    ours = tensors.read(tmp_path / "b.safetensors")
    assert ours.keys() == held.keys()
    assert all(torch.equal(ours[name], tensor) and ours[name].dtype == tensor.dtype for name, tensor in held.items())


def test_one_file_worked_by_hand(tmp_path):
    path = write(
        tmp_path / "c.safetensors", {"b": torch.tensor([1.0, -2.0]), "a": torch.tensor([[3]], dtype=torch.uint8)}
    )
    head = b'{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    head += b'"a":{"dtype":"U8","shape":[1,1],"data_offsets":[8,9]}}'
    head += b" " * (-len(head) % 8)
    # 1.0 is 0x3f800000 and -2.0 is 0xc0000000, least byte first; the wider type lies first
    numbers = bytes([0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0, 3])
    assert path.read_bytes() == len(head).to_bytes(8, "little") + head + numbers


def test_every_tensor_starts_at_a_multiple_of_its_item_size(tmp_path):
    path = write(tmp_path / "d.safetensors", every_kind())
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert length % 8 == 0
    for name, entry in tensors.header(path).items():
        assert entry["data_offsets"][0] % tensors.DTYPES[entry["dtype"]].itemsize == 0, name


def test_writing_needs_no_second_copy_of_the_model(tmp_path):
    """The largest piece that is ever handed to the file is one tensor, and that without a copy."""
    held = {str(i): torch.zeros(1000, i + 1) for i in range(5)}
    pieces = []

    class Ear:
        def write(self, data):
            pieces.append(data)

    tensors.stream(held)[1](Ear())
    addresses = {torch.frombuffer(piece, dtype=torch.uint8).data_ptr() for piece in pieces[1:]}
    assert addresses == {tensor.data_ptr() for tensor in held.values()}


def test_a_header_of_640_bytes_is_not_taken_for_a_pickle(tmp_path):
    """640 is 0x0280, and 80 02 is how a pickle of protocol 2 begins."""
    text = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(640)
    (tmp_path / "e.safetensors").write_bytes((640).to_bytes(8, "little") + text + b"\7")
    assert tensors.read(tmp_path / "e.safetensors")["a"].tolist() == [7]


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("content", "why", "code"),
    [
        (b"", "its header would be 0 bytes long", 19),
        (b"\x01\x02", "its header would be", 19),
        (raw({}, length=2**63), "its header would be 9,223,372,036,854,775,808 bytes long; allowed is at most 16", 19),
        (raw({}, length=17 << 20), "its header would be 17,825,792 bytes long", 19),
        (raw({}, length=3), "its header would be 3 bytes long", 19),
        (raw({"a": entry([2], 0, 8)}, b"1234567"), "its header promises", 19),
        (raw({"a": entry([2], 0, 8)}, b"123456789"), "its header promises", 19),
        (raw(b"[]"), "must hold a JSON object", None),
        (raw(b'{"a":' * 9000), "not valid JSON", None),
        (raw(b'{"a": {}, "a": {}}'), "a key stands twice", None),
        (raw({"a": entry([2], 0, 8) | {"more": 1}}, b"12345678"), "exactly dtype, shape and data_offsets", None),
        (raw({"a": [1]}), "exactly dtype, shape and data_offsets", None),
        (raw({"a": entry([2], 0, 8, "F128")}, b"12345678"), "has type 'F128', known are F32", None),
        (raw({"a": entry([2], 0, 8, ["F32"])}, b"12345678"), "has type", None),
        (raw({"a": entry([2.0], 0, 8)}, b"12345678"), "must be whole numbers", None),
        (raw({"a": entry([True, 2], 0, 8)}, b"12345678"), "must be whole numbers", None),
        (raw({"a": entry([-2, -1], 0, 8)}, b"12345678"), "must be whole numbers", None),
        (raw({"a": entry([2**32, 2**32], 0, 0)}), "another size than its shape", None),
        (raw({"a": entry([2**62, 4], 0, 0)}), "another size than its shape", None),
        (raw({"a": entry([2], 8, 0)}, b"12345678"), "another size than its shape", None),
        (
            raw({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"1234"),
            "begins at byte 0, the one before ends at 4",
            None,
        ),
        (raw({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"1" * 12), "begins at byte 8", None),
        (raw({"__metadata__": {"a": 1}}), "its __metadata__ is not text to text", None),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a 56-byte Git LFS pointer, not weights",
            20,
        ),
        (b"PK\x03\x04" + b"\x14\0\0\x08" + b"x" * 40, "is a pickle and could run code", 21),
        (b"\x80\x02}q\x00(X\x05\0\0\0", "is a pickle and could run code", 21),
    ],
)
def test_a_header_that_lies_is_one_clear_error(tmp_path, content, why, code):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        tensors.read(path)
    text = str(error.value)
    assert why in text and "model.safetensors" in text and "\n" not in text and len(text) <= 240
    assert error.value.code == code


@pytest.mark.parametrize("name", ["old.pt", "pytorch_model.bin", "a.ckpt", "a.PTH", "a.pkl"])
def test_a_name_that_pickles_have_is_refused_whatever_is_inside(tmp_path, name):
    write(tmp_path / "a.safetensors", {"a": torch.zeros(1)}).rename(tmp_path / name)
    with pytest.raises(CheckpointError, match="is a pickle and could run code; it is never opened") as error:
        tensors.read(tmp_path / name)
    assert error.value.code == 21


def test_a_link_and_a_pipe_are_refused(tmp_path):
    write(tmp_path / "real.safetensors", {"a": torch.zeros(1)})
    (tmp_path / "link.safetensors").symlink_to("real.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("link.safetensors", "pipe.safetensors"):
        with pytest.raises(CheckpointError, match=r"not a plain file|a link, which is not followed"):
            tensors.read(tmp_path / name)


@settings(max_examples=150, deadline=None)
@given(
    some.dictionaries(
        some.text(min_size=1, max_size=9).filter(lambda name: name != "__metadata__" and "\ud7ff" not in name),
        some.tuples(some.sampled_from(sorted(tensors.DTYPES)), some.lists(some.integers(0, 4), max_size=4)),
        max_size=6,
    )
)
def test_any_tensors_come_back_from_both_readers(tmp_path_factory, described):
    generator = torch.Generator().manual_seed(1)
    held = {}
    for name, (dtype, shape) in described.items():
        numbers = torch.randint(0, 256, (math.prod(shape) * 8,), generator=generator, dtype=torch.uint8)
        kind = tensors.DTYPES[dtype]
        data = (
            (numbers % 2).bool()[: math.prod(shape)] if kind == torch.bool else numbers.view(kind)[: math.prod(shape)]
        )
        held[name] = data.reshape(shape)
    path = write(tmp_path_factory.mktemp("any") / "x.safetensors", held)
    for back in (tensors.read(path), load_file(path)):
        assert back.keys() == held.keys()
        for name, tensor in held.items():  # bytes, because NaN is not equal to itself
            assert back[name].shape == tensor.shape and bytes_of(back[name]) == bytes_of(tensor)


def bytes_of(tensor):
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
