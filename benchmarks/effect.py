"""What every plugin does to a model's captions, against plain, random heads, no image and cutting.

Run: python benchmarks/effect.py --out out/effect       # can be stopped and started again
     python benchmarks/effect.py --out out/effect --report docs/effect.md
Every plugin at its default and at three strengths (effect_settings.py) captions the same scenes;
all are scored and compared by vlmheads_eval. --strengths, --random and --grid say how much of it.
What a plugin has to learn, it learns from train scenes and from counterfactual scenes of another
seed (effect_needs.py).
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from effect_needs import TOKENS as LEARN_TOKENS
from effect_settings import DRAWS, EVERYTHING, Scope, Setting, settings

from vlmheads.errors import VlmHeadsError

SPLITS = ("test", "counterfactual")
LEARNED = {"train": 1, "counterfactual": 1000}  # Split -> seed of scenes to learn from.
LEARNED_NUM = 400
TOKENS = 96


@dataclass(frozen=True)
class Plan:
    """What a run of the benchmark is about; the same for all of its processes."""

    out: Path
    model: str
    splits: tuple[str, ...]
    num: int
    seed: int
    batch_size: int
    scope: Scope = EVERYTHING
    prompt: str | None = None
    tokens: int = TOKENS

    def scenes(self, split: str, num: int, seed: int) -> Path:
        """A folder with scenes, made if it is not there; a split may be a COCO folder itself."""
        if Path(split).is_dir():
            return Path(split)
        from vlmheads_testbed.coco import write_dataset

        folder = self.out / "data" / f"{split}-{num}-{seed}"
        if not (folder / "captions.json").is_file():  # Written last.
            write_dataset(folder, split, num, seed)
        return folder

    def data(self, split: str) -> Path:
        return self.scenes(split, self.num, self.seed)

    def run(self, split: str, setting: Setting) -> Path:
        return self.out / Path(split).name / setting.name


def load(plan: Plan) -> Any:
    """The plain captioner, on one thread."""
    import torch

    import vlmheads
    from vlmheads.commands.show import quiet_loading

    torch.set_num_threads(1)
    quiet_loading(plan.model)
    return vlmheads.Captioner.from_pretrained(plan.model, ())


def work(plan: Plan, needs: dict[str, str], number: int, processes: int) -> None:
    """Go through all runs, from another start in each process, and do those that nobody does.

    It ends with the run at hand where the process that started it was killed.
    """
    captioner = load(plan)
    parent = multiprocessing.parent_process()
    todo = [(split, one) for one in settings(needs, plan.scope) for split in plan.splits]
    start = len(todo) * number // processes
    for split, setting in todo[start:] + todo[:start]:
        if parent is not None and not parent.is_alive():
            return
        with claimed(plan.out / "claims" / f"{Path(split).name} {setting.name}") as mine:
            if mine:
                caption(plan, captioner, split, setting)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process alone does what the path stands for, until the end of the block."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def caption(plan: Plan, captioner: Any, split: str, setting: Setting) -> None:
    """Caption a split under a setting, as far as it is not done, and note the time that it took."""
    from vlmheads_eval import run_folder
    from vlmheads_eval.data import load_material
    from vlmheads_eval.predict import model as generation
    from vlmheads_eval.predict.run import predict
    from vlmheads_eval.records import file_sha256

    from vlmheads.images import read_image
    from vlmheads.jobs.lines import repair
    from vlmheads.model.fingerprint import model_fingerprint
    from vlmheads.registry import resolve
    from vlmheads.runtime.attachment import attach

    run = plan.run(split, setting)
    if setting.text is None:
        return
    folder = plan.data(split)
    num = plan.num if Path(split).is_dir() else None
    material = load_material(
        [str(folder)],
        "caption",
        workspace=plan.out,
        num=num,
        seed=plan.seed,
        prompt=plan.prompt,
    )
    chosen = (setting.text,) if setting.text else ()
    try:
        plugins = resolve(chosen)
        if plugins:
            attach(captioner.model, plugins).detach()
    except VlmHeadsError as error:
        run.mkdir(parents=True, exist_ok=True)
        (run / "refused").write_text(f"{error}\n")
        return
    config = {
        "task": "caption",
        "data": [split],
        "data_sha256": {path.name: file_sha256(path) for path in material.ground_truth},
        "ground_truth": [
            run_folder.relative_to_run(path, run, plan.out) for path in material.ground_truth
        ],
        "model": plan.model,
        "model_files": model_fingerprint(plan.model),
        "plugins": generation.describe_plugins(chosen),
        "control": "text-only" if setting.kind == "no image" else None,
        "prompt": plan.prompt,
        "max_new_tokens": plan.tokens,
        "versions": generation.versions(),
        "samples": [sample.key for sample in material.samples],
    }
    repair(run / run_folder.PREDICTIONS)  # A process may have been killed in a line.
    before = len(run_folder.done(run))
    if before == len(material.samples):
        return
    captioner.plugins = plugins
    describe = generation.Generator(captioner, plan.tokens, text_only=setting.kind == "no image")
    wall, cpu = time.monotonic(), time.process_time()
    try:
        predict(
            run, config, material.samples, describe, read=read_image, batch_size=plan.batch_size
        )
    finally:
        spent = {
            "captions": len(run_folder.done(run)) - before,
            "wall": time.monotonic() - wall,
            "cpu": time.process_time() - cpu,
        }
        with (run / "times.jsonl").open("a") as file:
            file.write(json.dumps(spent) + "\n")


def measured(plan: Plan, needs: dict[str, str], variant: str, draws: int) -> dict[str, Any]:
    """Score and compare all that is done; see effect_scores.py."""
    from effect_scores import compared
    from vlmheads_eval.predict.model import versions

    rows = list(settings(needs, plan.scope))
    splits = {}
    for split in plan.splits:
        runs = {one: plan.run(split, one) for one in rows}
        splits[Path(split).name] = compared(runs, variant, draws, plan.seed)
    return {
        "model": plan.model,
        "num": plan.num,
        "seed": plan.seed,
        "prompt": plan.prompt,
        "max_new_tokens": plan.tokens,
        "batch_size": plan.batch_size,
        "variant": variant,
        "draws": draws,
        "learned from": {"scenes of each": LEARNED_NUM, "split and seed": LEARNED},
        "versions": versions(),
        "machine": f"{platform.machine()}, {multiprocessing.cpu_count()} cores",
        "splits": splits,
    }


def run_all(
    plan: Plan, processes: int, sources: Sequence[Path], method: Any, learn_tokens: int
) -> dict[str, str]:
    """Learn what has to be learned, then caption on several processes."""
    from effect_needs import learn, learned

    for split in plan.splits:
        plan.data(split)
    home = plan.out / "needs"
    if not (home / "needs.json").is_file():
        scenes = LEARNED.items() if not sources else ()
        made = [plan.scenes(split, LEARNED_NUM, seed) for split, seed in scenes]
        learn(
            load(plan),
            list(sources) or made,
            home,
            draws=DRAWS,
            method=method,
            prompt=plan.prompt,
            tokens=learn_tokens,
        )
    needs = learned(home, draws=DRAWS)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(plan, needs, number, processes))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise click.ClickException("a process failed; what is done is kept, start again to go on")
    return needs


def rounded(value: Any) -> Any:
    """Plain data with six decimals, which is more than any table shows."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="out/effect", show_default=True)
