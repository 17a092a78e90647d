"""A writer of TensorFlow's checkpoints that shares no line with the reader, and can write wrong ones."""

import struct

FLOAT, DOUBLE, INT64, STRING = 1, 2, 9, 7
TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte // 2 ^ (0x82F63B78 if byte % 2 else 0)
    TABLE.append(byte)


def crc32c(data):
    """Bit by bit as the definition has it, a byte at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) % 256] ^ crc // 256
    return crc ^ 0xFFFFFFFF


def sum_of(data):
    """The four bytes of a masked checksum."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32)


def varint(number):
    data = b""
    while number > 127:
        data, number = data + bytes([number % 128 + 128]), number // 128
    return data + bytes([number])


def field(number, value):
    """A field of a message: a number, bytes, or the four bytes of a checksum as a tuple."""
    if isinstance(value, tuple):
        return varint(8 * number + 5) + value[0]
    if isinstance(value, bytes):
        return varint(8 * number + 2) + varint(len(value)) + value
    return varint(8 * number) + varint(value)


def header(shards, endian=0, version=1):
    ends = field(2, endian) if endian else b""
    return field(1, shards) + ends + field(3, field(1, version) + (field(2, version) if version > 1 else b""))


def entry(kind, shape, shard, offset, size, checksum):
    """The message of one tensor; fields that are 0 are left out, as the format wants."""
    axes = b"".join(field(2, field(1, axis)) for axis in shape)
    numbers = [(3, shard), (4, offset), (5, size)]
    return (
        field(1, kind)
        + field(2, axes)
        + b"".join(field(number, value) for number, value in numbers if value)
        + field(6, (checksum,))
    )


def block(pairs, every=16):
    """The content of a block: shared beginnings, and a restart after `every` entries."""
    data, restarts, before = b"", [], b""
    for at, (key, value) in enumerate(pairs):
        shared = 0
        if at % every == 0:
            restarts.append(len(data))
        else:
            while shared < min(len(before), len(key)) and before[shared] == key[shared]:
                shared += 1
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    return data + b"".join(struct.pack("<I", at) for at in restarts) + struct.pack("<I", len(restarts))


def sealed(content, kind=0):
    """A block with its type and checksum."""
    return content + bytes([kind]) + sum_of(content + bytes([kind]))


def table(blocks, kind=0, bounds=None, gap=0, metaindex=None):
    """A whole file of blocks, each a list of pairs, with the right checksums whatever it says."""
    data, index = b"", []
    for at, pairs in enumerate(blocks):
        content = pairs if isinstance(pairs, bytes) else block(pairs, 3)
        bound = bounds[at] if bounds else pairs[-1][0]
        index.append((bound, varint(len(data)) + varint(len(content))))
        data += sealed(content, kind) + bytes(gap)
    handles = b""
    for content in (metaindex or block([]), block(index, 1)):
        handles += varint(len(data)) + varint(len(content))
        data += sealed(content)
    return data + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def lay_out(tensors, shards=1):
    """Entries and data files of {name: (kind, shape, bytes)}; tensors go to the shards in turn."""
    entries, data = {}, [b""] * shards
    for at, (name, (kind, shape, raw)) in enumerate(tensors.items()):
        shard = at % shards
        entries[name.encode()] = entry(kind, shape, shard, len(data[shard]), len(raw), sum_of(raw))
        data[shard] += raw
    return entries, data


def write(folder, entries, data, per_block=5, name="model.ckpt"):
    """The files of a checkpoint."""
    pairs = [(b"", header(len(data))), *sorted(entries.items())]
    blocks = [pairs[at : at + per_block] for at in range(0, len(pairs), per_block)]
    for at, content in enumerate(data):
        (folder / f"{name}.data-{at:05d}-of-{len(data):05d}").write_bytes(content)
    (folder / f"{name}.index").write_bytes(table(blocks))
    return folder / f"{name}.index"
