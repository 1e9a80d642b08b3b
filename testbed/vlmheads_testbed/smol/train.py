from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from vlmheads_testbed.smol.batches import batch, word_batch, word_embeddings
from vlmheads_testbed.smol.lora import Rank, add_low_rank
from vlmheads_testbed.smol.network import Learner, build_llava
from vlmheads_testbed.smol.probe import Probe, probe
from vlmheads_testbed.smol.schedule import Schedule
from vlmheads_testbed.smol.state import Position, load_state, position_of, save_state

LOG = logging.getLogger(__name__)

# The projector's stage and the joint one have ten million pictures each.
_PICTURES = {"words": 0, "joint": 10_000_000}


@dataclass(frozen=True)
class Run:
    """One training run: where it writes, its seed, recipe, and how often it saves and measures.

    The projector first learns alone to write patches as the embeddings of their words
    (``word_steps`` of ``word_batch``), then it and the low-rank updates learn to answer. ``mixed``
    keeps the frozen side in bfloat16 and computes under autocast. ``start`` holds values to begin
    with in place of the words' stage, and ``skip`` the steps whose pictures those have seen.
    """

    out: Path
    seed: int = 0
    schedule: Schedule = field(default_factory=lambda: Schedule(2000, 1e-3))
    size: int = 4
    rank: Rank = field(default_factory=Rank)
    word_steps: int = 400
    word_size: int = 48
    word_rate: float = 2e-3
    compiled: bool = True
    mixed: bool = False
    start: Mapping[str, torch.Tensor] | None = None
    skip: int = 0
    device: str = "cpu"
    save_every: int = 20
    log_every: int = 10
    measure_every: int = 250
    scenes: int = 40


