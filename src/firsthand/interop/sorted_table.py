"""A sorted-string table: the file LevelDB is made of, and in which TensorFlow keeps the index of a checkpoint.

Pairs of key and value in the order of their keys, cut into blocks so that a reader need only fetch the one it wants:

    data block, data block, ..., metaindex block, index block, footer
    footer    handle of the metaindex block, handle of the index block, zeros up to 40 bytes, 8 bytes of magic
    handle    offset and size of a block, both varints
    block     entries, then where restarts stand (uint32 each), then how many there are (uint32)
              followed by its type (1 byte: 0 plain, 1 snappy) and a checksum of block and type (4 bytes)
    entry     three varints: shared, unshared, size; then the unshared end of the key, then the value

Neighbours have similar keys ("model/h0/attn/c_attn/b", ".../w"), so an entry only says how many bytes it shares with
the one before. Every 16th says its whole key: at such a restart a reader that searches can begin. The index block has
an entry for each data block: a key not below its last one, and its handle.

A varint is a number in groups of seven bits, the lowest first; the top bit of a byte says that more follow: AC 02 is
300. The checksum is CRC-32C; stored, it is turned and shifted ("masked"), because the CRC of bytes that hold their own
CRC is always the same number.

Reading is stricter than LevelDB's: blocks fill the file without a gap and every number has its shortest form, so that
any flipped bit is noticed. Source: https://github.com/google/leveldb/blob/main/doc/table_format.md.
"""

from collections.abc import Iterator

import numpy as np

from firsthand.errors import CheckpointError
from firsthand.files import quoted
from firsthand.tokenizer.compiled import compiled, load64

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER, TRAILER = 48, 5  # bytes
LONGEST_KEY = 256  # a key of two bytes more can stand for one of any length, so a small file could need much memory
POLYNOMIAL = 0x82F63B78  # of Castagnoli, its bits in reverse

Handle = tuple[int, int]


class Cursor:
    """Bytes read from front to back; nothing beyond their end is ever touched."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise CheckpointError(f"{count:,} bytes are announced where {self.left:,} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        """The next number, below 2^64 and in its shortest form."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if value >= 1 << 64 or (shift and not byte):
                    break
                return value
        raise CheckpointError("a number is longer than it may be")


def read(data: bytes) -> dict[bytes, bytes]:
    """All pairs of a table, after every byte of it was vouched for by a checksum. An error is only the reason."""
    if data[-len(MAGIC) :] != MAGIC or len(data) < FOOTER:
        raise CheckpointError("it does not end with the magic number of a sorted table")
    footer = Cursor(data[-FOOTER : -len(MAGIC)])
    metaindex, index = _handle(footer), _handle(footer)
    if any(footer.take(footer.left)):
        raise CheckpointError("its footer holds something after the two handles")
    bounds = {key: _handle(Cursor(value)) for key, value in _entries(_block(data, index))}
    _require_tiles([*bounds.values(), metaindex, index], len(data) - FOOTER)
    _block(data, metaindex)  # for its checksum; TensorFlow puts nothing into it
    pairs: dict[bytes, bytes] = {}
    lowest = b""
    for bound, handle in bounds.items():
        block = dict(_entries(_block(data, handle)))
        if block and not (lowest <= min(block) and max(block) <= bound):
            raise CheckpointError(f"the block at byte {handle[0]:,} holds keys that the index does not announce")
        pairs |= block
        lowest = bound + b"\0"
    return pairs


def _handle(cursor: Cursor) -> Handle:
    return cursor.varint(), cursor.varint()


def _require_tiles(handles: list[Handle], size: int) -> None:
    """Blocks follow each other without a gap, from the first byte to the footer."""
    end = 0
    for offset, length in handles:
        if offset != end:
            raise CheckpointError(f"a block begins at byte {offset:,}, the one before ends at {end:,}")
        end = offset + length + TRAILER
    if end != size:
        raise CheckpointError(f"its blocks end at byte {end:,}, its footer begins at {size:,}")


def _block(data: bytes, handle: Handle) -> bytes:
    """The content of a block whose checksum holds."""
    offset, size = handle
    stop = offset + size
    if stop + TRAILER > len(data) - FOOTER:
        raise CheckpointError(
            f"a block would end at byte {stop + TRAILER:,}, its footer begins at {len(data) - FOOTER:,}"
        )
    if masked(crc32c(data[offset : stop + 1])) != int.from_bytes(data[stop + 1 : stop + TRAILER], "little"):
        raise CheckpointError(f"the checksum of the block at byte {offset:,} differs")
    if data[stop]:
        kind = "snappy" if data[stop] == 1 else f"type {data[stop]}"
        raise CheckpointError(f"the block at byte {offset:,} is compressed ({kind}), and only plain ones can be read")
    return data[offset:stop]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of one block; their keys must ascend."""
    count = int.from_bytes(block[-4:], "little")
    restarts = len(block) - 4 * (count + 1)
    if restarts < 0 or len(block) < 4:
        raise CheckpointError(f"a block of {len(block):,} bytes has no room for its {count:,} restarts")
    cursor, key, first = Cursor(block[:restarts]), b"", True
    while cursor.left:
        shared, unshared, size = cursor.varint(), cursor.varint(), cursor.varint()
        if shared > len(key) or shared + unshared > LONGEST_KEY:
            raise CheckpointError(f"a key of {shared:,} + {unshared:,} bytes follows one of {len(key)}")
        before, key = key, key[:shared] + cursor.take(unshared)
        if key <= before and not first:
            raise CheckpointError(f"key {quoted(key)} stands after {quoted(before)}: a table is sorted")
        first = False
        yield key, cursor.take(size)


# ---------------------------------------------------------------- the checksum


def _tables() -> np.ndarray:
    """What a byte does to the checksum, followed by 0 to 7 other bytes: -> (8, 256) uint64."""
    table = np.zeros((8, 256), np.uint64)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ POLYNOMIAL * (crc & 1)
        table[0, byte] = crc
    for row in range(1, 8):
        before = table[row - 1]
        table[row] = before >> np.uint64(8) ^ table[0, before & np.uint64(255)]
    return table


TABLES = _tables()


@compiled
def _divide(data, tables):
    """The remainder of bytes, (N,) uint8 -> uint64, eight at a time. Source: Kounavis & Berry 2005, 'slicing-by-8'."""
    crc, low = np.uint64(0xFFFFFFFF), np.uint64(255)
    whole = len(data) // 8 * 8
    for at in range(0, whole, 8):
        word = load64(data, at) ^ crc
        crc = tables[0, word >> np.uint64(56)]
        for place in range(7):
            crc ^= tables[7 - place, word >> np.uint64(8 * place) & low]
    for at in range(whole, len(data)):
        crc = tables[0, (crc ^ data[at]) & low] ^ crc >> np.uint64(8)
    return crc ^ np.uint64(0xFFFFFFFF)


def crc32c(data: bytes | bytearray) -> int:
    """The CRC-32C of some bytes: that of b"123456789" is 0xE3069283."""
    return int(_divide(np.frombuffer(data, np.uint8), TABLES))


def masked(crc: int) -> int:
    """A checksum as it is stored."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
