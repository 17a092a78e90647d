"""A GGUF container is read whole and quickly, or refused in one line: no number of a file is believed.

The malformed files are the classes of llama.cpp's own tests/test-gguf.cpp, and those that came to light since.
"""

import struct
import time

import gguf
import numpy as np
import pytest
from gguf_files import entry, file, info, text

from firsthand.errors import CheckpointError
from firsthand.interop import gguf_file

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
ONES = struct.pack("<8f", *[1.0] * 8)  # 32 bytes
GOOD = file([entry("general.architecture", STRING, text("llama"))], [info("a", [4, 2])], ONES)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def listed(code: int, count: int, data: bytes) -> bytes:
    return u32(code) + u64(count) + data


def alignment(value: int) -> list[bytes]:
    return [entry("general.alignment", U32, u32(value))]


def says(*entries: bytes) -> bytes:
    """A file of entries alone."""
    return file(list(entries), [])


def holds(*infos: bytes, data: bytes = ONES) -> bytes:
    """A file of tensors alone."""
    return file([], list(infos), data)


A = info("a", [8])
TWO = ONES + ONES
MALFORMED = {  # what is wrong -> (what the message says, the bytes)
    "empty": ("is no GGUF file: it begins with b''", b""),
    "bad magic": ("is no GGUF file: it begins with b'GGML'", b"GGML" + GOOD[4:]),
    "bad version 0": ("its version is 0", b"GGUF" + u32(0) + GOOD[8:]),
    "bad version 1": ("its version is 1; 2 and 3 are read", b"GGUF" + u32(1) + GOOD[8:]),
    "future version": ("its version is 4", b"GGUF" + u32(4) + GOOD[8:]),
    "big-endian": ("2 and 3 are read, little-endian alone", b"GGUF" + struct.pack(">I", 3) + GOOD[8:]),
    "only the magic": ("at byte 4 it promises 4 bytes, and has 0 bytes", b"GGUF"),
    "tensors = -1": (r"promises 18,446,744,073,709,551,615 tensors", file([], [], counts=(2**64 - 1, 0))),
    "too many tensors": ("promises 2 tensors, the rest of the file has room for 1", file([], [], bytes(41), (2, 0))),
    "entries = -1": (r"promises 18,446,744,073,709,551,615 entries", file([], [], counts=(0, 2**64 - 1))),
    "entries too many": (r"promises 1 entries, the rest of the file has room for 0", file([], [], counts=(0, 1))),
    "key is longer than the file": (r"at byte 32 it promises 60.0 kB, and has", says(u64(60_000) + b"k" * 30)),
    "key is huge": (r"a name of 18,446,744,073,709,551,615 bytes", says(u64(2**64 - 1) + b"k" * 9)),
    "key is not UTF-8": (r"the text at byte 32 is not UTF-8", says(entry("k", U32, u32(1)).replace(b"k", b"\xff"))),
    "key twice": (r"the key 'k' stands twice", says(entry("k", U32, u32(1)), entry("k", U32, u32(1)))),
    "type unknown": (r"has a value of type 13; known are 0 to 12", says(entry("k", 13, u32(1)))),
    "type of list unknown": (r"has a value of type 99", says(entry("k", ARRAY, listed(99, 1, u32(1))))),
    "list too long": (r"promises 5 items of a list", says(entry("k", ARRAY, listed(U32, 5, u32(1))))),
    "list = -1": (r"items of a list", says(entry("k", ARRAY, listed(U64, 2**64 - 1, b"")))),
    "list overflows": (r"items of a list", says(entry("k", ARRAY, listed(U64, 2**61 + 1, u64(0))))),
    "text in list too long": (r"promises 9 bytes", says(entry("k", ARRAY, listed(STRING, 1, u64(9) + b"x")))),
    "lists too deep": (
        r"more than 4 deep",
        says(entry("k", ARRAY, listed(ARRAY, 1, b"") * 5 + listed(U32, 1, u32(1)))),
    ),
    "neither true nor false": (r"a truth value is neither 0 nor 1", says(entry("k", BOOL, b"\x02"))),
    "value cut off": (r"promises 8 bytes, and has 4 bytes", says(entry("k", U64, u32(1)))),
    "alignment 0": (r"general.alignment is 0; it must be a power of two", file(alignment(0), [A], ONES)),
    "alignment 33": (r"general.alignment is 33", file(alignment(33), [A], ONES)),
    "alignment huge": (r"general.alignment is 2147483648", file(alignment(1 << 31), [A], ONES)),
    "alignment a text": (r"general.alignment is '32'", says(entry("general.alignment", STRING, text("32")))),
    "name too long": (r"a name of 65 bytes; at most 64", holds(info("a" * 65, [8]))),
    "name twice": (r"the tensor 'a' stands twice", holds(A, info("a", [8], 0, 32), data=TWO)),
    "no axes": (r"tensor 'a' has 0 axes; 1 to 4", holds(info("a", []))),
    "five axes": (r"tensor 'a' has 5 axes", holds(info("a", [1, 1, 1, 1, 8]))),
    "axes = -1": (r"tensor 'a' has 4,294,967,295 axes", holds(text("a") + u32(2**32 - 1) + bytes(40))),
    "an axis of 0": (r"tensor 'a' would have 0 numbers", holds(info("a", [8, 0]))),
    "an axis of -1": (r"would have 1.84e\+19 numbers", holds(info("a", [2**64 - 1]))),
    "axes overflow": (r"would have 1.84e\+19 numbers", holds(info("a", [2**32, 2**32]))),
    "axes overflow to 8": (r"would have .* numbers", holds(info("a", [2**61 + 1, 8]))),
    "kind unknown": (r"kind 99 of numbers is not read; F32, F16", holds(info("a", [8], 99))),
    "kind left out": (r"kind 4 of numbers is not read", holds(info("a", [8], 4))),
    "no whole blocks": (
        r"the rows of tensor 'a' are 33 long; Q8_0 has blocks of 32",
        holds(info("a", [33], 8), data=TWO),
    ),
    "offset not aligned": (r"'a' begins at byte 1 of the data, not at 0", holds(info("a", [8], 0, 1))),
    "offset beyond": (r"'b' begins at byte 64 of the data, not at 32", holds(A, info("b", [8], 0, 64), data=TWO)),
    "tensors overlap": (r"'b' begins at byte 0 of the data, not at 32", holds(A, info("b", [8]), data=TWO)),
    "data cut off": (r"it has 95 bytes, its header promises 96", holds(A)[:-1]),
    "data declared beyond": (r"its header promises 4,294,967,360", holds(info("a", [2**30]))),
    "data too long": (r"it has 97 bytes, its header promises 96", file([], [A], ONES + b"x")),
    "no tensors but data": (r"it has 28 bytes, its header promises 24", file([], [], b"more")),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_file_is_refused_in_one_line(what, tmp_path):
    message, data = MALFORMED[what]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        gguf_file.read(path)
    said = str(caught.value)
    assert "bad.gguf" in said
    assert len(said) <= 240
    assert said.isprintable()


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "cut.gguf"
    for stop in range(len(GOOD)):
        path.write_bytes(GOOD[:stop])
        with pytest.raises(CheckpointError):
            gguf_file.read(path)
    path.write_bytes(GOOD)
    assert gguf_file.read(path).metadata == {"general.architecture": "llama"}


def test_a_git_lfs_pointer_is_no_model(tmp_path):
    path = tmp_path / "pointer.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64)
    with pytest.raises(CheckpointError, match=r"is a 118-byte Git LFS pointer, .* 'git lfs pull'"):
        gguf_file.read(path)


def test_every_type_of_value_is_what_was_written(tmp_path):
    numbers = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q", 12: "<d"}
    said = [entry(f"k{code}", code, struct.pack(form, 7)) for code, form in numbers.items()]
    said += [entry("true", BOOL, b"\x01"), entry("eps", F32, struct.pack("<f", 1e-5))]
    said += [entry("flags", ARRAY, listed(BOOL, 3, b"\x01\x00\x01")), entry("word", STRING, text("é"))]
    said += [entry("words", ARRAY, listed(STRING, 1, text("ß")))]
    said += [entry("lists", ARRAY, listed(ARRAY, 2, listed(I32, 2, struct.pack("<2i", -1, 2)) + listed(I32, 0, b"")))]
    path = tmp_path / "types.gguf"
    path.write_bytes(file(said, [], version=2))
    found = gguf_file.read(path).metadata
    assert all(found[f"k{code}"] == 7 for code in numbers)
    assert (found["true"], found["eps"], found["word"]) == (True, 1e-05, "é")  # float32 as its shortest decimal
    assert (found["flags"].tolist(), found["words"]) == ([True, False, True], ["ß"])
    assert [inner.tolist() for inner in found["lists"]] == [[-1, 2], []]


def test_tensors_are_mapped_rows_first(tmp_path):
    path = tmp_path / "two.gguf"
    second = np.arange(6, dtype=np.float16).tobytes()
    path.write_bytes(file([], [info("a", [4, 2]), info("b", [3, 2], 1, 32)], ONES + second))  # no zeros at the end
    tensors = gguf_file.read(path).tensors
    assert [(name, stored.kind.name, stored.shape) for name, stored in tensors.items()] == [
        ("a", "F32", (2, 4)),
        ("b", "F16", (2, 3)),
    ]
    assert tensors["b"].data.view(np.float16).tolist() == [0, 1, 2, 3, 4, 5]
    tensors["a"].data[:] = 0  # a mapped page is ours alone
    assert path.read_bytes().endswith(ONES + second)


def test_the_real_file_is_read_as_by_llama_cpps_package_in_a_moment(smollm2):
    start = time.process_time()
    ours = gguf_file.read(smollm2)
    assert time.process_time() - start < 0.3
    theirs = gguf.GGUFReader(smollm2)
    assert list(ours.metadata) == [key for key in theirs.fields if not key.startswith("GGUF.")]
    assert ours.metadata["tokenizer.ggml.merges"] == theirs.fields["tokenizer.ggml.merges"].contents()
    assert ours.metadata["llama.attention.head_count_kv"] == 3
    for stored, tensor in zip(ours.tensors.values(), theirs.tensors, strict=True):
        assert (stored.kind.name, stored.shape) == (tensor.tensor_type.name, (*map(int, tensor.shape[::-1]),))
        assert stored.data.tobytes() == tensor.data.tobytes()
