"""A sweep from one YAML file: models x tasks x runs, each predicted, scored and compared."""

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from vlmheads.errors import VlmHeadsError
from vlmheads.printable import printable
from vlmheads.schema import read_text, yaml_text
from vlmheads_eval.chair.mentions import VARIANTS
from vlmheads_eval.data import TASKS


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

    Raises VlmHeadsError for anything else, unknown fields, no run, duplicate names, or a name of a
    run or model that would leave its folder.
    """
    path, shipped = Path(spec), shipped_specs()
    if path.is_file():
        text = read_text(path, "a spec")
    elif spec in shipped:
        text = shipped[spec]
    else:
        raise VlmHeadsError(f"no spec {spec}", f"a YAML file or one of {', '.join(shipped)}")
    found: _Spec = yaml_text(text, _Spec, spec, "a spec; see docs/evaluation.md")
    runs = tuple(run for entry in found.runs for run in _runs(spec, entry))
    names = [run.name for run in runs]
    if len(set(names)) != len(names):
        raise VlmHeadsError(f"{spec}: runs {names}", "distinct names")
    given: dict[str, Any] = {
        name: getattr(found, name) for name in found.__struct_fields__ if name != "runs"
    }
    lists = ("data", "models", "tasks", "variants")
    given |= {name: _tuple(given[name]) for name in lists}
    sweep = Sweep(runs, **given)
    for name, known in (("tasks", TASKS), ("variants", VARIANTS), ("models", None)):
        values = getattr(sweep, name)
        wrong = [one for one in values if known and one not in known]
        if wrong or not values or len(set(values)) != len(values):
            expected = f"different ones of {', '.join(known)}" if known else "different models"
            raise VlmHeadsError(f"{spec}: {name} {list(values)}", expected)
    folders = [_folder_name(spec, "model", Path(model).name) for model in sweep.models]
    if len(set(folders)) != len(folders):
        raise VlmHeadsError(f"{spec}: models {list(sweep.models)}", "names that differ at the end")
    return sweep


NAMES = "a name that can be a folder, other than data or report-*"
Number = Annotated[int, msgspec.Meta(ge=1)]


class _Run(msgspec.Struct, forbid_unknown_fields=True):
    """One entry of the runs of a spec."""

    name: str
    plugins: str | list[str] = []
    control: Literal["random-heads", "text-only"] | None = None
    draws: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1


class _Spec(msgspec.Struct, forbid_unknown_fields=True):
    """The form of a spec; see `Sweep`."""

    runs: Annotated[list[_Run], msgspec.Meta(min_length=1)]
    data: str | list[str] = "testbed:test"
    images: str | None = None
    models: str | list[str] = "embedded"
    tasks: str | list[str] = "caption"
    num: Number | None = None
    ids: str | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    prompt: str | None = None
    max_new_tokens: Number = 512
    batch_size: Number = 8
    dtype: str = "auto"
    variants: str | list[str] = "pattern"
    parser: str = "strict"
    about: str = ""


def _runs(spec: str, entry: _Run) -> list[SweepRun]:
    name, plugins = _folder_name(spec, "run", entry.name), _tuple(entry.plugins)
    return [
        SweepRun(name if entry.draws == 1 else f"{name}-{n}", plugins, entry.control, n)
        for n in range(entry.draws)
    ]


def _folder_name(spec: str, kind: str, name: str) -> str:
    """Return a name that becomes a folder, or refuse one that leads elsewhere."""
    taken = name in ("", ".", "..", "data") or name.startswith("report-")
    if taken or len(name.encode()) > 100 or set(name) & set("/\\\0") or name != printable(name):
        raise VlmHeadsError(
            f"{spec}: {kind} {name[:120]!r}",
            "a name that can be a folder: no /, .., data, report-*",
        )
    return name


def _tuple(value: str | list[str]) -> tuple[str, ...]:
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
