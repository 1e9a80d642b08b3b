"""The outcome of a search: its verdict, its evidence in words, and the preset."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads_eval.report.tables import heading, p_value, signed
from vlmheads_eval.tune.captioning import PLAIN
from vlmheads_eval.tune.parts import LEARN, SELECT
from vlmheads_eval.tune.plan import CONTROLS
from vlmheads_eval.tune.run import Found
from vlmheads_eval.tune.verdict import NONE, RECOMMENDED, best, strongest


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Args:
        verdict: in one line.
        setting: the recommended setting, or with `force` the strongest finalist; None if neither.
        recommended: whether it is recommended.
        evidence: what was measured of it, in words.
        files: the report, tune.json, and the preset if there is one.
    """

    verdict: str
    setting: str | None
    recommended: bool
    evidence: Mapping[str, str]
    files: tuple[Path, ...] = ()

    @property
    def preset(self) -> Path | None:
        """The preset's file, if one was written: the last one."""
        return self.files[-1] if self.setting is not None and self.files else None


def conclude(found: Found) -> Outcome:
    """Return the outcome, before anything is written."""
    judgements = {} if found.confirmation is None else found.confirmation.judgements
    aim = found.settings.aim
    setting = best(judgements, aim)
    if setting is not None:
        verdict = f"{RECOMMENDED}: {setting}"
        return Outcome(verdict, setting, True, evidence(found, setting, verdict))
    forced = strongest(judgements, aim) if found.settings.force else None
    told = {} if forced is None else evidence(found, forced, NONE)
    if found.misfit:
        told = {"reason": found.misfit}
    return Outcome(NONE, forced, False, told)


def evidence(found: Found, setting: str, verdict: str) -> dict[str, str]:
    """Return what was measured of a finalist, in words, as a preset tells it."""
    assert found.confirmation is not None  # A finalist was confirmed.
    method = method_of(found, setting)
    runs = {run["name"]: run["overall"] for run in found.confirmation.result["runs"]}
    own, plain = runs[setting], runs[PLAIN]
    images = found.confirmation.result["images"]
    aim, settings = found.settings.aim, found.settings
    effects = [
        f"{heading(name)} at equal recall {signed(method['at_recall'][name])}"
        for name in (aim.measure, aim.guard)
    ]
    corrected = p_value(method["holm"][f"at recall {aim.measure}"])
    return {
        "verdict": verdict,
        "data": f"{settings.data}, seed {settings.seed}: {found.plan.images[LEARN]} images to "
        f"learn, {found.plan.images[SELECT]} to select, {images} others to confirm",
        "effect": f"{'; '.join(effects)} (points, 95 %); Holm p {corrected}",
        "control": control_line(found, setting),
        "length": f"{own['words']:.1f} words against {plain['words']:.1f}; repetitive "
        f"{own['repetition']:.1%} against {plain['repetition']:.1%}",
        "speed": f"{found.speed[setting]:.2f} times the plain model's time",
    }


def provenance(found: Found) -> str:
    """Return in one line where the evidence comes from."""
    settings = found.settings
    learned = [f"{name} {digest[:12]}" for name, digest in found.learned.items()]
    parts = [
        f"command: {settings.command}" if settings.command else "",
        f"prompt: {settings.prompt!r}" if settings.prompt else "",
        f"at most {settings.max_new_tokens} tokens, greedy, CHAIR variant {settings.variant}",
        f"data digest {found.parts.digest}",
        f"learned: {', '.join(learned)}" if learned else "",
        *(f"{name} {digest[:12]}" for name, digest in found.fingerprint["model_files"].items()),
    ]
    return "; ".join(part for part in parts if part)


def control_line(found: Found, setting: str) -> str:
    """Return what became of a finalist's control, in words."""
    assert found.confirmation is not None  # A finalist was confirmed.
    aim = found.settings.aim
    measured = found.confirmation.controls.get(setting)
    if measured is not None:
        return (
            f"{heading(aim.measure)} {signed(measured[aim.measure])} against {CONTROLS} draws of "
            "random heads or directions, at equal recall"
        )
    if found.confirmation.judgements[setting].helps:
        return "none: it selects no heads or directions"
    return "not run, since nothing was shown to control for"


def method_of(found: Found, setting: str) -> Mapping[str, Any]:
    """Return the comparison of a finalist with the plain model."""
    assert found.confirmation is not None  # A finalist was confirmed.
    methods = found.confirmation.result["methods"]
    chosen: Mapping[str, Any] = next(one for one in methods if one["name"] == setting)
    return chosen
