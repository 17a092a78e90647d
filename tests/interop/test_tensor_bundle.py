"""TensorFlow's checkpoints: what others wrote is read, what is damaged is one clean error."""

import base64
import random
import struct
import zlib

import bundle_writer as writer
import numpy as np
import pytest
import torch

from firsthand.errors import CheckpointError
from firsthand.interop import sorted_table, tensor_bundle

# A table that LevelDB itself wrote (plyvel 1.5.1: compression=None, block_size=1024, block_restart_interval=4),
# with model/hNN/attn/b -> "value N " nine times for N = 0 to 49; LevelDB adds eight bytes to every key.
LEVELDB = """
c-p0yyKmEA6vZ79sLP{Gd74Mz16l~>k=RKe8JL?j6AMcbl{%ENI54oVA_i2kAXtK!kQiWL<_}<JKw@BGL<}q);Kt<K+}lVjCz5rK
Wa*sG{`5Ps9VMN6_wTN6);AiB`dXfE)$f!_QSp1Qw%J<`jlj;h+DT!($6BX>onoEAx@@hpz)rDl!n$Iun}MCt=$^L_vDZel0y|~(
i?H5jtrr73#d-<W6V`euuv4s;VI5oR<-ksJ&sPvJX(LtwJ7x84Sns#i?ZD27nQp3h9&ikSGhPf#b7B97Kw7{wmG{0yNq2bPQib@S
TY%C?i@4fVnh&`QV95)~P^_n12KeNKWGL6uE(3t_!t9HJUUgX@mKSn8O8kt=0J^-83`PI2%K*c?kPK!2h|2)PyfFKsWpLDGfofhz
D`eUV$K2l^u;#_U^o6uSqdaVd{_5L&bd{O5!g03%V9g8L3MX8K{#nz)wnE}EfHf~{E1Yy0z?v6kU$hlYxh!DK3)>2(T?Vk`g>8j1
E(2Ke!nVS!%K+BAF#DpdaMoo3YhFkzG_@7ZxhGd(&5N;Cc=&svGrG#AwnA_V0M@*)t#ICD0Bc^@R=D6Y^jV%3wiPbA3}DR*voG2T
b1n;5^TM{myvqRAys)is$z=d*Uf5Q+>@t8gFU-DZE7V*Tu;zudLQ7lWihJ1v*1Q;Ng=gLNm(f+Wv=tWI0)RCyY%5%K8NiwswiT|q
3}DR*+X~lRhQ8v{!t9H-!VQ-Nta)Kuq3$w(H7{%{G+YL-=7nvA)MWr`UYLE+R>)iyu;#@Wu=6iJY!7Df3Gmae*YBgGjQ5${A0VPv
ag<c>T(kQ{q#tja(_>F0AFKBCST%i4<n&}^tMupJ?|XPxd}|s!G~JZrwj7V-C_bD0+<7wlycYLsZ-!qk|MR=G^Z4mpZ}sb6nb6go
"""
# Messages that Google's protobuf 7.36.2 wrote: BundleEntryProto(dtype=1, shape=[2, 3], shard_id=1, offset=3000,
# size=24, crc32c=0xE3069283) and BundleHeaderProto(num_shards=2, version={producer: 1}).
ENTRY = bytes.fromhex("080112081202080212020803180120b817281835839206e3")
HEADER = bytes.fromhex("08021a020801")


def some_tensors():
    """Nine tensors of several types and shapes, in no order: name -> (type, shape, bytes)."""
    draw = np.random.default_rng(0)
    shapes = {"model/wte": (5, 3), "model/h0/attn/w": (1, 3, 9), "model/h0/attn/b": (9,), "step": (), "none": (0, 4)}
    shapes |= {f"model/h{layer}/mlp/b": (layer,) for layer in (7, 10, 2, 1)}
    found = {}
    for name, shape in shapes.items():
        kind, numbers = (9, np.int64(712)) if name == "step" else (1, draw.standard_normal(shape).astype(np.float32))
        found[name] = (kind, shape, numbers.tobytes())
    return found


@pytest.fixture
def good(tmp_path):
    """The files of a checkpoint with these tensors in three data files."""
    return writer.write(tmp_path, *writer.lay_out(some_tensors(), shards=3))


