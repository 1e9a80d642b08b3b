from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import torch

from vlmheads_testbed.geometry import Geometry, build_model
from vlmheads_testbed.measure import figures, head_divergence, specialisation
from vlmheads_testbed.processing import build_processor
from vlmheads_testbed.stages import (
    Learner,
    Recipe,
    Stage,
    free_heads,
    stage_losses,
    trained,
)

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One training run: where it writes, its seed, geometry and recipe, and how often it saves."""

    out: Path
    seed: int = 0
    geometry: Geometry = field(default_factory=Geometry)
    recipe: Recipe = field(default_factory=Recipe)
    compiled: bool = True
    save_every: int = 100
    measure_every: int = 250
    scenes: int = 64


def train(run: Run) -> Path:
    """Train the model in its four stages, or go on where a stopped run left off.

    ``run.out`` gets state.pt (weights, optimizer, stage and step), log.jsonl with every figure,
    and model/, the folder that transformers loads. A resumed run ends with the weights of an
    uninterrupted one: each batch follows from the seed and the step alone.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.seed)
    processor = build_processor()
    learner = Learner(build_model(run.geometry, processor.tokenizer))
    state = _load(run, learner)
    for number, stage in enumerate(run.recipe.stages):
        if number >= state["stage"]:
            _train_stage(run, learner, processor, stage, number, state)
            state = {"stage": number + 1, "step": 0, "optimizer": None}
            _save(run, learner, state)
            _measure(run, learner, processor, stage.name, stage.steps)
    return save_model(learner, processor, run.out / "model")


def save_model(learner: Learner, processor: Any, folder: Path) -> Path:
    """Write model and processor with ``save_pretrained``: float16 on disk, float32 when loaded."""
    kept = {name: value.clone() for name, value in learner.model.state_dict().items()}
    model: Any = learner.model
    model.half()
    model.save_pretrained(folder)
    model.float().load_state_dict(kept)
    processor.save_pretrained(folder)
    # Half precision halves the package; computing in it would be slow on a CPU and inexact.
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


def _train_stage(
    run: Run, learner: Learner, processor: Any, stage: Stage, number: int, state: dict[str, Any]
) -> None:
    if stage.name == "heads" and state["step"] == 0:
        free_heads(learner, run.recipe.visual_heads, run.seed)
    chosen = trained(learner, stage, run.recipe.visual_heads, run.seed)
    learner.requires_grad_(False)
    for one in chosen:
        one.parameter.requires_grad_(True)
    parameters = [one.parameter for one in chosen]
    # Decay would move the heads that a mask keeps, so that such stages go without.
    decay = 0.0 if any(one.mask is not None for one in chosen) else 0.05
    optimizer = torch.optim.AdamW(parameters, stage.rate, (0.9, 0.98), weight_decay=decay)
    if state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    losses = stage_losses(learner, processor.tokenizer, stage, run.seed, run.compiled)
    learner.train()
    started, total = time.monotonic(), 0.0
    for step in range(state["step"], stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.rate_at(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=run.compiled):
            loss = losses(step)
        torch.autograd.backward(loss)
        for one in chosen:
            if one.mask is not None and one.parameter.grad is not None:
                one.parameter.grad.mul_(one.mask)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        done = step + 1
        if done % 25 == 0:
            pace = (time.monotonic() - started) / (done - state["step"])
            _log(run, stage=stage.name, step=done, loss=total / 25, seconds_a_step=pace)
            total = 0.0
        if done % run.save_every == 0 and done < stage.steps:
            now = {"stage": number, "step": done, "optimizer": optimizer.state_dict()}
            _save(run, learner, now)
        if done % run.measure_every == 0 and done < stage.steps:
            _measure(run, learner, processor, stage.name, done)


def _measure(run: Run, learner: Learner, processor: Any, stage: str, step: int) -> None:
    if stage not in ("heads", "whole") or not run.scenes:
        return
    learner.eval()
    for split in ("val", "counterfactual"):
        found = figures(learner.model, processor, split, run.scenes)
        _log(run, stage=stage, step=step, split=split, **asdict(found))
    divergence = head_divergence(learner.model, processor, "val", run.scenes)
    _log(run, stage=stage, step=step, specialisation=specialisation(divergence))
    save_model(learner, processor, run.out / f"model-{stage}-{step}")
    learner.train()


def _log(run: Run, **entry: Any) -> None:
    rounded = {key: _rounded(value) for key, value in entry.items()}
    LOG.info("%s", rounded)
    with (run.out / "log.jsonl").open("a") as file:
        file.write(json.dumps(rounded) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def _save(run: Run, learner: Learner, state: dict[str, Any]) -> None:
    path = run.out / "state.pt"
    torch.save({**state, "learner": learner.state_dict()}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)  # a kill leaves the old state or the new one


def _load(run: Run, learner: Learner) -> dict[str, Any]:
    path = run.out / "state.pt"
    if not path.exists():
        return {"stage": 0, "step": 0, "optimizer": None}
    state: dict[str, Any] = torch.load(path, weights_only=True)
    learner.load_state_dict(state.pop("learner"))
    return state


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(out: Path, seed: int) -> None:
    """Train the embedded model into OUT/model; run it again to resume."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    click.echo(train(Run(out, seed)))


if __name__ == "__main__":
    main()
