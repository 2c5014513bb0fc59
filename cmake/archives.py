"""Write archives whose bytes depend on their files and the source's time alone.

Order, times, modes and owners are those written here, whatever the machine that builds
has; a wheel's RECORD follows.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

from source_date import FILE

PROGRAM, PLAIN = 0o755, 0o644


def record(name: str, data: bytes) -> str:
    """Return the line of a wheel's RECORD for a file."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    quoted = f'"{name}"' if "," in name else name
    return f"{quoted},sha256={digest.decode()},{len(data)}\n"


def write_wheel(path: Path, files: Mapping[str, tuple[bytes, bool]], when: int) -> None:
    """Write a wheel of files (path → content, and whether it can be run)."""
    info = next(name for name in files if name.endswith(".dist-info/WHEEL"))
    last = info.replace("WHEEL", "RECORD")
    names = sorted(files.keys() - {last})
    rows = "".join(record(name, files[name][0]) for name in names)
    contents = {**files, last: (f"{rows}{last},,\n".encode(), False)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [*names, last]:
            data, can_run = contents[name]
            entry = zipfile.ZipInfo(name, time.gmtime(when)[:6])
            entry.create_system = 3  # Unix, whose modes follow.
            entry.external_attr = (0o100000 | (PROGRAM if can_run else PLAIN)) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)


def read_wheel(path: Path) -> dict[str, tuple[bytes, bool]]:
    """Return path → content, and whether it can be run, of a wheel's files."""
    with zipfile.ZipFile(path) as archive:
        return {
            each.filename: (
                archive.read(each),
                bool(each.external_attr >> 16 & 0o111) or ".so" in each.filename,
            )
            for each in archive.infolist()
            if not each.is_dir()
        }


def settle_sdist(path: Path, when: int) -> None:
    """Write a source distribution again: it says itself what time it is from."""
    out = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in sorted(old.getmembers(), key=lambda each: each.name):
            stream = old.extractfile(member) if member.isfile() else None
            data = stream.read() if stream else b""
            if member.name.endswith(f"/{FILE}"):
                data = f"{when}\n".encode()
            entry = tarfile.TarInfo(member.name)
            entry.type, entry.linkname = member.type, member.linkname
            entry.mode = PROGRAM if member.mode & 0o111 or member.isdir() else PLAIN
            entry.mtime, entry.size = when, len(data)
            new.addfile(entry, io.BytesIO(data))
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=when) as packed:
        packed.write(out.getvalue())
