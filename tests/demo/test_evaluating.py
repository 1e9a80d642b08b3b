from __future__ import annotations

import json
import threading

import pytest
from click.testing import CliRunner
from vlmheads_demo.services.evaluation import Stopped, Study, evaluate
from vlmheads_demo.views.evaluate import evaluated

from vlmheads import VlmHeadsError
from vlmheads.cli import main
from vlmheads.registry import resolve
from vlmheads.runtime.attachment import ATTACHED

SCENES, TOKENS, SEED = 6, 24, 3


@pytest.fixture(scope="module")
def result(model):
    study = Study(
        model, (resolve("vhr:alpha=3"), resolve("cfg")), "counterfactual", SCENES, SEED, TOKENS
    )
    return evaluate(study, running=threading.Lock(), stop=threading.Event())


def test_the_results_are_those_of_the_command_line(result, tmp_path):
    runs = {"plain": [], "vhr:alpha=3": ["--plugin", "vhr:alpha=3"], "cfg": ["--plugin", "cfg"]}
    run = CliRunner()
    for number, options in enumerate(runs.values()):
        said = run.invoke(
            main,
            [
                *f"eval predict --data testbed:counterfactual --num {SCENES} --seed {SEED}".split(),
                *f"--max-new-tokens {TOKENS} --device cpu --out {tmp_path}/run-{number}".split(),
                *options,
            ],
        )
        assert said.exit_code == 0, said.output
    said = run.invoke(
        main,
        [
            *("eval", "compare", *(str(tmp_path / f"run-{number}") for number in range(3))),
            *f"--names {','.join(runs)} --seed {SEED} --json {tmp_path}/found.json".split(),
        ],
    )
    assert said.exit_code == 0, said.output
    expected = json.loads((tmp_path / "found.json").read_text())
    del expected["inputs"]
    assert result == expected


def test_figures_and_tables_show_every_run(result):
    page = evaluated(result)
    assert page.count("<svg") == 2
    for name in ("plain", "vhr:alpha=3", "cfg"):
        assert f'<th scope="col">{name}</th>' in page


def test_progress_is_told_and_a_stop_ends_it(model):
    stop = threading.Event()
    told = []

    def progress(name: str, done: int, total: int) -> None:
        told.append((name, done, total))
        if done:
            stop.set()

    study = Study(model, (resolve("vhr"),), "test", 10, 0, 8)
    with pytest.raises(Stopped):
        evaluate(study, running=threading.Lock(), stop=stop, progress=progress)
    assert told == [("plain", 0, 20), ("plain", 8, 20)]
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
def test_a_study_out_of_its_range_is_refused(model, given):
    with pytest.raises(VlmHeadsError):
        Study(**{"model": model, "methods": ()} | given)
