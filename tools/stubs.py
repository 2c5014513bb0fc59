"""Write the type stubs of the operators, from the schemas that the libraries register.

Usage: python tools/stubs.py (rewrites orchard_ops/_C.pyi and orchard_ops/_metalsim.pyi)
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).resolve().parent.parent / "orchard_ops"
# Library and namespace of its operators.
NAMESPACES = {"_C": "orchard_ops", "_metalsim": "orchard_metalsim"}
HEAD = '''\
"""The operators of the library {library}, torch.ops.{namespace}.

Written by tools/stubs.py from their schemas.
"""
'''
WIDTH = 88
TYPES = {"Tensor": "Tensor", "ScalarType": "torch.dtype"}
TYPES.update({name: name for name in ("int", "float", "bool", "str")})


def _type_of(type_: Any, sequence: str) -> str:
    """Return a schema's type as Python writes it."""
    text = str(type_)
    match = re.fullmatch(r"(Optional|List)\[(.+)\]", text)
    if match is None:
        return TYPES[text]
    inner = _type_of(match.group(2), sequence)
    return f"{inner} | None" if match.group(1) == "Optional" else f"{sequence}[{inner}]"


def _argument(argument: Any) -> str:
    text = f"{argument.name}: {_type_of(argument.real_type, 'Sequence')}"
    if argument.has_default_value():
        text += f" = {argument.default_value!r}"
    return text


def _function(schema: Any) -> str:
    arguments = [_argument(argument) for argument in schema.arguments]
    results = [_type_of(result.real_type, "list") for result in schema.returns]
    result = ", ".join(results) or "None"
    if len(results) > 1:
        result = f"tuple[{result}]"
    name = schema.name.partition("::")[2]
    line = f"def {name}({', '.join(arguments)}) -> {result}: ..."
    if len(line) <= WIDTH:
        return line
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"def {name}(\n{lines}) -> {result}: ..."


def stub(library: str) -> str:
    """Return the stub of a library that is loaded."""
    namespace = NAMESPACES[library]
    schemas = [
        schema
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith(f"{namespace}::")
    ]
    schemas.sort(key=lambda schema: (schema.name, schema.overload_name))
    counts = Counter(schema.name for schema in schemas)
    body = "\n".join(
        "@overload\n" * (counts[schema.name] > 1) + _function(schema)
        for schema in schemas
    )
    imports = ""
    if "Sequence[" in body:
        imports += "from collections.abc import Sequence\n"
    if "@overload" in body:
        imports += "from typing import overload\n"
    imports += "\n" * bool(imports)
    if "torch.dtype" in body:
        imports += "import torch\n"
    imports += "from torch import Tensor\n\n"
    return HEAD.format(library=library, namespace=namespace) + f"\n{imports}{body}\n"


def main() -> None:
    """Rewrite the stubs."""
    from orchard_ops import sim

    sim.enable()
    for library in NAMESPACES:
        (FOLDER / f"{library}.pyi").write_text(stub(library))


if __name__ == "__main__":
    main()
