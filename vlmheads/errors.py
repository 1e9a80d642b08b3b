"""The one error type of vlmheads, and how to install what is missing."""

from __future__ import annotations


class VlmHeadsError(ValueError):
    """What vlmheads refuses, by name: what was seen, what was expected and what to do.

    Args:
        seen: what was found, with the offending value in it.
        expected: what would have been accepted.
        todo: the next thing for the reader to do.
    """

    def __init__(self, seen: str, expected: str = "", todo: str = "") -> None:
        self.seen, self.expected, self.todo = seen, expected, todo
        parts = (seen, expected and f"expected {expected}", todo)
        super().__init__("; ".join(part for part in parts if part))


def install_hint(extra: str) -> str:
    """Return the command that adds an extra to vlmheads, from where vlmheads was installed.

    The origin is what the installer recorded (direct_url.json, PEP 610): a checkout, a repository
    or an archive; the package index where nothing is recorded.
    """
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import unquote, urlsplit

    try:
        recorded = distribution("vlmheads").read_text("direct_url.json")
    except PackageNotFoundError:
        recorded = None
    origin = json.loads(recorded) if recorded else {}
    url = origin.get("url", "")
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}'{unquote(urlsplit(url).path)}[{extra}]'"
    if "vcs_info" in origin:
        version_control = origin["vcs_info"]
        url = f"{version_control['vcs']}+{url}@{version_control['commit_id']}"
    return f"pip install 'vlmheads[{extra}]{f' @ {url}' if url else ''}'"
