"""What plugins do and cost on a GPU: one run of ten minutes on a bare machine with one card.

Four parts, each of which writes its JSON as it goes, so that a run that is cut off keeps what it
has: (a) the contract in half precision and under each attention kernel, on tiny models of eight
families; (b) what plugins cost at 7B; (c) what measuring and learning costs at 7B; (d) captioning.

    python benchmarks/gpu.py --out out/gpu               # on the machine with the card
    python benchmarks/gpu.py --tiny --out out/rehearsal  # the same on a CPU, on tiny models
    python benchmarks/gpu.py --pack out/gpu.tar.gz       # all that a machine without network needs

That machine needs Python, torch and transformers of its own (torch 2.11 and transformers 5.17 or
later will do); everything else travels in the archive, whose run.sh installs it and starts the run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Part -> module, function, and the share of the time that is left when its turn comes.
PARTS = {
    "a": ("gpu_contract", "contract", 0.25),
    "b": ("gpu_speed", "speed", 0.75),
    "c": ("gpu_passes", "measures", 0.5),
    "d": ("gpu_passes", "captions", 1.0),
}
# What vlmheads asks for beside torch and transformers, and what those of them ask for in turn.
CARRIED = (
    *("accelerate", "click", "msgspec", "pillow", "psutil", "rich", "markdown-it-py", "mdurl"),
    "pygments",
)
# Too large to carry, and there wherever a model runs.
THERE = {"torch": "2.11", "transformers": "5.17", "numpy": "1.26", "safetensors": "0.4.3"}
LIMIT = 60 * 2**20
RUN = """#!/bin/sh
# Install what travelled here without a network, and run. What the machine has already it keeps.
cd "$(dirname "$0")" || exit 1
python -m pip install --quiet --no-index --no-deps wheels/vlmheads-*.whl || exit 1
for wheel in wheels/*.whl; do
  name=$(basename "$wheel" | cut -d- -f1 | tr _ -)
  python -m pip show --quiet "$name" 2>/dev/null ||
    python -m pip install --quiet --no-index --no-deps "$wheel" || exit 1
done
HF_HUB_OFFLINE=1 exec python benchmarks/gpu.py --out "${OUT:-out}" "$@"
"""


def missing() -> list[str]:
    """What this machine lacks of what a run needs, or has in too old a version."""

    def number(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split("+")[0].split(".")[:2] if part.isdigit())

    found = []
    for name in (*THERE, *CARRIED, "vlmheads"):
        try:
            have = version(name)
        except PackageNotFoundError:
            found.append(f"{name} is not installed")
            continue
        if name in THERE and number(have) < number(THERE[name]):
            found.append(f"{name} is {have}, {THERE[name]} or later is needed")
    return found


def pack(path: Path, python: str) -> None:
    """Write an archive of the benchmark, of vlmheads as a wheel, and of the wheels that it needs.

    Args:
        path: the archive.
        python: version of Python on the machine that it is for, such as "3.12".
    """
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder, "wheels")
        pip = [sys.executable, "-m", "pip"]
        build = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
        subprocess.run([*pip, *build], check=True)
        # A wheel of the highest glibc tag that a machine of today has, or of any below it.
        tags = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)]
        places = [*tags, "manylinux2014_x86_64", "any"]
        options = ["--no-deps", "--only-binary=:all:", "--python-version", python]
        options += [word for tag in places for word in ("--platform", tag)]
        fetch = ["download", "--quiet", *options, "--dest", str(wheels), *CARRIED]
        subprocess.run([*pip, *fetch], check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        start = Path(folder, "run.sh")
        start.write_text(RUN)
        start.chmod(0o755)
        with tarfile.open(path, "w:gz") as archive:
            archive.add(start, "run.sh")
            archive.add(wheels, "wheels")
            for file in (ROOT / "benchmarks").glob("*.py"):
                archive.add(file, f"benchmarks/{file.name}")
            for file in (ROOT / "tests" / "support").glob("*.py"):
                archive.add(file, f"tests/support/{file.name}")
        names = sorted(wheel.name for wheel in wheels.iterdir())
    print("\n".join(names))
    size = path.stat().st_size
    print(f"{path}: {size / 2**20:.1f} MiB, of {LIMIT // 2**20} at most; run it with: sh run.sh")
    if size > LIMIT:
        raise SystemExit("the archive is too large")


def machine(tiny: bool) -> dict[str, Any]:
    """What ran, and where."""
    import torch

    names = ("vlmheads", "torch", "transformers", "accelerate")
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "device": "rehearsal on tiny models" if tiny else card,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def run(parts: list[str], out: Path, tiny: bool, minutes: float) -> dict[str, str]:
    """Run parts in order, each in its share of the time; return how each ended.

    Args:
        parts: of PARTS.
        out: a folder, which holds a file for each part afterwards.
        tiny: on the CPU, on tiny models.
        minutes: that all of them may take together.
    """
    from gpu_part import Part

    out.mkdir(parents=True, exist_ok=True)
    about, ended = machine(tiny), {}
    end = time.monotonic() + 60 * minutes
    for part in parts:
        module, name, share = PARTS[part]
        file = out / f"{part}.json"
        began = time.monotonic()

        def keep(found: dict[str, Any], state: str = "not finished", file: Path = file) -> None:
            file.write_text(
                json.dumps({"machine": about, "state": state, "found": found}, indent=1)
            )

        try:
            what: Callable[[Part], dict[str, Any]] = getattr(import_module(module), name)
            until = began + share * (end - began)
            keep(what(Part("cpu" if tiny else "cuda", tiny, until, keep)), "finished")
            ended[part] = f"finished in {time.monotonic() - began:.0f} s"
        except Exception as error:  # the parts after it are worth having all the same
            ended[part] = f"{type(error).__name__}: {error}"
        print(f"part {part}, {name}: {ended[part]}", flush=True)
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="a folder for the JSON")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on a CPU")
    parser.add_argument("--needs", action="store_true", help="say what this machine lacks")
    parser.add_argument("--pack", type=Path, metavar="FILE", help="write all that a run needs")
    parser.add_argument("--python", default="3.12", help="with --pack: Python on the machine")
    arguments = parser.parse_args()
    if arguments.pack is not None:
        pack(arguments.pack, arguments.python)
        return
    lacking = missing()
    if arguments.needs or lacking:
        print("\n".join(lacking) or "nothing is missing")
        sys.exit(bool(lacking))
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not arguments.tiny and not torch.cuda.is_available():
        sys.exit("no CUDA device is here; --tiny rehearses on a CPU")
    ended = run(arguments.parts, arguments.out, arguments.tiny, arguments.minutes)
    sys.exit(not all(text.startswith("finished") for text in ended.values()))


if __name__ == "__main__":
    main()
