"""An extension for griffe, which reads the docstrings for the site (mkdocs.yml).

Docstrings are written to be read in a terminal too; Markdown wants two things said
differently: a paragraph that ends in ``::`` announces code, and ``>>>`` begins code.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

SESSION = re.compile(r"^(?:>>> .*\n?(?:\.\.\. .*\n?)*)+", re.MULTILINE)


class Docstrings(Extension):  # type: ignore[misc, unused-ignore]
    """Puts a docstring's code into the form that Markdown has for it."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            text = re.sub(r"::$", ":", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = SESSION.sub(
                lambda found: f"\n```pycon\n{found[0].rstrip()}\n```\n", text
            )
