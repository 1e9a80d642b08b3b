"""A sweep from one YAML file: models x tasks x runs, each predicted, scored and compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError

RUN_KEYS = {"name", "plugins", "control", "draws"}


@dataclass(frozen=True)
class SweepRun:
    """One row of the table: a name, its plugins, and an optional control.

    Args:
        name: as shown in tables; the first run of a sweep is the baseline.
        plugins: such as ["vhr:alpha=2.0"].
        control: "random-heads" or "text-only".
        control_seed: for the random heads.
    """

    name: str
    plugins: tuple[str, ...] = ()
    control: str | None = None
    control_seed: int = 0


@dataclass(frozen=True)
class Sweep:
    """The content of a spec; see docs/evaluation.md for the fields."""

    runs: tuple[SweepRun, ...]
    data: tuple[str, ...] = ("testbed:test",)
    images: str | None = None
    models: tuple[str, ...] = ("embedded",)
    tasks: tuple[str, ...] = ("caption",)
    num: int | None = None
    ids: str | None = None
    seed: int = 0
    prompt: str | None = None
    max_new_tokens: int = 512
    batch_size: int = 8
    dtype: str = "auto"
    variants: tuple[str, ...] = ("pattern",)
    parser: str = "strict"
    about: str = field(default="")


def shipped_specs() -> dict[str, str]:
    """Return name -> text of the specs shipped with the package."""
    folder = files("vlmheads_eval") / "specs"
    return {
        entry.name.removesuffix(".yaml"): entry.read_text("utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    }


def read_sweep(spec: str) -> Sweep:
    """Read a spec: a YAML file, or the name of a shipped one.

    Raises VlmHeadsError for anything else, unknown fields, no run, or duplicate names.
    """
    import yaml

    path, shipped = Path(spec), shipped_specs()
    if path.is_file():
        text = path.read_text("utf-8")
    elif spec in shipped:
        text = shipped[spec]
    else:
        raise VlmHeadsError(f"no spec {spec}", f"a YAML file or one of {', '.join(shipped)}")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise VlmHeadsError(f"{spec}: {' '.join(str(error).split())}", "YAML") from error
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise VlmHeadsError(f"{spec} has no list of runs", "a mapping with runs")
    runs = tuple(run for entry in content.pop("runs") for run in _runs(spec, entry))
    known = {entry.name for entry in fields(Sweep)}
    unknown = sorted(set(content) - known)
    if unknown:
        raise VlmHeadsError(f"{spec}: unknown field {unknown[0]!r}", " or ".join(sorted(known)))
    names = [run.name for run in runs]
    if not runs or len(set(names)) != len(names):
        raise VlmHeadsError(f"{spec}: runs {names}", "at least one run, with distinct names")
    lists = ("data", "models", "tasks", "variants")
    plain: dict[str, Any] = {
        key: _tuple(value) if key in lists else value for key, value in content.items()
    }
    return Sweep(runs, **plain)


def _runs(spec: str, entry: Any) -> list[SweepRun]:
    if not isinstance(entry, Mapping) or "name" not in entry or set(entry) - RUN_KEYS:
        raise VlmHeadsError(f"{spec}: run {entry}", f"a mapping of {', '.join(sorted(RUN_KEYS))}")
    draws = entry.get("draws", 1)
    plugins, control = _tuple(entry.get("plugins", ())), entry.get("control")
    return [
        SweepRun(entry["name"] if draws == 1 else f"{entry['name']}-{n}", plugins, control, n)
        for n in range(draws)
    ]


def _tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def run_sweep(sweep: Sweep, out: Path, *, device: str | None = None) -> list[Path]:
    """Predict every unfinished run, compare, report, and return the report folders.

    A run is kept in OUT/model/task/name. Called again, it resumes.
    """
    from vlmheads_eval.compare import compared
    from vlmheads_eval.predict.run import run_prediction
    from vlmheads_eval.report.figures import pictures_of
    from vlmheads_eval.report.page import write_report
    from vlmheads_eval.run_folder import ground_truth_of

    reports = []
    for model in sweep.models:
        for task in sweep.tasks:
            home = out / Path(model).name / task
            for run in sweep.runs:
                run_prediction(
                    data=sweep.data,
                    images=Path(sweep.images) if sweep.images else None,
                    model=model,
                    plugins=run.plugins,
                    control=run.control,
                    control_seed=run.control_seed,
                    task=task,
                    out=home / run.name,
                    num=sweep.num,
                    ids=Path(sweep.ids) if sweep.ids else None,
                    seed=sweep.seed,
                    prompt=sweep.prompt,
                    max_new_tokens=sweep.max_new_tokens,
                    batch_size=sweep.batch_size,
                    retry_failed=False,
                    dtype=sweep.dtype,
                    device=device,
                    workspace=home / "data",
                )
            if task == "amber":
                continue  # AMBER has no report: `vlmheads eval compare` compares its runs.
            for variant in sweep.variants if task == "caption" else ("",):
                result, scores = compared(
                    runs=tuple(home / run.name for run in sweep.runs),
                    ground_truth=(),
                    names=None,
                    task="chair" if task == "caption" else "pope",
                    variant=variant,
                    parser=sweep.parser,
                    draws=10_000,
                    seed=sweep.seed,
                )
                folder = home / f"report-{variant or sweep.parser}"
                truth = ground_truth_of(home / sweep.runs[0].name)
                write_report(folder, result, scores, pictures_of(truth))
                reports.append(folder)
    return reports
