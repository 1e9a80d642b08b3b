"""The last candidates on images that nothing was chosen on: comparison, controls, judgements."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmheads.plugin import Plugin
from vlmheads_eval.compare.chair import compare_chair
from vlmheads_eval.compare.paired import above_others
from vlmheads_eval.compare.runs import RunScores, pooled
from vlmheads_eval.statistics import DRAWS
from vlmheads_eval.tune.captioning import CONTROL, PLAIN
from vlmheads_eval.tune.settings import Objective
from vlmheads_eval.tune.verdict import Judgement, helps, judge

# From the name of a run and its plugins to its scores.
Score = Callable[[str, tuple[Plugin, ...]], RunScores]
# From a finalist and the number of a draw to the control's plugins; None where it needs none.
Control = Callable[[str, int], "tuple[Plugin, ...] | None"]


@dataclass(frozen=True)
class Confirmation:
    """What was found.

    Args:
        result: of `compare_chair`, the plain model first.
        scores: of the plain model and the finalists.
        controls: finalist -> it minus its control at equal recall, by measure, where there is one.
        judgements: finalist -> what is thought of it.
    """

    result: Mapping[str, Any]
    scores: Sequence[RunScores]
    controls: Mapping[str, Mapping[str, Any]]
    judgements: Mapping[str, Judgement]


def confirm(
    finalists: Mapping[str, tuple[Plugin, ...]],
    score: Score,
    control: Control,
    aim: Objective,
    *,
    variant: str,
    controls: int,
    seed: int,
    draws: int = DRAWS,
    say: Callable[[str], None] = lambda line: None,
) -> Confirmation:
    """Compare the finalists with the plain model, once, and those that help with their controls.

    Intervals are of one paired bootstrap over images, and p values are corrected over the finalists
    by Holm. A control's draws are pooled; one is run only where a finalist is shown to help at all.

    Args:
        finalists: name -> plugins.
        score: captions a setting on the images that confirm, and scores it.
        control: makes a draw of a finalist's control.
        aim: what counts as better.
        variant: of CHAIR, for the record.
        controls: draws of a control.
        seed: of the bootstrap.
        draws: of the bootstrap.
        say: called with what is run.
    """
    runs = [score(PLAIN, ())]
    for name, plugins in finalists.items():
        runs.append(score(name, plugins))
        say(f"confirm: {name} is captioned on {len(runs[-1].images)} images")
    result = {**compare_chair(runs, draws=draws, seed=seed), "variant": variant}
    beside: dict[str, Mapping[str, Any]] = {}
    judgements = {}
    for method, run in zip(result["methods"], runs[1:], strict=True):
        name = run.name
        controlled = control(name, 0) is not None
        if controlled and not helps(method, aim):
            say(f"confirm: {controls} controls for {name}")
            drawn = [
                score(f"{name}{CONTROL}{number}", control(name, number) or ())
                for number in range(controls)
            ]
            pool = pooled("control", drawn)
            measures = (aim.measure, aim.guard)
            found = above_others(run, [pool], measures, draws=draws, seed=seed)
            beside[name] = {key: one.to_dict() for key, one in found["control"].items()}
        judgements[name] = judge(method, aim, beside.get(name), controlled)
    return Confirmation(result, runs, beside, judgements)
