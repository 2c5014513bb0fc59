"""Write a conda package again, so that its bytes are the same each time.

rattler-build puts the time of the build into a package, and the folder that it was
built in: as the prefix that the installer replaces, and as the channel's address.
Here the time becomes that of the source, the prefix one of the same length, and no
channel is named; requirements are sorted; order, times, modes and owners are fixed.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import zstandard

LEVEL = 19
Files = dict[str, tuple[tarfile.TarInfo, bytes]]


def read(data: bytes) -> Files:
    """Return the members of a .tar.zst by their names."""
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as stream:
        raw = stream.read()
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        found: Files = {}
        for member in archive.getmembers():
            stream_of = archive.extractfile(member) if member.isfile() else None
            found[member.name] = member, stream_of.read() if stream_of else b""
        return found


def written(files: Files, when: int) -> bytes:
    """Return a .tar.zst that depends on names, contents and one time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, (member, data) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = member.type, member.linkname
            entry.mode = 0o755 if member.mode & 0o111 or member.isdir() else 0o644
            entry.mtime, entry.size = when, len(data)
            archive.addfile(entry, io.BytesIO(data))
    packed: bytes = zstandard.ZstdCompressor(level=LEVEL).compress(out.getvalue())
    return packed


def prefix(length: int) -> str:
    """Return the prefix that stands for every build's, of a length."""
    return ("/orchard-ops" + "_placehold" * length)[:length]


def settle_prefix(files: Files, paths: list[dict[str, Any]]) -> None:
    """Put one prefix in the place of the build's; the list of files follows."""
    digests = {}
    for entry in paths:
        old, name = entry.get("prefix_placeholder"), entry["_path"]
        if old is not None:
            new, (member, data) = prefix(len(old)), files[name]
            data = data.replace(old.encode(), new.encode())
            files[name] = member, data
            entry["prefix_placeholder"] = new
            digests[entry["sha256"]] = hashlib.sha256(data).hexdigest()
    for entry in paths:  # A link has the digest of what it leads to.
        entry["sha256"] = digests.get(entry["sha256"], entry["sha256"])


def settle(package: Path, when: int) -> None:
    """Write a package of this format (.conda) again."""
    with zipfile.ZipFile(package) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    content, info = (f"{kind}-{package.stem}.tar.zst" for kind in ("pkg", "info"))
    files, facts = read(parts[content]), read(parts[info])
    index, about, paths = (
        json.loads(facts[f"info/{name}.json"][1])
        for name in ("index", "about", "paths")
    )
    index["timestamp"] = when * 1000
    # Those by run exports come as a hash table has them.
    index["depends"].sort()
    about["channels"] = []
    settle_prefix(files, paths["paths"])
    for name, table in (("index", index), ("about", about), ("paths", paths)):
        member = facts[f"info/{name}.json"][0]
        text = json.dumps(table, indent=2, sort_keys=True) + "\n"
        facts[f"info/{name}.json"] = member, text.encode()
    parts[content], parts[info] = written(files, when), written(facts, when)
    with zipfile.ZipFile(package, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data)
