"""Compare two packages, or folders, and name the first file and byte that differ.

It looks into wheels, source distributions and conda packages (zip, tar, gzip, zstd), as
deep as they are nested, at what an archive says of its files too: order, times, modes.

Usage: python packaging compare FIRST SECOND (exits 1 and names the difference)
"""

from __future__ import annotations

import gzip
import io
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

ZSTD = b"\x28\xb5\x2f\xfd"
GZIP_HEAD = 10  # Bytes, of which some are a time.


class Member(NamedTuple):
    """A file of an archive or a folder."""

    name: str
    said: str  # What the archive says of it.
    data: bytes


def zip_members(data: bytes) -> list[Member]:
    """Return the files of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [
            Member(
                each.filename,
                f"time {each.date_time}, mode {each.external_attr >> 16:o}, "
                f"system {each.create_system}, compression {each.compress_type}",
                archive.read(each),
            )
            for each in archive.infolist()
        ]


def tar_members(data: bytes) -> list[Member]:
    """Return the files of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = []
        for each in archive.getmembers():
            stream = archive.extractfile(each) if each.isfile() else None
            said = f"time {each.mtime}, mode {each.mode:o}, owner {each.uid}:{each.gid}"
            said += f" {each.uname}:{each.gname}, type {each.type!r} {each.linkname}"
            found.append(Member(each.name, said, stream.read() if stream else b""))
        return found


def gzip_members(data: bytes) -> list[Member]:
    """Return what a gzip file holds."""
    said = f"header {data[:GZIP_HEAD].hex()}"
    return [Member("(unpacked)", said, gzip.decompress(data))]


def zstd_members(data: bytes) -> list[Member]:
    """Return what a zstd file holds."""
    import zstandard

    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as stream:
        return [Member("(unpacked)", "zstd", stream.read())]


def reader(data: bytes) -> Callable[[bytes], list[Member]] | None:
    """Return what reads an archive; None if it is a plain file."""
    if data[:4] == b"PK\x03\x04":
        return zip_members
    if data[:2] == b"\x1f\x8b":
        return gzip_members
    if data[:4] == ZSTD:
        return zstd_members
    return tar_members if data[257:262] == b"ustar" else None


def folder_members(folder: Path) -> list[Member]:
    """Return the files of a folder."""
    found = []
    for path in sorted(folder.rglob("*")):
        name, mode = str(path.relative_to(folder)), path.lstat().st_mode
        is_file = stat.S_ISREG(mode)
        link = str(path.readlink()) if stat.S_ISLNK(mode) else ""
        said = f"mode {mode:o} {link}"
        found.append(Member(name, said, path.read_bytes() if is_file else b""))
    return found


def in_members(first: list[Member], second: list[Member], where: str) -> str | None:
    """Return a sentence on the first member that differs; None if none does."""
    for one, other in zip_longest(first, second):
        if one is None or other is None or one.name != other.name:
            names = [each.name if each else "nothing more" for each in (one, other)]
            return f"{where}: the first has {names[0]}, the second {names[1]}"
        if one.data != other.data:
            return in_data(one.data, other.data, f"{where}: {one.name}")
        if one.said != other.said:
            return f"{where}: {one.name}: {one.said}, then {other.said}"
    return None


def in_data(first: bytes, second: bytes, where: str) -> str | None:
    """Return a sentence on where two files differ; None if they do not."""
    if first == second:
        return None
    read = reader(first)
    if read is not None and read is reader(second):
        found = in_members(read(first), read(second), where)
        if found is not None:
            return found
    pairs = enumerate(zip_longest(first, second))
    at, (one, other) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
    shown = [
        f"0x{byte:02x}" if byte is not None else "the end" for byte in (one, other)
    ]
    return f"{where}: byte {at} is {shown[0]}, then {shown[1]}"


def difference(first: Path, second: Path) -> str | None:
    """Return a sentence on the first difference of two packages; None if none."""
    if first.is_dir():
        found = folder_members(first), folder_members(second)
        return in_members(*found, where=first.name)
    return in_data(first.read_bytes(), second.read_bytes(), first.name)


def main() -> None:
    """Compare what the command line names."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(difference(Path(sys.argv[1]), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
