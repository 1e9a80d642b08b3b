"""What a missing extra is installed with, for each way to install vlmheads itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlmheads.errors import install_hint


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (
            {"url": "file:///home/a%20b/vlmheads", "dir_info": {"editable": True}},
            "pip install -e '/home/a b/vlmheads[eval]'",
        ),
        ({"url": "file:///src", "dir_info": {}}, "pip install '/src[eval]'"),
        (
            {
                "url": "https://host/vlmheads.git",
                "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "abc"},
            },
            "pip install 'vlmheads[eval] @ git+https://host/vlmheads.git@abc'",
        ),
        (
            {"url": "file:///dist/vlmheads-1-py3-none-any.whl", "archive_info": {}},
            "pip install 'vlmheads[eval] @ file:///dist/vlmheads-1-py3-none-any.whl'",
        ),
        (None, "pip install 'vlmheads[eval]'"),
    ],
    ids=["editable checkout", "checkout", "repository", "wheel", "index"],
)
def test_an_extra_comes_from_where_the_package_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None, command: str
) -> None:
    installed = tmp_path / "vlmheads-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: vlmheads\nVersion: 1\n")
    if origin is not None:
        (installed / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(tmp_path)
    assert install_hint("eval") == command
