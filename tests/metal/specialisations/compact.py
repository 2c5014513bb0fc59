"""The golden list as a reader wants it: what is equal said once, zeros left out.

A block is a kernel, each set of features that its text has (``+``), and the shapes
that come with every one of those sets: a tile, then the head sizes that it serves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

TILE = "ELEM/ELEM_BYTES OPERAND/OPERAND_BYTES TILE_ROWS/TILE_COLS SIMDGROUPS/SLICES"
HEADS = "HEAD_DIM/HEAD_DIM_V/VEC"
# Every other macro is a feature, left out where it has the usual value, else 0.
USUAL = {"MASK_ELEM": "uchar"}
HEADING = f"""\
# file, kernel
#   + features, each line a set; none: the plain kernel
#   {TILE}: {HEADS} ...
macros"""

Defines = dict[str, str]


def _names(form: str) -> list[str]:
    return form.replace(" ", "/").split("/")


SHAPE = (*_names(TILE), *_names(HEADS))


def _filled(form: str, defines: Defines) -> str:
    words = (word.split("/") for word in form.split())
    return " ".join("/".join(defines[name] for name in word) for word in words)


def _features(defines: Defines) -> str:
    """Return the line of a set of features; a mask's type may be that of q, k and v."""
    found = {name: value for name, value in defines.items() if name not in SHAPE}
    words = [
        f"{name}={'ELEM' if value == defines['ELEM'] else value}"
        for name, value in found.items()
        if value != USUAL.get(name, "0")
    ]
    return " ".join(["  +", *words])


def write(lines: Iterable[str]) -> str:
    """Return the text that has these specialisations, "file entry NAME=VALUE…" each."""
    sets: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    macros: list[str] = []
    for line in lines:
        file, entry, *pairs = line.split()
        defines = dict(pair.split("=") for pair in pairs)
        macros = list(defines)
        tile, heads = _filled(TILE, defines), _filled(HEADS, defines)
        sets[f"{file} {entry}", tile, heads].add(_features(defines))
    blocks: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for (kernel, tile, heads), features in sets.items():
        block = blocks.setdefault((kernel, *sorted(features)), defaultdict(list))
        block[tile].append(heads)
    text = [" ".join([HEADING, *macros])]
    for title, shapes in sorted(blocks.items()):
        text += ["", *title]
        for tile, every in sorted(shapes.items()):
            by_size = sorted(every, key=lambda heads: [*map(int, heads.split("/"))])
            text.append(f"  {tile}: {' '.join(by_size)}")
    return "\n".join([*text, ""])


def read(text: str) -> Iterator[str]:
    """Yield the lines that ``write`` was given, in no order."""
    heading, *blocks = text.split("\n\n")
    macros = heading.splitlines()[-1].split()[1:]
    usual = {**dict.fromkeys(macros, "0"), **USUAL}
    for block in blocks:
        kernel, *rows = block.splitlines()
        features = [row.split()[1:] for row in rows if row.startswith("  +")]
        for row in rows[len(features) :]:
            tile, _, every = row.strip().partition(": ")
            for heads in every.split():
                shape = dict(zip(SHAPE, _names(f"{tile}/{heads}")))
                for words in features:
                    found = dict(word.split("=") for word in words)
                    found = {
                        name: shape["ELEM"] if value == "ELEM" else value
                        for name, value in found.items()
                    }
                    defines = {**usual, **shape, **found}
                    pairs = [f"{name}={defines[name]}" for name in macros]
                    yield " ".join([kernel, *pairs])
