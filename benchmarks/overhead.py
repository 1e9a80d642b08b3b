"""Time plain generate() against generate() under each plugin, in one process and interleaved.

Three figures: the prefill, which is what passes until the first token, what a plugin does before it
included; a decoded token after it; and the whole call. Of each the least of several runs counts,
over the least of as many plain runs that took turns with them: see benchmarks/timing.py. With
`--rival` the other library of such methods is timed in the same run: see benchmarks/rival.py.

    taskset -c 1 python benchmarks/overhead.py --rival --out out/overhead.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import rival
import torch
import transformers
from benches import Bench, benches
from rich.console import Console
from rich.table import Table
from timing import compare

import vlmheads
from vlmheads import HeadMap, Plugin, get_plugin, list_plugins
from vlmheads.gains.offsets import head_width
from vlmheads.learned import Learned
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry

# What a method works on. The first four have targets of their own.
KINDS = {
    "heads": "vhr spin allpath adhh gains offsets",
    "rows": "var paint pai devils vaf zerotuning act eah iat adaiat gift locore kvsmooth vga ilvad "
    "pti air havae attnreal",
    "steering": "vista-steering vti vti-visual rudder nullu revis",
    "vista": "vista vista-later",
    "contrast": "vcd icd m3id cfg damro cicd sid cmac pai-guided",
    "logits": "dola deco flb only resdec daid hulluedit",
    "hidden": "memvr",
}
# Most that decoding may cost, by kind, on a CPU and on CUDA; logits and hidden have none.
DECODE = {
    "cpu": {"heads": 1.03, "rows": 1.10, "steering": 1.03, "vista": 1.15, "contrast": 1.7},
    "cuda": {"heads": 1.02, "rows": 1.05, "steering": 1.03, "vista": 1.10, "contrast": 1.15},
}
# A contrast on CUDA, with more than one row.
MANY = 1.7
# Most that the prefill and the peak memory may cost.
PREFILL, MEMORY = {"vhr": 1.15}, {"vhr": 1.03}
OTHER_MEMORY = {"cpu": 1.05, "cuda": 1.02}

IMPORTS = {
    "import vlmheads": "import vlmheads",
    "vlmheads --help": "from vlmheads.cli import main; main(['--help'], standalone_mode=False)",
    "import torch": "import torch",
}
# The same plugin under other options.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "pai-guided": ("pai", {"gamma": 1.1}),
    "vista-steering": ("vista", {"gamma": 0.0}),
    "vista-later": ("vista", {"prompt": False}),
}


def options(name: str, model: Any) -> dict[str, Any]:
    """Options under which a plugin has its full work to do on any model.

    Published lists of heads are scaled to the model's number of heads; a random model has no
    sinks, so `var` is told that it has some.
    """
    geometry = examine(model).geometry
    generator = torch.Generator().manual_seed(0)
    heads = [(layer, head) for layer in range(geometry.layers) for head in range(geometry.heads)]
    order = [heads[index] for index in torch.randperm(len(heads), generator=generator).tolist()]
    if name == "gains":
        values = 2 * torch.rand(1, geometry.layers, geometry.heads, generator=generator)
        return {"head_map": HeadMap(values, geometry, "gain")}
    learned = _learned(name, model, geometry, generator)
    if learned:
        return learned
    if name == "allpath":  # 40 of each among 1024 heads
        count = max(1, round(len(heads) * 40 / 1024))
        return {"suppressed": tuple(order[:count]), "boosted": tuple(order[count : 2 * count])}
    if name == "adhh":  # 20 of 1024
        return {"heads": tuple(order[: max(1, round(len(heads) * 20 / 1024))])}
    if name == "icd":
        return {"prefix": tuple(range(5, 23))}
    if name == "var":
        return {"dimensions": (0, 1), "tau": 1.0, "rho": 0.2, "minimum": 0.0}
    return {}


def _learned(
    name: str, model: Any, geometry: Geometry, generator: torch.Generator
) -> dict[str, Any]:
    """What a method learns from a model, made up; nothing for one that learns nothing."""
    width, layers = model.get_input_embeddings().weight.shape[-1], geometry.layers

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    if name == "vti":
        return {"directions": Learned(name, {"directions": random(layers, width)}, geometry)}
    if name == "vti-visual":
        config: Any = model.config.vision_config
        positions = (config.image_size // config.patch_size) ** 2 + 1
        values = {"directions": random(config.num_hidden_layers, positions, config.hidden_size)}
        return {"directions": Learned(name, values, geometry)}
    if name == "offsets":  # 48 of 1,024 heads
        values = {
            "offsets": random(layers, geometry.heads, head_width(examine(model))) / 100,
            "scores": random(layers, geometry.heads),
            "count": torch.tensor([max(1, round(layers * geometry.heads * 48 / 1024))]),
            "everywhere": torch.tensor([False]),
        }
        return {"learned": Learned(name, values, geometry)}
    if name == "nullu":
        basis = torch.linalg.qr(random(layers, width, 4)).Q
        return {"basis": Learned(name, {"basis": basis}, geometry)}
    if name == "revis":
        values = {
            "vectors": random(2, layers, width),
            "thresholds": torch.zeros(2, layers),
            "layers": torch.full((2,), layers - 2),
        }
        return {"learned": Learned(name, values, geometry)}
    if name == "pti":
        config = examine(model).decoder.config
        heads = config.num_key_value_heads
        size = getattr(config, "head_dim", None) or width // config.num_attention_heads
        values = {
            f"{kind}_{part}": random(layers, heads, size)
            for kind in ("image", "text")
            for part in ("keys", "values")
        }
        return {"directions": Learned(name, values, geometry)}
    if name == "adaiat":  # its gate is always open
        real = torch.ones(layers, geometry.heads)
        return {"tables": Learned(name, {"real": real, "hallucinated": real / 2}, geometry)}
    if name == "havae":
        ratios = torch.rand(layers, geometry.heads, generator=generator)
        return {"ratios": Learned(name, {"nhar": ratios}, geometry)}
    if name == "cicd":
        side = model.config.vision_config.image_size
        return {"pool": Learned(name, {"pixels": random(4, 3, side, side)}, geometry), "tau": 0.0}
    return {}


def cases(model: Any, names: list[str] | None) -> dict[str, Plugin]:
    """The plugins to time, by label; all that are installed where no names are given."""
    chosen: dict[str, Plugin] = {}
    for label in names or sorted([*list_plugins(), *VARIANTS]):
        name, more = VARIANTS.get(label, (label, {}))
        chosen[label] = get_plugin(name)(**options(name, model) | more)
    return chosen


def targets(label: str, device: str, batch: int) -> dict[str, float]:
    """What a method may cost at most, for each figure that has a target."""
    kind = next((kind for kind, names in KINDS.items() if label in names.split()), "other")
    found: dict[str, float] = {}
    if device == "cuda" or batch == 1:
        if kind in DECODE[device]:
            many = kind == "contrast" and batch > 1
            found["decode"] = MANY if many else DECODE[device][kind]
        if label in PREFILL:
            found["prefill"] = PREFILL[label]
    if kind != "contrast":
        found["memory"] = min(MEMORY.get(label, 9.0), OTHER_MEMORY[device])
    return found


def import_seconds(code: str, repeats: int = 5) -> float:
    """Median processor seconds of an interpreter that runs `code`, less those of an empty one."""

    def once(text: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", text], check=True, capture_output=True)
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])

    return statistics.median(once(code) - once("pass") for _ in range(repeats))


FIGURES = ("prefill", "decode", "whole", "memory")


def show(console: Console, bench: Bench, ratios: dict[str, dict[str, Any]]) -> None:
    """Print the table of a model, with the target beside each figure that has one."""
    table = Table(title=f"{bench.name}: ratio to plain generate (at most); * is missed")
    table.add_column("plugin")
    for figure in FIGURES:
        table.add_column(figure, justify="right")
    device, batch = bench.model.device.type, len(bench.inputs["input_ids"])
    for label, values in ratios.items():
        limits = targets(label, device, batch)
        cells = []
        for figure in FIGURES:
            value, limit = values.get(figure), limits.get(figure)
            if value is None:
                cells.append("-")
                continue
            missed = "" if limit is None else f" ({limit:.2f}){'*' if value > limit else ' '}"
            cells.append(f"{value:.3f}{missed}")
        table.add_row(label, *cells)
    console.print(table)
    for label, values in ratios.items():
        if "refused" in values:
            console.print(f"{label}: {values['refused']}")


def time_rival(folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the other library in an environment of its own, against plain generate() there."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "rival.json")
        command = ["--model", folder, "--pairs", str(arguments.rounds), "--out", str(out)]
        command += ["--threads", str(arguments.threads)]
        if arguments.environment is not None:
            command += ["--environment", str(arguments.environment)]
        if arguments.rival:
            command += ["--methods", *arguments.rival]
        if arguments.benches:
            known = {name.partition("-")[0] for name in arguments.benches}
            command += ["--benches", *(name for name in rival.BENCHES if name in known)]
        code = rival.start(rival.parser().parse_args(command))
        if code:
            raise SystemExit(f"benchmarks/rival.py ended with {code}")
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plugins", nargs="*", help=f"names, or {', '.join(VARIANTS)}; else all")
    parser.add_argument("--benches", nargs="*", help="such as embedded-1; all by default")
    parser.add_argument("--rounds", type=int, default=4, help="times that each plugin is run")
    parser.add_argument("--new-tokens", type=int, help="tokens of a run; by default the model's")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--embedded", default="embedded", help="the test-bench model, or a folder")
    parser.add_argument(
        "--rival", nargs="*", choices=rival.METHODS, help="methods of mitigv to time, too; else all"
    )
    parser.add_argument("--environment", type=Path, help="where mitigv is, or is to be installed")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, after each three")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    result: dict[str, Any] = {
        "versions": {
            "vlmheads": vlmheads.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "device": device or platform.machine(),
            "threads": arguments.threads,
            "load": os.getloadavg()[0],  # others that wanted the processor when it began
        },
        "rounds": arguments.rounds,
        "import": {what: import_seconds(code) for what, code in IMPORTS.items()},
        "ratios": {},
    }

    def keep() -> None:
        if arguments.out is not None:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(result, indent=1))

    console = Console()
    for what, value in result["import"].items():
        console.print(
            f"{what}: {value * 1000:.0f} ms of processor time beyond an empty interpreter"
        )
    for key, build in benches(arguments.embedded).items():
        if arguments.benches and key not in arguments.benches:
            continue
        bench = build()
        if arguments.new_tokens is not None:
            bench = replace(bench, new_tokens=arguments.new_tokens)
        chosen = cases(bench.model, arguments.plugins)

        def done(found: dict[str, Any], name: str = bench.name) -> None:
            result["ratios"][name] = found
            keep()

        show(console, bench, compare(bench, chosen, arguments.rounds, done=done))
    if arguments.rival is not None:
        folder = arguments.embedded
        if folder == "embedded":
            from vlmheads_testbed import embedded_model

            folder = str(embedded_model())
        result["rival"] = time_rival(folder, arguments)
        keep()


if __name__ == "__main__":
    main()
