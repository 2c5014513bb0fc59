"""What MkDocs calls while it builds the site (mkdocs.yml): pages from outside docs/.

README, CONTRIBUTING and CHANGELOG and each example become pages, so that no text
exists twice.  Links between files of the repository become links between pages; a
link to any other file stays as it is, and MkDocs refuses it.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
} | {
    f"examples/{path.name}": f"examples/{path.stem}.md"
    for path in sorted((ROOT / "examples").glob("*.py"))
}
FILES = {page: file for file, page in PAGES.items()}
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose text lies outside docs/."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        if name.endswith(".py"):
            text = example_page(name, text)
        files.append(File.generated(config, page, content=text))
    return files


def example_page(name: str, text: str) -> str:
    """Return an example's docstring as text, with its code below."""
    title, _, description = (ast.get_docstring(ast.parse(text)) or "").partition("\n")
    code = text.split('"""', 2)[2].strip()
    return (
        f"# {title.rstrip('.')}\n{description}\n\n"
        f"```\npython {name}\n```\n\n```python\n{code}\n```\n"
    )


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files of the repository into links to pages."""
    here = page.file.src_uri
    folder = posixpath.dirname(FILES.get(here, f"docs/{here}"))

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if target not in PAGES and not target.startswith("docs/"):
            return match[0]
        to = PAGES.get(target) or target.removeprefix("docs/")
        link = posixpath.relpath(to, posixpath.dirname(here) or ".")
        return f"]({link}{match[2] or ''})"

    return LINK.sub(rewritten, markdown)
