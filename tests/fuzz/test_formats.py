"""Every file format, broken in drawn ways: the exit code is 0 or 2, and 2 comes with one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import hostile
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from vlmheads_eval.data import load_material
from vlmheads_eval.sweep import read_sweep

from vlmheads import load_preset
from vlmheads.cli import main
from vlmheads.commands.edge import CommandError, refusals
from vlmheads.commands.word_measures import _read_words
from vlmheads.grounding.scores import Scorer
from vlmheads.headmap import HeadMap
from vlmheads.jobs.processes import launched
from vlmheads.learned import KEY, Learned
from vlmheads.model.saved import check_files, check_weights
from vlmheads.registry import parse_plugin

FUZZ = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CAPTIONS = [
    {"image_id": 1, "caption": "A dog and a [red] cat.", "at_limit": False},
    {"image_id": "0002", "caption": "A bus."},
]
SETS = {"1": ["dog"], "2": ["cat", "bus"], "about": "notes"}
COCO = {
    "images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 18},
        {"id": 2, "image_id": 2, "category_id": 17},
        {"id": 3, "image_id": 2, "caption": "A bus."},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
}
CONFIG = {"schema": 2, "task": "caption", "ground_truth": ["../truth.json"], "samples": ["1", "2"]}
PREDICTIONS = [
    {"sample": "1", "image_id": 1, "caption": "A dog.", "tokens": 3, "at_limit": False},
    {"sample": "2", "image_id": 2, "error": "no file 2.png"},
]
QUESTIONS = [
    {"question_id": 1, "image": "1.png", "text": "Is there a dog?", "label": "yes"},
    {"question_id": 2, "image": "1.png", "text": "Is there a cat?", "label": "no"},
]
ANSWERS = [
    {"question_id": 1, "answer": "Yes."},
    {"question_id": 2, "answer": "No", "split": "random"},
]
AMBER = [
    {"id": 1, "type": "discriminative-hallucination", "truth": "yes"},
    {"id": 2, "type": "generative", "truth": ["dog"], "hallu": ["cat"]},
]
VOCABULARY = {"dog": ["puppy"], "cat": ["kitten"], "bus": []}
PRESET = {
    "schema": 1,
    "plugins": [{"name": "vhr", "options": {"alpha": 1.5, "layers": [0, 1]}}],
    "family": "any",
    "versions": {"vlmheads": "0.1.0"},
    "source": "here",
    "weights": {"file": "model.safetensors", "bytes": 3, "sha256": "0"},
    "evidence": {"data": "scenes"},
}
SCORER = {
    "schema": 1,
    "weights": {"attention": 1.0},
    "mean": {"attention": 0.5},
    "k": 2,
    "geometry": {"model_type": "llava", "layers": 2, "heads": 4, "attention_layers": [0, 1]},
}
HEAD_MAP = {
    "schema": 1,
    "measure": "vhd",
    "geometry": {"model_type": "llava", "layers": 2, "heads": 4, "attention_layers": [0, 1]},
    "provenance": {"model": "x"},
}
SPEC = {
    "runs": [{"name": "plain"}, {"name": "vhr", "plugins": ["vhr"], "draws": 2}],
    "num": 3,
    "variants": ["pattern"],
    "tasks": "caption",
}
WORDS = [{"image": "a.png", "grounded": ["dog"], "hallucinated": ["fork"], "caption": "A dog."}]
MODEL = {
    "model_type": "llava",
    "text_config": {"num_hidden_layers": 2, "hidden_size": 8},
    "auto_map": {"AutoConfig": "evil.Config"},
}


def write(path: Path, content: Any, *, lines: bool = False) -> Path:
    """Write bytes as they are, and anything else as JSON or JSON Lines."""
    if not isinstance(content, bytes):
        listed = content if lines else [content]
        content = "\n".join(json.dumps(one) for one in listed).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def ends_well(*arguments: object) -> None:
    """Run a command; it works, or it refuses with the exit code 2 and one line."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    crash = result.exception
    assert crash is None or isinstance(crash, SystemExit), repr(crash)
    assert result.exit_code in (0, 2)
    if result.exit_code == 2:
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert result.stderr.splitlines()[-1] == errors[0]
    assert "\x1b" not in result.output


