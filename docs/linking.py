"""Words of docstrings and other plain text as Markdown: nothing is markup, what is named is linked.

Paths such as docs/effect.md, arXiv numbers, names of plugins and `vlmheads learn` become links;
x_i and e^{t} get their subscripts and superscripts.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from vlmheads.registry import list_plugins

ROOT = Path(__file__).parents[1]
# Documents of the repository that have a page under another name.
ELSEWHERE = {
    "changelog.md": "CHANGELOG.md",
    "code-of-conduct.md": "CODE_OF_CONDUCT.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "testbed.md": "testbed/README.md",
}
_LINKED = re.compile(r"(`[^`]*`|\]\([^)]*\)|<[^>]*>)")
_NAMED = re.compile(r"(?<![\w/\[])(?:\.\./)*((?:docs/[\w-]+|testbed/README)\.md)")
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})(v\d+)?")
_ISSUE = re.compile(r"\b([\w.-]+/[\w.-]+)#(\d+)\b")
# One letter, so that CHAIR_S and names of options stay as they are.
_BELOW = re.compile(r"(?<![\w`])([^\W\d_]'?)_(?:\{([^}]*)\}|(\w+'?\w*)|\(([^)]*)\))")
_ABOVE = re.compile(r"\^\{([^}]*)\}")


def plain(text: str) -> str:
    """Return words as Markdown in which nothing but `code` is markup."""
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([*<\[\]_|])", r"\\\1", piece)
        for piece in re.split(r"(`[^`]*`)", text)
    )


def cell(text: str) -> str:
    """Return words as a cell of a table."""
    return plain(" ".join(text.split()))


def prose(text: str, folder: str = "", here: str = "") -> str:
    """Return a paragraph of a docstring as Markdown, with its links and its indices.

    Args:
        text: the paragraph.
        folder: the way from the page to docs/, such as "../".
        here: the name of the plugin that the page is about, which is not linked.
    """
    pieces = []
    for piece in re.split(r"(`[^`]*`)", text):
        if piece.startswith("`"):
            pieces.append(_code(piece, folder, here))
        else:
            bare = re.sub(r"([*<\[\]|])", r"\\\1", piece)
            bare = _ABOVE.sub(r"<sup>\1</sup>", _BELOW.sub(_subscript, bare))
            pieces.append(_issues(_papers(documents(bare, folder))))
    return "".join(pieces)


def documents(text: str, folder: str = "") -> str:
    """Turn the paths of documents that stand in plain words into links to their pages."""
    return _NAMED.sub(lambda match: _document(match[1], folder), text)


def outside_links(text: str, folder: str = "") -> str:
    """Do so for Markdown, where code and what is linked already is left alone."""
    fenced = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    return "".join(
        block
        if block.startswith("```")
        else "".join(
            piece if number % 2 else documents(piece, folder)
            for number, piece in enumerate(_LINKED.split(block))
        )
        for block in fenced
    )


def inside(text: str) -> str:
    """Turn links to documents outside of docs/ into links to their pages."""
    for name, path in ELSEWHERE.items():
        text = re.sub(rf"\]\((?:\.\./)*{re.escape(path)}", f"]({name}", text)
    return text


@cache
def _plugins() -> frozenset[str]:
    return frozenset(list_plugins())


@cache
def title_of(path: str) -> str:
    """Return the title of a document of the repository."""
    found = re.search(r"^# (.+)$", (ROOT / path).read_text("utf-8"), flags=re.M)
    return found[1] if found else path


def slug(heading: str) -> str:
    """Return the anchor that Python-Markdown gives a heading."""
    kept = re.sub(r"[^\w\s-]", "", heading).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


def _document(path: str, folder: str) -> str:
    if not (ROOT / path).is_file():
        return path
    pages = {source: name for name, source in ELSEWHERE.items()}
    page = pages.get(path, path.removeprefix("docs/"))
    return f"[{title_of(path)}]({folder}{page})"


def _code(code: str, folder: str, here: str) -> str:
    name = code.strip("`")
    if name in _plugins() and name != here:
        return f"[{code}]({name}.md)" if folder else f"[{code}](methods/{name}.md)"
    if name.startswith("vlmheads learn"):
        return f"[{code}]({folder}learn.md)"
    return code


def _papers(text: str) -> str:
    return _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1\2)", text)


def _issues(text: str) -> str:
    return _ISSUE.sub(r"[\1#\2](https://github.com/\1/issues/\2)", text)


def _subscript(match: re.Match[str]) -> str:
    return f"{match[1]}<sub>{match[2] or match[3] or match[4]}</sub>"
