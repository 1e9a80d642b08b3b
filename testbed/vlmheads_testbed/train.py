from __future__ import annotations

import json
import logging
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from vlmheads.errors import VlmHeadsError
from vlmheads_testbed.geometry import Geometry, build_model
from vlmheads_testbed.measure import figures, head_divergence, specialisation
from vlmheads_testbed.processing import build_processor
from vlmheads_testbed.stages import Learner, Stage, StageData, batches, recipe, trained

LOG = logging.getLogger(__name__)

#: Kept of the minutes for the measurement at the end.
MEASURING_SECONDS = 12.0


@dataclass(frozen=True)
class Run:
    """One training run: where it writes, its seed, geometry, stages, device and time.

    Stages without a number of steps share ``minutes``: each counts its steps by its pace during the
    second half of its rise, and the log tells them. ``halved`` computes in bfloat16 where that is
    safe. ``scenes`` of each split are measured at the
    end, none where it is 0.
    """

    out: Path
    stages: tuple[Stage, ...]
    minutes: float
    seed: int = 0
    geometry: Geometry = Geometry()
    device: str = "cpu"
    workers: int = 0
    compiled: bool = True
    halved: bool = True
    save_seconds: float = 15.0
    scenes: int = 256


@dataclass
class State:
    """How far a run is: its stage by number, the steps done of it and in all, and the time."""

    stage: int = 0
    step: int = 0
    steps: int | None = None
    seconds: float = 0.0
    optimizer: dict[str, Any] | None = None