def refused_or_fine(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Call what a command calls; it works, or it refuses in one line."""
    with suppress(CommandError), refusals():
        function(*arguments, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fuzz")
    write(made / "truth.json", SETS)
    write(made / "captions.jsonl", CAPTIONS, lines=True)
    write(made / "pope_random.json", QUESTIONS, lines=True)
    write(made / "answers.jsonl", ANSWERS, lines=True)
    write(made / "run" / "config.json", CONFIG)
    write(made / "run" / "predictions.jsonl", PREDICTIONS, lines=True)
    (made / "amber").mkdir()
    (made / "amber" / "safe_words.txt").write_text("picture\n")
    write(made / "responses.jsonl", [{"id": 1, "response": "Yes"}], lines=True)
    return made


@FUZZ
@given(content=hostile.documents(CAPTIONS, lines=True) | hostile.documents(CAPTIONS))
def test_captions(folder: Path, content: bytes) -> None:
    path = write(folder / "hostile.jsonl", content)
    ends_well("eval", "score", "chair", path, "-g", folder / "truth.json")


@FUZZ
@given(content=hostile.documents(SETS) | hostile.documents(COCO))
def test_ground_truth(folder: Path, content: bytes) -> None:
    path = write(folder / "hostile.json", content)
    ends_well("eval", "score", "chair", folder / "captions.jsonl", "-g", path)


@FUZZ
@given(config=hostile.documents(CONFIG), predictions=hostile.documents(PREDICTIONS, lines=True))
def test_a_run(folder: Path, config: bytes, predictions: bytes) -> None:
    for number, (first, second) in enumerate(((config, PREDICTIONS), (CONFIG, predictions))):
        run = folder / f"run-{number}"
        write(run / "config.json", first)
        write(run / "predictions.jsonl", second, lines=True)
        ends_well("eval", "score", "chair", run)


@FUZZ
@given(content=hostile.documents(QUESTIONS, lines=True))
def test_questions(folder: Path, content: bytes) -> None:
    path = write(folder / "hostile_random.json", content)
    ends_well("eval", "score", "pope", folder / "answers.jsonl", "-g", path)
    refused_or_fine(load_material, [str(path)], "pope", workspace=folder, images=folder)


@FUZZ
@given(content=hostile.documents(ANSWERS, lines=True))
def test_answers(folder: Path, content: bytes) -> None:
    path = write(folder / "hostile_answers.jsonl", content)
    ends_well("eval", "score", "pope", path, "-g", folder / "pope_random.json")


@FUZZ
@given(
    items=hostile.documents(AMBER),
    related=hostile.documents(VOCABULARY),
    queries=hostile.documents([{"id": 1, "image": "a.png", "query": "Is it?"}], lines=True),
    responses=hostile.documents([{"id": 1, "response": "Yes"}], lines=True),
)
def test_amber(
    folder: Path, items: bytes, related: bytes, queries: bytes, responses: bytes
) -> None:
    home = folder / "amber"
    write(home / "query_all.json", queries)
    refused_or_fine(load_material, [str(home)], "amber", workspace=folder, images=folder)
    said = folder / "responses.jsonl"
    for parts in ((items, VOCABULARY, said), (AMBER, related, said)):
        write(home / "annotations.json", parts[0])
        write(home / "relation.json", parts[1])
        ends_well("eval", "score", "amber", parts[2], "-g", home)
    write(home / "relation.json", VOCABULARY)
    ends_well("eval", "score", "amber", write(folder / "r.jsonl", responses), "-g", home)


@FUZZ
@given(content=hostile.documents(VOCABULARY))
def test_a_vocabulary(folder: Path, content: bytes) -> None:
    path = write(folder / "vocabulary.json", content)
    options = ("-g", folder / "truth.json", "--variant", "fixed", "--vocabulary", path)
    ends_well("eval", "score", "chair", folder / "captions.jsonl", *options)


@FUZZ
@given(content=hostile.documents(COCO), ids=hostile.documents(["1", 2]))
def test_data_to_ask_about(folder: Path, content: bytes, ids: bytes) -> None:
    home = folder / "coco"
    write(home / "instances.json", content)
    for task in ("caption", "pope"):
        refused_or_fine(load_material, [str(home)], task, workspace=folder / "w")
    write(home / "instances.json", COCO)
    listed = write(folder / "ids.json", ids)
    refused_or_fine(load_material, [str(home)], "caption", workspace=folder, ids=listed)


@FUZZ
@given(content=hostile.documents(SPEC) | st.text(max_size=60).map(lambda text: text.encode()))
def test_a_spec(folder: Path, content: bytes) -> None:
    refused_or_fine(read_sweep, str(write(folder / "spec.yaml", content)))


@FUZZ
@given(
    preset=hostile.documents(PRESET),
    scorer=hostile.documents(SCORER),
    words=hostile.documents(WORDS, lines=True),
)
def test_what_the_core_reads(folder: Path, preset: bytes, scorer: bytes, words: bytes) -> None:
    refused_or_fine(load_preset, write(folder / "preset.json", preset))
    refused_or_fine(Scorer.load, write(folder / "scorer.json", scorer))
    refused_or_fine(_read_words, write(folder / "words.jsonl", words))


@FUZZ
@given(content=hostile.documents(HEAD_MAP))
def test_head_maps_and_directions(folder: Path, content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    path = folder / "map.safetensors"
    about = {"vlmheads": text, KEY: text}
    save_file({"values": torch.ones(1, 2, 4), "directions": torch.ones(2, 4)}, path, about)
    refused_or_fine(HeadMap.load, path)
    refused_or_fine(Learned.load, path)
    path.write_bytes(content)
    refused_or_fine(HeadMap.load, path)


@FUZZ
@given(content=hostile.documents(MODEL), index=hostile.documents({"weight_map": {"a": "b"}}))
def test_a_saved_model(folder: Path, content: bytes, index: bytes) -> None:
    home = folder / "model"
    write(home / "config.json", content)
    write(home / "model.safetensors.index.json", index)
    refused_or_fine(check_files, str(home), "model")
    refused_or_fine(check_weights, str(home), "model", {})


@FUZZ
@given(
    name=st.sampled_from(["WORLD_SIZE", "RANK", "LOCAL_RANK"]),
    text=st.sampled_from(["abc", "", " ", "-1", "0", "1.5", "9" * 400, "1e3", "٣", "nan", "1 "]),
)
def test_the_environment(name: str, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, text)
        refused_or_fine(launched)


OPTION = st.sampled_from(
    [json.dumps(one) if not isinstance(one, str) else one for one in hostile.VALUES[9:]]
    + list(hostile.RAW.values())
)


@FUZZ
@given(key=st.sampled_from(["alpha", "layers", "filter", "head_map", "", "x"]), value=OPTION)
def test_a_plugin_with_options(key: str, value: str) -> None:
    refused_or_fine(parse_plugin, f"vhr:{key}={value}")
    refused_or_fine(parse_plugin, f"{value}:{key}")