@click.option("--model", default="embedded", show_default=True, help="A folder or hub id.")
@click.option("--plugins", help="Just these, separated by commas.")
@click.option(
    "--strengths", default=4, show_default=True, help="Of each plugin, its default first."
)
@click.option("--random", "random_draws", default=DRAWS, show_default=True, help="Random heads.")
@click.option("--grid", is_flag=True, help="VHR at four factors in three choices of layers.")
@click.option("--also", multiple=True, help="A further setting, such as var:tau=15.")
@click.option("--prompt", help="What to ask; default: the evaluator's prompt for captions.")
@click.option("--tokens", default=TOKENS, show_default=True, help="Of a caption, at most.")
@click.option(
    "--split", "splits", multiple=True, default=SPLITS, show_default=True,
    help="A split of the test bench, or a COCO folder.",
)  # fmt: skip
@click.option(
    "--learn", "sources", multiple=True, type=click.Path(exists=True, path_type=Path),
    help="COCO folders that heads and directions are learned from, in place of scenes.",
)  # fmt: skip
@click.option(
    "--rank", type=click.Choice(["ablation", "gradient"]), default="ablation", show_default=True,
    help="How heads are ranked for adhh and allpath; ablation takes a pass a head.",
)  # fmt: skip
@click.option("--learn-tokens", default=LEARN_TOKENS, show_default=True, help="Of captions for it.")
@click.option("--num", default=500, show_default=True, help="Images of each split.")
@click.option("--seed", default=0, show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--batch-size", default=100, show_default=True)
@click.option("--variant", default="pattern", show_default=True)
@click.option("--draws", default=10_000, show_default=True, help="Of the bootstrap.")
@click.option("--report", type=click.Path(path_type=Path), help="Write this document; run nothing.")
def main(
    out: Path,
    model: str,
    plugins: str | None,
    strengths: int,
    random_draws: int,
    grid: bool,
    also: tuple[str, ...],
    prompt: str | None,
    tokens: int,
    splits: Sequence[str],
    sources: tuple[Path, ...],
    rank: str,
    learn_tokens: int,
    num: int,
    seed: int,
    processes: int,
    batch_size: int,
    variant: str,
    draws: int,
    report: Path | None,
) -> None:
    """Caption, score and compare; write OUT/effect.json, or the document from it."""
    if report is not None:
        from effect_report import write

        for path in write(json.loads((out / "effect.json").read_bytes()), report):
            click.echo(path)
        return
    chosen = tuple(plugins.split(",")) if plugins else ()
    scope = Scope(chosen, strengths, random_draws, grid, also)
    plan = Plan(out, model, tuple(splits), num, seed, batch_size, scope, prompt, tokens)
    started = time.monotonic()
    needs = run_all(plan, processes, sources, rank, learn_tokens)
    result = measured(plan, needs, variant, draws)
    result["learned from"]["heads ranked by"] = rank
    if sources:
        result["learned from"] = {
            "folders": [source.name for source in sources],
            "heads ranked by": rank,
        }
    (out / "effect.json").write_text(json.dumps(rounded(result), separators=(",", ":")) + "\n")
    click.echo(f"{out / 'effect.json'} after {(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