def refused(index, *words):
    """The message with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        tensor_bundle.read(index)
    text = str(caught.value)
    assert "\n" not in text and len(text) <= 240
    assert all(word in text for word in words), text
    return text


# ---------------------------------------------------------------- the format, by others and by hand


def test_the_checksum_is_castagnolis():
    vectors = {b"123456789": 0xE3069283, bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E}
    for data, crc in vectors.items():  # RFC 3720, appendix B.4
        assert sorted_table.crc32c(data) == crc == writer.crc32c(data)
    for length in range(40):
        data = random.Random(length).randbytes(length)
        assert sorted_table.crc32c(data) == writer.crc32c(data)


def test_a_varint_has_its_lowest_seven_bits_first():
    assert sorted_table.Cursor(bytes.fromhex("ac02")).varint() == 300  # 0101100 and 10: 44 + 2 * 128
    assert sorted_table.Cursor(b"\xff" * 9 + b"\x01").varint() == 2**64 - 1


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x02", b"\xff" * 10, b"\x80" * 11 + b"\x01"]
)
def test_a_varint_that_ends_early_or_late_is_refused(data):
    with pytest.raises(CheckpointError):
        sorted_table.Cursor(data).varint()


def test_a_table_that_leveldb_wrote_is_read():
    table = sorted_table.read(zlib.decompress(base64.b85decode(LEVELDB.replace("\n", ""))))
    assert len(table) == 50
    assert {key[:-8].decode(): value.decode() for key, value in table.items()} == {
        f"model/h{layer:02d}/attn/b": f"value {layer} " * 9 for layer in range(50)
    }


def test_messages_that_protobuf_wrote_are_read():
    assert writer.entry(1, (2, 3), 1, 3000, 24, struct.pack("<I", 0xE3069283)) == ENTRY  # the writer here is right too
    assert writer.header(2) == HEADER
    count, entries = tensor_bundle._listing({b"": HEADER, b"model/wte": ENTRY})
    assert count == 2
    assert entries == {"model/wte": tensor_bundle.Entry(torch.float32, (2, 3), 1, 3000, 24, 0xE3069283)}


@pytest.mark.parametrize(("shards", "per_block"), [(1, 100), (1, 1), (2, 5), (3, 4)])
def test_tensors_come_back_from_any_blocks_and_data_files(tmp_path, shards, per_block):
    tensors = some_tensors()
    found = tensor_bundle.read(writer.write(tmp_path, *writer.lay_out(tensors, shards), per_block, name="model-712"))
    assert found.keys() == tensors.keys()
    for name, (kind, shape, raw) in tensors.items():
        assert tuple(found[name].shape) == shape
        assert found[name].dtype == {1: torch.float32, 9: torch.int64}[kind]
        assert found[name].numpy().tobytes() == raw


# ---------------------------------------------------------------- damage


def test_every_flipped_bit_of_the_index_is_noticed(good):
    data = good.read_bytes()
    for bit in range(8 * len(data)):
        mutant = bytearray(data)
        mutant[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError):
            tensor_bundle._listing(sorted_table.read(bytes(mutant)))


def test_every_flipped_bit_of_the_data_is_noticed(good):
    path = good.with_name("model.ckpt.data-00001-of-00003")
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        mutant = bytearray(data)
        mutant[bit // 8] ^= 1 << bit % 8
        path.write_bytes(mutant)
        refused(good, "the checksum of tensor 'model/")


def test_an_index_cut_anywhere_is_refused(good):
    data = good.read_bytes()
    for length in range(len(data)):
        with pytest.raises(CheckpointError):
            sorted_table.read(data[:length])
        with pytest.raises(CheckpointError):
            sorted_table.read(data[length + 1 :])


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"", lambda data: data + b"\0"])
def test_data_of_another_size_than_promised_is_refused(good, change):
    path = good.with_name("model.ckpt.data-00002-of-00003")
    path.write_bytes(change(path.read_bytes()))
    refused(good, "its index promises 68:", "incomplete", "[FH019]")


def test_a_pointer_of_git_lfs_is_named(good):
    good.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5215\n")
    refused(good, "is a 66-byte Git LFS pointer", "[FH020]")


def test_a_missing_data_file_is_named(good):
    good.with_name("model.ckpt.data-00001-of-00003").unlink()
    refused(good, "model.ckpt.data-00001-of-00003: no such file")


KEYS = [b"", b"a", b"b", b"c"]
PAIRS = [(key, bytes(3)) for key in KEYS]
HUGE = b"\xff" * 9 + b"\x01"
TABLES = {  # what is wrong -> file, words of the message; every checksum in it is right
    "no table": (b"x" * 100, ["magic number"]),
    "only a footer": (bytes(40) + sorted_table.MAGIC, ["a block would end at byte 5, its footer begins at 0"]),
    "compressed": (writer.table([PAIRS], kind=1), ["compressed (snappy)"]),
    "another type": (writer.table([PAIRS], kind=7), ["compressed (type 7)"]),
    "a gap": (writer.table([PAIRS[:2], PAIRS[2:]], gap=1), ["begins at byte", "the one before ends at"]),
    "unsorted keys": (writer.table([PAIRS[::-1]]), ["key b'b' stands after b'c'"]),
    "a key twice": (writer.table([[PAIRS[1], PAIRS[1]]]), ["stands after"]),
    "unsorted blocks": (writer.table([PAIRS[2:], PAIRS[:2]]), ["stands after"]),
    "a block twice": (writer.table([PAIRS, PAIRS], bounds=[b"c", b"d"]), ["the index does not announce"]),
    "a bound too low": (writer.table([PAIRS], bounds=[b"b"]), ["the index does not announce"]),
    "too many restarts": (writer.table([b"\xff" * 8], bounds=[b"a"]), ["no room for its 4,294,967,295 restarts"]),
    "no restarts": (writer.table([b"abc"], bounds=[b"a"]), ["no room for its"]),
    "a shared start of nothing": (writer.table([b"\5\1\0a" + bytes(4)], bounds=[b"a"]), ["a key of 5 + 1 bytes"]),
    "a huge value": (writer.table([b"\0\1" + HUGE + b"a" + bytes(4)], bounds=[b"a"]), ["18,446,744,073,709,551,615"]),
    "a huge key": (writer.table([b"\0" + HUGE + b"\0a" + bytes(4)], bounds=[b"a"]), ["a key of 0 + 18,446,744,073"]),
    "an endless number": (writer.table([b"\xff" * 20 + bytes(4)], bounds=[b"a"]), ["a number is longer"]),
    "a long key": (writer.table([[(b"k" * 257, b"")]]), ["a key of 0 + 257 bytes"]),
    "no tensors and no header": (writer.table([]), ["its header speaks of 0 data files"]),
}


@pytest.mark.parametrize("what", TABLES)
def test_a_table_that_lies_with_right_checksums_is_refused(tmp_path, what):
    data, words = TABLES[what]
    path = tmp_path / "model.ckpt.index"
    path.write_bytes(data)
    refused(path, "model.ckpt.index is damaged: ", "Fetch it again", *words)


FULL = [writer.FLOAT, (2, 3), 0, 0, 24, writer.sum_of(bytes(24))]
LIES = {  # what is wrong -> header, entries, words
    "text": (None, {b"t": [writer.STRING, *FULL[1:]]}, ["tensor 't' has type 7; known are 1, 2, 3, 9, 14, 19"]),
    "no type": (None, {b"t": b""}, ["type 0"]),
    "a shape too large": (None, {b"t": [1, (2, 4), *FULL[2:]]}, ["has another size than its shape [2, 4] says"]),
    "a negative axis": (None, {b"t": [1, (2**64 - 1, 3), *FULL[2:]]}, ["has another size than its shape"]),
    "sizes that overflow": (None, {b"t": [1, (2**32, 2**32, 2**32), *FULL[2:]]}, ["has another size than its shape"]),
    "many axes": (None, {b"t": [1, (1,) * 5000 + (6,), *FULL[2:]]}, ["has another size than its shape"]),
    "another file": (None, {b"t": [1, (2, 3), 1, *FULL[3:]]}, ["data file 1 of 1"]),
    "a place outside": (None, {b"t": [1, (2, 3), 0, 2**63, *FULL[4:]]}, ["begins at byte 9,223,372,036,854,775,808"]),
    "overlapping tensors": (None, {b"s": FULL, b"t": [1, (2, 3), 0, 8, *FULL[4:]]}, ["'t' begins at byte 8"]),
    "the same bytes twice": (None, {b"s": FULL, b"t": FULL}, ["'t' begins at byte 0, not at 24"]),
    "a name that is not text": (None, {b"\xff": FULL}, ["not UTF-8"]),
    "slices": (None, {b"t": writer.entry(*FULL) + writer.field(7, b"")}, ["field 7 of kind 2"]),
    "a field twice": (None, {b"t": writer.entry(*FULL) + writer.field(1, 1)}, ["field 1 stands 2 times"]),
    "a field of another kind": (None, {b"t": writer.field(1, b"")}, ["field 1 of kind 2"]),
    "a group": (None, {b"t": b"\x0b"}, ["field 1 of kind 3"]),
    "a field cut off": (None, {b"t": writer.entry(*FULL)[:-1]}, ["4 bytes are announced where 3 are left"]),
    "a message longer than its field": (None, {b"t": b"\x08\x01\x12" + HUGE}, ["where 0 are left"]),
    "no data files": (writer.header(0), {b"t": FULL}, ["speaks of 0 data files"]),
    "very many data files": (writer.header(2**63), {b"t": FULL}, ["speaks of 9,223,372,036,854,775,808"]),
    "big-endian": (writer.header(1, endian=1), {b"t": FULL}, ["little-endian"]),
    "of the future": (writer.header(1, version=2), {b"t": FULL}, ["version 1"]),
}


@pytest.mark.parametrize("what", LIES)
def test_an_index_that_lies_about_tensors_is_refused(tmp_path, what):
    header, entries, words = LIES[what]
    entries = {name: value if isinstance(value, bytes) else writer.entry(*value) for name, value in entries.items()}
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(bytes(24))
    path = tmp_path / "model.ckpt.index"
    path.write_bytes(writer.table([[(b"", header or writer.header(1))], sorted(entries.items())]))
    refused(path, "is damaged: ", *words)


def test_a_sound_index_made_the_same_way_is_read(tmp_path):
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(bytes(24))
    path = tmp_path / "model.ckpt.index"
    path.write_bytes(writer.table([[(b"", writer.header(1))], [(b"t", writer.entry(*FULL))]]))
    assert tensor_bundle.read(path)["t"].tolist() == [[0, 0, 0], [0, 0, 0]]
