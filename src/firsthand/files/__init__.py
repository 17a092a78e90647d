"""The one writer, and the careful reader: a file of ours is whole, or it is not there.

A directory is published in seven steps; a single file takes the same way without 4 and 5.

    1 refuse early when the disk has less than 1.1 x the bytes
    2 mkdir  .tmp-NAME-...
    3 each file: create, write, fsync, close     an error abandons everything; a failed fsync is never tried again
    4 MANIFEST.json last: {file: [bytes, sha256]}, sealed by a hash of itself
    5 fsync  .tmp-NAME-...                       the names inside are on the disk
    6 rename .tmp-NAME-... to NAME
    7 fsync  the folder around it                now, and not earlier, it counts as saved

Whoever pulls the plug finds NAME complete, or as it was before. Reading trusts nothing: no link is followed, no pipe
waited for, no size believed, and a directory is used only after every byte of it agreed with its manifest.
Source: Pillai et al. 2014 (OSDI '14), what a crash may leave behind; Rebello et al. 2020 (ATC '20), why a failed fsync
is not repeated.
"""

from firsthand.files.directory import MANIFEST, discard, publish, verify
from firsthand.files.lock import RunLock
from firsthand.files.read import open_regular, parse_json, read_file, read_text, safe_join, sha256, short_integer
from firsthand.files.runs import checkpoints, newest, retire, set_aside, sweep
from firsthand.files.words import amount, quoted, shown
from firsthand.files.write import Content, append_line, cut_lines, free_bytes, require_space, write_file

__all__ = [
    "MANIFEST",
    "Content",
    "RunLock",
    "amount",
    "append_line",
    "checkpoints",
    "cut_lines",
    "discard",
    "free_bytes",
    "newest",
    "open_regular",
    "parse_json",
    "publish",
    "quoted",
    "read_file",
    "read_text",
    "require_space",
    "retire",
    "safe_join",
    "set_aside",
    "sha256",
    "short_integer",
    "shown",
    "sweep",
    "verify",
    "write_file",
]
