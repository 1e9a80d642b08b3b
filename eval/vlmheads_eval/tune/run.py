"""A search from data to verdict: divide, plan, learn, select by halving, confirm once, report."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.jobs.lines import only_writer, refuse_other_settings
from vlmheads.jobs.processes import launched, own_device
from vlmheads.model.anatomy import examine
from vlmheads.model.fingerprint import model_fingerprint
from vlmheads.output import replace
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.predict.model import versions
from vlmheads_eval.tune.candidates import Candidate, check_methods, find_candidates, packages_of
from vlmheads_eval.tune.captioning import Captioning
from vlmheads_eval.tune.confirm import Confirmation, confirm
from vlmheads_eval.tune.controls import control_of
from vlmheads_eval.tune.encoded import Encoder
from vlmheads_eval.tune.halving import Result
from vlmheads_eval.tune.needs import learned_digests
from vlmheads_eval.tune.parts import CONFIRM, Parts, load_parts
from vlmheads_eval.tune.plan import CONTROLS, Plan, make_plan
from vlmheads_eval.tune.settings import Budget, Settings
from vlmheads_eval.tune.steps import (
    Say,
    check_fit,
    learn_all,
    select,
    time_caption,
    time_finalists,
    try_all,
)

PLAN = "plan.json"
SCHEMA = 1

# Called with how many captions there are to make at most; returns what is called with those made.
Progress = Callable[[int], Callable[[int], None]]


@dataclass(frozen=True)
class Found:
    """What a search found.

    Args:
        settings: as given.
        parts: the images.
        plan: what was done.
        fingerprint: what determines the result.
        candidates: by name.
        left_out: name -> why a setting was not tried.
        results: candidate -> its last round.
        confirmation: of the finalists; None where there is none.
        captioning: where the captions are.
        learned: what was learned -> SHA-256 of its file.
        speed: finalist -> its time per caption over the plain model's.
        misfit: why nothing was searched; see `vlmheads_eval.tune.fit`.
    """

    settings: Settings
    parts: Parts
    plan: Plan
    fingerprint: Mapping[str, Any]
    candidates: Mapping[str, Candidate]
    left_out: Mapping[str, str]
    results: Mapping[str, Result]
    confirmation: Confirmation | None
    captioning: Captioning
    learned: Mapping[str, str]
    speed: Mapping[str, float]
    misfit: str = ""


def search(
    settings: Settings,
    say: Say = lambda line: None,
    progress: Progress = lambda total: lambda number: None,
) -> Found:
    """Search, or go on where an earlier call was stopped; every process of the job calls this.

    Args:
        settings: see there.
        say: called with the plan and with what each step found, on the first process.
        progress: shows how far the captions are.

    Raises:
        VlmHeadsError: settings or data that are refused, a budget that is too small, or a folder in
            which another search was begun.
    """
    import vlmheads

    check_methods(settings.methods)
    job = launched()
    first = job.process_index == 0
    tell = say if first else lambda line: None
    variant = get_variant(settings.variant)
    with ExitStack() as held:
        if first:
            held.enter_context(only_writer(settings.out / "lock"))
            load_parts(settings, variant)  # One process draws the scenes.
        job.wait_for_everyone()
        parts = load_parts(settings, variant)
        captioner = vlmheads.Captioner.from_pretrained(
            settings.model,
            plugins=(),
            dtype=settings.dtype,
            device=settings.device or own_device(job),
        )
        geometry = examine(captioner.model).geometry
        found, left_out = find_candidates(settings.methods, geometry, captioner.processor.tokenizer)
        config = {
            "model": settings.model,
            "model_files": model_fingerprint(settings.model),
            "data": [settings.data],
            "data_digest": parts.digest,
            "prompt": settings.prompt,
            "max_new_tokens": settings.max_new_tokens,
            "dtype": str(captioner.model.dtype),
            "seed": settings.seed,
            "variant": settings.variant,
            "versions": versions() | packages_of(found),
        }
        fingerprint = {
            **config,
            "objective": settings.objective,
            "budget": settings.budget,
            "methods": list(settings.methods),
            "candidates": {one.name: [dict(entry) for entry in one.plugins] for one in found},
        }
        needs = list(dict.fromkeys(need for one in found for need in one.needs))
        if first and not (settings.out / PLAN).is_file():
            plan = make_plan(
                {part: len(samples) for part, samples in parts.samples.items()},
                len(found),
                needs,
                Budget.parse(settings.budget),
                time_caption(captioner, parts, settings),
                job.num_processes,
            )
            content = {
                "schema": SCHEMA,
                "fingerprint": fingerprint,
                "plan": plan.to_dict(),
                "images": {
                    part: [sample.record["image_id"] for sample in samples]
                    for part, samples in parts.samples.items()
                },
            }
            replace(settings.out / PLAN, json.dumps(content, indent=1) + "\n")
        job.wait_for_everyone()
        plan = _resumed(settings.out, fingerprint)
        if first:
            parts.write()
        job.wait_for_everyone()
        for line in plan.lines():
            tell(line)
        for name, reason in left_out.items():
            tell(f"left out: {name}: {reason}")
        encoder = Encoder(captioner)
        captioning = Captioning(
            encoder,
            settings.out,
            parts,
            config,
            variant,
            settings.max_new_tokens,
            settings.batch_size,
            job,
            progress(plan.captions // job.num_processes),
        )
        if reason := check_fit(captioning, plan, settings.seed):
            return Found(
                settings,
                parts,
                plan,
                fingerprint,
                {},
                left_out,
                {},
                None,
                captioning,
                {},
                {},
                reason,
            )
        failed = learn_all(captioning, plan, needs, settings, tell)
        candidates, refused, reusing = try_all(captioning, found, failed, settings)
        captioning = dataclasses.replace(captioning, reusing=reusing)
        for name in refused:
            tell(f"left out: {name}: {refused[name]}")
        finalists, results = select(captioning, plan, candidates, settings, tell)
        encoder.forget()
        made = {name: candidates[name].make(settings.out) for name in finalists}
        confirmation = None
        if made:
            confirmation = confirm(
                made,
                lambda name, plugins: captioning.scores(
                    CONFIRM, (0, plan.images[CONFIRM]), name, plugins
                ),
                lambda name, draw: control_of(
                    made[name], geometry, settings.seed * CONTROLS + draw
                ),
                settings.aim,
                variant=settings.variant,
                controls=CONTROLS,
                seed=settings.seed,
                say=tell,
            )
        return Found(
            settings,
            parts,
            plan,
            fingerprint,
            candidates,
            {**left_out, **refused},
            results,
            confirmation,
            captioning,
            learned_digests(settings.out, needs),
            time_finalists(captioning, made) if first else dict.fromkeys(made, 1.0),
        )


def _resumed(out: Path, fingerprint: Mapping[str, Any]) -> Plan:
    """Return the plan in OUT, or refuse one that was made for another search."""
    try:
        content = json.loads((out / PLAN).read_bytes())
        schema, old, plan = content["schema"], content["fingerprint"], content["plan"]
    except (ValueError, KeyError, TypeError) as error:
        raise VlmHeadsError(
            f"{out / PLAN} is no plan ({error!r})", "what `vlmheads tune` wrote", "remove it"
        ) from error
    refuse_other_settings(
        out,
        {"schema": schema, **old},
        {"schema": SCHEMA, **fingerprint},
        "go on with the old options, or choose another --out",
    )
    return Plan.from_dict(plan)
