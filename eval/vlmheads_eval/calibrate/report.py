"""Calibrated gains compared with plain, VHR and shuffled gains on images not learned from."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmheads_eval.chair.ground_truth import load_ground_truth
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.compare.paired import COMPARED, at_recall, figures_of, paired
from vlmheads_eval.compare.runs import RunScores, pooled, score_run
from vlmheads_eval.report.tables import heading, shown, signed
from vlmheads_eval.report.terminal import Rows

if TYPE_CHECKING:
    from vlmheads.headmap import HeadMap
    from vlmheads_eval.data import Material


PLAIN, VHR, CALIBRATED, SHUFFLED = "plain", "vhr", "calibrated", "shuffled gains"
SHOWN = (*COMPARED, "words", "repetition", "at_limit")


def shuffled_gains(gains: "HeadMap", seed: int) -> "HeadMap":
    """Return the same gains at randomly permuted heads: a control for which heads they are at."""
    import torch

    from vlmheads.headmap import HeadMap

    values = gains.mean().flatten()
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    shape = (1, gains.geometry.layers, gains.geometry.heads)
    about = {"from": "gains at shuffled heads", "seed": seed}
    return HeadMap(values[order].reshape(shape), gains.geometry, gains.measure, about)


def run_all(
    captioner: Any,
    gains: "HeadMap",
    material: "Material",
    out: Path,
    config: Mapping[str, Any],
    *,
    draws: int,
    batch_size: int,
    max_new_tokens: int,
    say: Callable[[str], None],
) -> dict[str, list[Path]]:
    """Caption the images plain, under VHR, the gains and shuffled gains; return the run folders.

    Called again with the same gains, it resumes.
    """
    from vlmheads.images import read_image
    from vlmheads.plugin import Plugin
    from vlmheads.registry import get_plugin
    from vlmheads_eval.predict.model import Generator
    from vlmheads_eval.predict.run import predict

    def scaled(head_map: "HeadMap") -> Plugin:
        return get_plugin("gains").from_dict({"head_map": head_map})

    acting: dict[str, list[tuple[Plugin, ...]]] = {
        PLAIN: [()],
        VHR: [(get_plugin("vhr")(),)],
        CALIBRATED: [(scaled(gains),)],
        SHUFFLED: [(scaled(shuffled_gains(gains, draw)),) for draw in range(draws)],
    }
    runs: dict[str, list[Path]] = {}
    own = captioner.plugins
    for name, several in acting.items():
        for draw, plugins in enumerate(several):
            run = out / (f"{name} {draw}" if len(several) > 1 else name)
            say(f"{run.name}: {len(material.samples)} captions")
            captioner.plugins = plugins
            about = dict(config) | {
                "task": "caption",
                "plugins": name,
                "draw": draw,
                "max_new_tokens": max_new_tokens,
                "ground_truth": [str(path.resolve()) for path in material.ground_truth],
                "samples": [sample.key for sample in material.samples],
            }
            describe = Generator(captioner, max_new_tokens)
            predict(run, about, material.samples, describe, read=read_image, batch_size=batch_size)
            runs.setdefault(name, []).append(run)
    captioner.plugins = own
    return runs


def compare_all(
    runs: Mapping[str, Sequence[Path]],
    ground_truth: Sequence[Path],
    variant: Variant,
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return figures of all runs, and the calibrated run's differences from the others."""
    truth = load_ground_truth(ground_truth, variant)
    scored: dict[str, RunScores] = {}
    for name, paths in runs.items():
        several = [score_run(path.name, path, truth, variant) for path in paths]
        scored[name] = several[0] if len(several) == 1 else pooled(name, several)
    calibrated, plain = scored[CALIBRATED], scored[PLAIN]
    cut = at_recall(plain, [calibrated], draws=draws, seed=seed)[CALIBRATED]
    against = {
        name: paired(run, calibrated, draws=draws, seed=seed)
        for name, run in scored.items()
        if name != CALIBRATED
    }
    return {
        "images": len(plain.images),
        "variant": variant.name,
        "figures": {name: figures_of(run, SHOWN) for name, run in scored.items()},
        "calibrated less": {
            name: {rate: one.to_dict() for rate, one in found.items()}
            for name, found in against.items()
        },
        "calibrated less truncated captions": {rate: one.to_dict() for rate, one in cut.items()},
    }


def tables(result: Mapping[str, Any]) -> tuple[Rows, Rows]:
    """Return figures and differences as rows of text."""
    levels = [["run", *(heading(name) for name in SHOWN)]]
    for name, figures in result["figures"].items():
        levels.append(
            [name, *(shown(figures[rate], "" if rate == "words" else "%") for rate in SHOWN)]
        )
    changes = [["calibrated less", *(heading(name) for name in COMPARED)]]
    rows = {
        **result["calibrated less"],
        "truncated captions*": result["calibrated less truncated captions"],
    }
    for name, found in rows.items():
        cells = [signed(found[rate]) if rate in found else "-" for rate in COMPARED]
        changes.append([name, *cells])
    return levels, changes
