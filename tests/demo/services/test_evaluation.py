from __future__ import annotations

import json
import threading

import pytest
from click.testing import CliRunner
from vlmheads_demo.services.evaluation import EvaluationRequest, StoppedError, evaluate
from vlmheads_demo.views.evaluate import comparison_view

from vlmheads import VlmHeadsError
from vlmheads.cli import main
from vlmheads.registry import resolve
from vlmheads.runtime.attachment import ATTACHED

SCENES, TOKENS, SEED = 6, 24, 3


@pytest.fixture(scope="module")
def comparison(model):
    request = EvaluationRequest(
        model, (resolve("vhr:alpha=3"), resolve("cfg")), "counterfactual", SCENES, SEED, TOKENS
    )
    return evaluate(request, run_lock=threading.Lock(), stop=threading.Event())


def test_the_results_are_those_of_the_command_line(comparison, tmp_path):
    runs = {"plain": [], "vhr:alpha=3": ["--plugin", "vhr:alpha=3"], "cfg": ["--plugin", "cfg"]}
    run = CliRunner()
    for number, options in enumerate(runs.values()):
        answer = run.invoke(
            main,
            [
                *f"eval predict --data testbed:counterfactual --num {SCENES} --seed {SEED}".split(),
                *f"--max-new-tokens {TOKENS} --device cpu --out {tmp_path}/run-{number}".split(),
                *options,
            ],
        )
        assert answer.exit_code == 0, answer.output
    answer = run.invoke(
        main,
        [
            *("eval", "compare", *(str(tmp_path / f"run-{number}") for number in range(3))),
            *f"--names {','.join(runs)} --seed {SEED} --json {tmp_path}/found.json".split(),
        ],
    )
    assert answer.exit_code == 0, answer.output
    expected = json.loads((tmp_path / "found.json").read_text())
    del expected["inputs"]
    assert comparison == expected


def test_figures_and_tables_show_every_run(comparison):
    page = comparison_view(comparison)
    assert page.count("<svg") == 2
    for name in ("plain", "vhr:alpha=3", "cfg"):
        assert f'<th scope="col">{name}</th>' in page


def test_progress_is_reported_and_a_stop_ends_it(model):
    stop = threading.Event()
    calls = []

    def progress(name: str, done: int, total: int) -> None:
        calls.append((name, done, total))
        if done:
            stop.set()

    request = EvaluationRequest(model, (resolve("vhr"),), "test", 10, 0, 8)
    with pytest.raises(StoppedError):
        evaluate(request, run_lock=threading.Lock(), stop=stop, progress=progress)
    assert calls == [("plain", 0, 20), ("plain", 8, 20)]
    assert not hasattr(model.captioner.model, ATTACHED)


@pytest.mark.parametrize(
    "given",
    [
        {"split": "train"},
        {"split": "../test"},
        {"scenes": 1},
        {"scenes": 501},
        {"scenes": 2.5},
        {"seed": -1},
        {"max_new_tokens": 0},
        {"methods": (resolve("vhr"), resolve("vhr"))},
        {"methods": (resolve("vhr"),) * 4},
    ],
)
def test_an_invalid_evaluation_is_refused(model, given):
    with pytest.raises(VlmHeadsError):
        EvaluationRequest(**{"model": model, "methods": ()} | given)
