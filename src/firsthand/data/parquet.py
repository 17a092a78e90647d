"""Texts out of a Parquet file on the network, row group by row group: only the bytes of one column are asked for."""

import io
from collections.abc import Iterator

from firsthand.data import fetch
from firsthand.errors import DownloadError

BUFFER = 4 << 20  # bytes asked for at once
ROWS = 512


def texts(url: str, column: str) -> Iterator[str]:
    """The texts of one column, from the first row on; stops asking when the reader stops reading."""
    try:
        from pyarrow.parquet import ParquetFile  # pyrefly: ignore[missing-import]
    except ImportError:
        raise DownloadError("is Parquet, which needs pyarrow: pip install pyarrow") from None
    with io.BufferedReader(RemoteFile(url), BUFFER) as file:
        table = ParquetFile(file)
        if column not in table.schema_arrow.names:
            raise DownloadError(f"has columns {table.schema_arrow.names[:6]}, no {column!r}")
        for batch in table.iter_batches(ROWS, columns=[column]):
            yield from (text for text in batch.column(0).to_pylist() if text)


class RemoteFile(io.RawIOBase):
    """A file on a server that answers range requests, as a seekable file of bytes."""

    def __init__(self, url: str):
        self.url, self.at, self.size = fetch.mirrored(url), 0, 0
        with self._range(0, 0) as answer:
            self.size = int((answer.headers.get("Content-Range") or "*/0").rsplit("/", 1)[1])
        if not self.size:
            raise DownloadError("does not answer range requests")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), self.size - self.at)
        if wanted <= 0:
            return 0
        with self._range(self.at, self.at + wanted - 1) as answer:
            data = answer.read(wanted)
        if len(data) < wanted:
            raise DownloadError(f"ended after {len(data):,} of {wanted:,} bytes asked for")
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def _range(self, first: int, last: int):
        try:
            answer = fetch.ask(self.url, {"Range": f"bytes={first}-{last}"})
        except OSError as error:
            raise DownloadError(f"no connection ({str(getattr(error, 'reason', error))[:60]})") from None
        if answer.status != 206:
            raise DownloadError("does not answer range requests")
        return answer