def train(run: Run, decoder: Any, vision_tower: Any, processor: Any) -> dict[str, torch.Tensor]:
    """Train projector and low-rank updates, or go on where a stopped run left off.

    ``run.out`` gets trunk.pt (the last state before the fall of the rate), fall.pt (the last one
    in it), and log.jsonl with every figure. Each batch follows from the seed and the step alone,
    so that a resumed run ends like an uninterrupted one; a run with more steps goes on from
    trunk.pt. Decoder and tower are changed and stay frozen: give each run its own.

    Returns:
        what was trained, by name: the projector's weights and each update's two factors.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.seed)
    model = build_llava(decoder, vision_tower, processor.tokenizer)
    model.requires_grad_(False)
    if run.mixed:  # the frozen side in half the precision, what is trained in full
        for parameter in decoder.parameters():
            parameter.data = parameter.data.bfloat16()
    if run.compiled:
        # Attention in parts compiles into faster code than the fused kernel at these lengths.
        model.set_attn_implementation("eager")
    add_low_rank(model.model.language_model, run.rank, run.seed)
    model.model.multi_modal_projector.requires_grad_(True)
    learner = Learner(model, processor.tokenizer).to(run.device)
    parameters = trained(learner)
    optimizer = torch.optim.AdamW(parameters.values(), 0.0, (0.9, 0.98), weight_decay=0.0)
    path, start = _resume(run)
    if path.exists():
        load_state(path, parameters, optimizer)
    else:
        if run.start is None:
            _words(run, learner, processor.tokenizer)
        else:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(run.start[name])
        save_state(path, Position(), parameters, optimizer)
    _joint(run, learner, processor, optimizer, parameters, start.step)
    return {name: parameter.detach().cpu() for name, parameter in parameters.items()}


def trained(learner: Learner) -> dict[str, nn.Parameter]:
    """List what the joint training changes, by name."""
    return {n: p for n, p in learner.model.named_parameters() if p.requires_grad}


def _resume(run: Run) -> tuple[Path, Position]:
    """Choose the state to go on from: that of the fall if it is the same one, else the trunk."""
    fall, trunk = run.out / "fall.pt", run.out / "trunk.pt"
    position = position_of(fall)
    if position.until == run.schedule.steps:
        return fall, position
    position = position_of(trunk)
    if position.step > run.schedule.fall:
        LOG.warning("the trunk is at step %d, past the fall; it falls from there", position.step)
    return trunk, position


def _words(run: Run, learner: Learner, tokenizer: Any) -> None:
    """Teach the projector alone to write each patch as the word for what it shows."""
    projector = learner.model.model.multi_modal_projector
    words = word_embeddings(tokenizer, learner.model.get_input_embeddings().weight)
    optimizer = torch.optim.AdamW(projector.parameters(), 0.0, (0.9, 0.98), weight_decay=0.0)
    schedule = Schedule(run.word_steps, run.word_rate, 20, run.word_steps // 2)
    started, total = time.monotonic(), 0.0
    for step in range(run.word_steps):
        first = _PICTURES["words"] + step * run.word_size
        drawn = word_batch(words, run.seed, first, run.word_size).to(run.device)
        loss = learner.word_loss(drawn)
        _update(optimizer, loss, schedule.rate_at(step), list(projector.parameters()))
        total += loss.item()
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - started) / (step + 1)
            _log(run, stage="words", step=step + 1, loss=total / 50, seconds_a_step=pace)
            total = 0.0


def _joint(
    run: Run,
    learner: Learner,
    processor: Any,
    optimizer: Any,
    parameters: dict[str, nn.Parameter],
    start: int,
) -> None:
    schedule = run.schedule
    if run.compiled:
        for layer in learner.model.model.language_model.layers:
            layer.compile(dynamic=False)
    answer_loss = torch.compile(learner.answer_loss, dynamic=True) if run.compiled else None
    values = list(parameters.values())
    totals: list[float] = []
    before = time.monotonic()
    for step in range(start, schedule.steps):
        first = _PICTURES["joint"] + (run.skip + step) * run.size
        drawn = batch(processor.tokenizer, run.seed, first, run.size).to(run.device)
        with torch.autocast(run.device, torch.bfloat16, enabled=run.mixed):
            loss = learner.loss(drawn, answer_loss)
        _update(optimizer, loss, schedule.rate_at(step), values)
        totals.append(loss.item())
        done = step + 1
        if done % run.log_every == 0:
            pace = (time.monotonic() - before) / len(totals)
            mean = sum(totals) / len(totals)
            _log(run, stage="joint", step=done, loss=mean, rate=schedule.rate_at(step),
                 seconds_a_step=pace)  # fmt: skip
            totals, before = [], time.monotonic()
        falling = done > schedule.fall
        if done % run.save_every == 0 or done in (schedule.fall, schedule.steps):
            name = "fall.pt" if falling else "trunk.pt"
            position = Position(done, schedule.steps if falling else 0)
            save_state(run.out / name, position, parameters, optimizer)
        if run.scenes and (done % run.measure_every == 0 or done == schedule.steps):
            found: Probe = probe(learner.model, processor, run.scenes, mixed=run.mixed)
            _log(run, stage="probe", step=done, **found.to_dict())
            before = time.monotonic()


def _update(
    optimizer: Any, loss: torch.Tensor, rate: float, parameters: list[nn.Parameter]
) -> None:
    torch.autograd.backward(loss)
    for group in optimizer.param_groups:
        group["lr"] = rate
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _log(run: Run, **entry: Any) -> None:
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in entry.items()}
    LOG.info("%s", rounded)
    with (run.out / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(rounded) + "\n")


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--base", type=click.Path(path_type=Path), help="A folder or wheel of SmolLM2.")
@click.option(
    "--start",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An adapter to train further, with a new optimizer and on new pictures.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--until", default=2000, show_default=True, help="Steps in all, the fall included.")
@click.option("--rate", default=1e-3, show_default=True, help="The highest learning rate.")
@click.option("--cooldown", default=150, show_default=True, help="Steps of the rate's fall.")
@click.option("--device", help="cpu or cuda; default: cuda where there is one.")
@click.option(
    "--precision",
    type=click.Choice(["mixed", "single"]),
    help="bfloat16 autocast or float32; default: what multiplies faster here.",
)
@click.option("--threads", default=1, show_default=True, help="Of the processor.")
def main(
    out: Path,
    base: Path | None,
    start: Path | None,
    seed: int,
    until: int,
    rate: float,
    cooldown: int,
    device: str | None,
    precision: str | None,
    threads: int,
) -> None:
    """Train OUT/adapter.safetensors; run it again to resume, with a smaller --until to end early.

    A longer run goes on from the last step before the fall, so that nothing of it is lost.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    from transformers import LlamaForCausalLM

    from vlmheads_testbed.smol.adapter import load_adapter, make_adapter, save_adapter, values_of
    from vlmheads_testbed.smol.base import find_base
    from vlmheads_testbed.smol.precision import bfloat16_pays
    from vlmheads_testbed.smol.processing import build_processor, load_tokenizer
    from vlmheads_testbed.smol.tower import packaged_tower

    found = find_base(base, LOG.info)
    processor = build_processor(load_tokenizer(found.folder))
    decoder = LlamaForCausalLM.from_pretrained(
        found.folder,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        use_safetensors=True,
    )
    mixed = bfloat16_pays(device) if precision is None else precision == "mixed"
    LOG.info("computing in %s precision on %s", "mixed" if mixed else "single", device)
    schedule = Schedule(until, rate, cooldown=cooldown)
    run = Run(out, seed, schedule, mixed=mixed, device=device)
    before: dict[str, Any] = {}
    if start is not None:
        adapter = load_adapter(start)
        before = {"started from": adapter.notes}
        run = replace(run, start=values_of(adapter), skip=int(adapter.notes["steps"]))
    tower = packaged_tower()
    values = train(run, decoder, tower, processor)
    notes = {"base": found.origin, "seed": seed, "steps": run.skip + until, "rate": rate,
             "cooldown": cooldown, "batch": run.size, "rank": run.rank.rank,
             "precision": "mixed" if mixed else "single"} | before  # fmt: skip
    made = make_adapter(values, tower, run.rank.scale, notes)
    click.echo(save_adapter(made, out / "adapter.safetensors"))


if __name__ == "__main__":
    main()
