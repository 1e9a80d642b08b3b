"""What is built holds the six packages and nothing else that could be imported."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_the_packages_and_their_data_and_no_other_name(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*pip, str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("vlmheads-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert packages == {
        f"vlmheads{part}" for part in ("", "_plugins", "_eval", "_demo", "_testbed", "_lmms")
    }
    for package in packages:
        assert f"{package}/py.typed" in names
        assert f"{package}/__init__.py" in names
    for data in (
        "vlmheads_testbed/model/model.safetensors",
        "vlmheads_eval/chair/coco_objects.json",
    ):
        assert data in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
