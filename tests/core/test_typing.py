"""What users import is typed, as a program of theirs under `mypy --strict` sees it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import vlmheads_plugins

import vlmheads

README = Path(__file__).parents[2] / "README.md"
_UNTYPED = re.compile(r'Revealed type is "(object|builtins\.object|Any)"')

PROGRAM = """\
from collections.abc import Iterable
from typing import Any

import vlmheads
from vlmheads import Captioner, Plugin
from vlmheads_plugins import VHR, VTI

PLUGINS: list[type[Plugin]] = [{plugins}]


def describe(model: Any, inputs: dict[str, Any]) -> Any:
    with vlmheads.attach(model, [VHR(alpha=1.5, layers=(1, 30)), "var"]) as attachment:
        assert attachment.attached
        return model.generate(**inputs)


def caption(path: str) -> Iterable[str]:
    captioner = Captioner.from_pretrained("embedded", plugins=["vhr:alpha=1.5"])
    return [caption.text for caption in captioner([path])]


# Each of these is wrong; that mypy says so shows that the names are no mere objects.
VHR(alpha="2")  # type: ignore[arg-type]
VHR(beta=2.0)  # type: ignore[call-arg]
VTI(directions=3)  # type: ignore[arg-type]
vlmheads.learned.Learned.load(3)  # type: ignore[arg-type]
vlmheads.attach()  # type: ignore[call-arg]
vlmheads.load_preset(3)  # type: ignore[arg-type]
"""


def test_every_public_name_is_typed(tmp_path: Path) -> None:
    classes = sorted(_registered())
    program = PROGRAM.format(plugins=", ".join(f"vlmheads_plugins.{name}" for name in classes))
    program = program.replace("import vlmheads\n", "import vlmheads\nimport vlmheads_plugins\n")
    names = [f"vlmheads.{name}" for name in vlmheads.__all__]
    names += [f"vlmheads_plugins.{name}" for name in vlmheads_plugins.__all__]
    program += "".join(f"reveal_type({name})\n" for name in names)
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "readme.py").write_text(_readme())
    # mypy follows our packages alone: reading torch and transformers would take a minute.
    roots = {Path(package.__file__ or "").parents[1] for package in (vlmheads, vlmheads_plugins)}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-site-packages", "--follow-imports=silent",
         "--ignore-missing-imports", "program.py", "readme.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": os.pathsep.join(map(str, roots))},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = [line for line in done.stdout.splitlines() if "Revealed type" in line]
    assert len(revealed) == len(names)
    untyped = [name for name, line in zip(names, revealed, strict=True) if _UNTYPED.search(line)]
    # Its decorator is from torch, which mypy does not follow here.
    assert untyped == ["vlmheads_plugins.measure_directions"]


def test_the_public_names_are_the_registered_plugins() -> None:
    others = {"measure_directions"}
    assert set(vlmheads_plugins.__all__) == _registered() | others


def test_importing_the_plugins_loads_no_torch() -> None:
    code = "import sys, vlmheads_plugins; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _readme() -> str:
    """Return the README's Python, given the model and inputs that its reader has."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    assert blocks
    return "\n".join(["from typing import Any", "model: Any", "inputs: dict[str, Any]", *blocks])


def _registered() -> set[str]:
    found = entry_points(group="vlmheads.plugins")
    return {entry.attr for entry in found if entry.module.startswith("vlmheads_plugins.")}