def train(run: Run) -> Path:
    """Train the model in its stages, or go on where a stopped run left off.

    ``run.out`` gets state.pt (weights, optimizer, stage and step), log.jsonl with every figure,
    and model/, the folder that transformers loads, as soon as captions are trained. Each batch
    follows from the seed and the step alone.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.seed)
    processor = build_processor()
    learner = Learner(build_model(run.geometry, processor.tokenizer))
    state = _load(run, learner)
    learner.to(run.device)
    if run.compiled:
        language, vision = learner.model.model.language_model, learner.model.model.vision_tower
        for layer in (*language.layers, *vision.encoder.layers):
            layer.compile(dynamic=False)
    for number in range(state.stage, len(run.stages)):
        state.stage = number
        _train_stage(run, learner, processor, state)
        _log(run, stage=run.stages[number].name, done=True, seconds=state.seconds)
        state = State(number + 1, seconds=state.seconds)
        _save(run, learner, processor, state)
    folder = save_model(learner, processor, run.out / "model")
    _measure(run, folder)
    return folder


def save_model(learner: Learner, processor: Any, folder: Path) -> Path:
    """Write model and processor with ``save_pretrained``: float16 on disk, float32 when loaded.

    The tower's weights are named as in published checkpoints, which every server reads.
    """
    from safetensors.torch import load_file, save_file

    model: Any = learner.model
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    halves = {name: value.detach().half().cpu() for name, value in model.state_dict().items()}
    del halves["lm_head.weight"]  # tied to the embeddings
    model.save_pretrained(new, state_dict=halves)
    processor.save_pretrained(new)
    tower, published = "vision_tower.", "vision_tower.vision_model."
    path = new / "model.safetensors"
    weights = {
        name if name.startswith(published) else name.replace(tower, published): value
        for name, value in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})
    # Half precision halves the package; computing in it would be slow on a CPU and inexact.
    path = new / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    return new.rename(folder)


def _train_stage(run: Run, learner: Learner, processor: Any, state: State) -> None:
    stage = run.stages[state.stage]
    parameters = trained(learner, stage.name)
    learner.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        parameters, stage.rate, (0.9, 0.98), weight_decay=0.05, fused=run.device == "cuda"
    )
    if state.optimizer is not None:
        optimizer.load_state_dict(state.optimizer)
    steps = stage.steps or state.steps
    data = StageData(processor.tokenizer, stage, run.seed)
    learner.train()
    started = saved = time.monotonic()
    counted, since = started, state.step
    before, total, waited = state.seconds, torch.zeros((), device=run.device), 0.0
    ahead = batches(data, state.step, run.workers, run.device)
    while steps is None or state.step < steps:
        at = time.monotonic()
        batch = next(ahead)
        waited += time.monotonic() - at
        for group in optimizer.param_groups:
            group["lr"] = stage.rate_at(state.step, steps or stage.rise)
        with torch.autocast(run.device, torch.bfloat16, enabled=run.halved):
            loss = learner.loss(stage.name, batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.detach()
        state.step += 1
        if state.step % 50 == 0 or state.step in (stage.rise // 2, stage.rise):
            mean, now = float(total) / 50, time.monotonic()  # waits for the device
            state.seconds = before + now - started
            if state.step == stage.rise // 2:
                counted, since = now, state.step
            if steps is None and state.step == stage.rise:
                pace = (now - counted) / (state.step - since)
                steps = state.steps = _steps(run, state, now - started, pace)
                _log(run, stage=stage.name, steps=steps, seconds_a_step=pace)
            if state.step % 50 == 0:
                _log(run, stage=stage.name, step=state.step, loss=mean, waited=waited,
                     seconds=state.seconds)  # fmt: skip
                total.zero_()
        if time.monotonic() - saved >= run.save_seconds and state.step != steps:
            state.optimizer = optimizer.state_dict()
            state.seconds = before + time.monotonic() - started
            _save(run, learner, processor, state)
            saved = time.monotonic()
    state.seconds = before + time.monotonic() - started


def _steps(run: Run, state: State, used: float, pace: float) -> int:
    """Count the steps of the stage: its share of the time that was left when it began."""
    open_ = [stage for stage in run.stages[state.stage :] if stage.steps is None]
    left = 60 * run.minutes - MEASURING_SECONDS - (state.seconds - used)
    share = left * open_[0].share / sum(stage.share for stage in open_)
    return max(state.step + 1, state.step + int((share - used) / pace))


def _measure(run: Run, folder: Path) -> None:
    """Log what the saved model does, half precision included."""
    if not run.scenes:
        return
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model: Any = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
    model.to(run.device).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    for split in ("val", "counterfactual"):
        found = figures(model, processor, split, run.scenes)
        _log(run, split=split, scenes=run.scenes, **asdict(found))
    divergence = head_divergence(model, processor, "val", min(64, run.scenes))
    _log(run, specialisation=specialisation(divergence))


def _log(run: Run, **entry: Any) -> None:
    rounded = {key: _rounded(value) for key, value in entry.items()}
    LOG.info("%s", rounded)
    with (run.out / "log.jsonl").open("a") as file:
        file.write(json.dumps(rounded) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def _save(run: Run, learner: Learner, processor: Any, state: State) -> None:
    path = run.out / "state.pt"
    torch.save({**vars(state), "learner": learner.state_dict()}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)  # a kill leaves the old state or the new one
    if state.stage >= len(run.stages) - 1:
        save_model(learner, processor, run.out / "model")


def _load(run: Run, learner: Learner) -> State:
    path = run.out / "state.pt"
    if not path.exists():
        return State()
    saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    learner.load_state_dict(saved.pop("learner"))
    return State(**saved)


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True)
@click.option("--minutes", default=240.0, show_default=True, help="Shared by the stages.")
@click.option("--steps", help="Steps of the four stages instead, as in 2000,300,1500,5000.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU if any.")
@click.option("--batch", type=int, help="Pictures; default: 128 on a GPU, 16 without.")
@click.option("--workers", type=int, help="Processes that draw; default: all but one core.")
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True)
def main(
    out: Path,
    seed: int,
    minutes: float,
    steps: str | None,
    device: str | None,
    batch: int | None,
    workers: int | None,
    compiled: bool,
) -> None:
    """Train the embedded model into OUT/model; run it again to resume."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes that draw are forks
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    stages = recipe(batch or (128 if device == "cuda" else 16))
    if steps is not None:
        stages = _with_steps(stages, steps)
    if workers is None:
        workers = max(1, (os.cpu_count() or 2) - 1) if device == "cuda" else 0
    if device == "cpu":
        torch.set_num_threads(1)
    click.echo(train(Run(out, stages, minutes, seed, Geometry(), device, workers, compiled)))


def _with_steps(stages: tuple[Stage, ...], steps: str) -> tuple[Stage, ...]:
    """Fix the steps; the rates are then those of a run that counted as many by its pace."""
    numbers = steps.split(",")
    if len(numbers) != len(stages) or not all(number.isdigit() for number in numbers):
        raise VlmHeadsError(
            f"--steps {steps}", f"{len(stages)} numbers with commas between", "Give one a stage."
        )
    return tuple(
        replace(stage, steps=int(number), rise=min(stage.rise, max(1, int(number))))
        for stage, number in zip(stages, numbers, strict=True)
    )


if __name__ == "__main__":
    main()
