"""lmms-eval runs a task on local files with the model `vlmheads`, under plugins and plain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vlmheads_lmms.settings import MAX_NEW_TOKENS, chosen, generate_options

from vlmheads import Captioner, VlmHeadsError

FOLDER = Path(sysconfig.get_path("purelib")) / "lmms-eval-for-tests"
PLUGINS = "vhr:alpha=4;pai"
TASK = """
task: scenes
dataset_path: imagefolder
dataset_kwargs:
  data_dir: {folder}
test_split: train
output_type: generate_until
doc_to_visual: image
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 12
  temperature: 0
  until: [" orange"]
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
# What a task may hold that the model refuses by name, asked of the class itself.
REFUSED = """
from types import SimpleNamespace
from vlmheads.errors import VlmHeadsError
from vlmheads_lmms.model import Model
model = Model(plugins="none")
model.task_dict = {"films": {"test": [{}]}}
film = [{"role": "user", "content": [{"type": "video", "url": "film.mp4"}]}]
asked = SimpleNamespace(args=("", lambda doc: film, {}, 0, "films", "test"))
calls = [lambda: model.generate_until([asked]), lambda: model.loglikelihood([asked]),
         lambda: model.generate_until_multi_round([asked]), lambda: Model(batch_size="auto")]
for call in calls:
    try:
        call()
    except VlmHeadsError as error:
        print(error.seen)
"""


def run(*arguments: str, home: Path) -> str:
    """Run Python with lmms-eval on its path, which the tests' own process is kept clear of."""
    assert FOLDER.is_dir(), f"{FOLDER} is missing; `make` installs lmms-eval there"
    env = os.environ | {"PYTHONPATH": str(FOLDER), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_task_of_local_files_runs_under_plugins(
    captioner: Captioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    asked, lines = "Describe the image.", []
    plain = [caption.text for caption in captioner(pictures, max_new_tokens=12)]
    acting = captioner(pictures, plugins=PLUGINS.split(";"), max_new_tokens=12)
    expected = [caption.text.partition(" orange")[0] for caption in acting]
    for number, picture in enumerate(pictures):
        picture.save(data / f"{number}.png")
        answer = expected[number] if number else "nothing at all"
        lines.append({"file_name": f"{number}.png", "question": asked, "answer": answer})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (data / "metadata.jsonl").write_text(text, "utf-8")
    (tmp_path / "scenes.yaml").write_text(TASK.format(folder=data), "utf-8")
    model = ["--model", "vlmheads", "--model_args", f"pretrained=embedded,plugins={PLUGINS}"]
    tasks = ["--tasks", "scenes", "--include_path", str(tmp_path), "--batch_size", "2"]
    out = ["--output_path", str(tmp_path / "out"), "--log_samples"]
    table = run("-m", "lmms_eval", *model, *tasks, *out, home=tmp_path / "home")
    assert "|scenes|none  |     0|exact_match|↑  |0.6667|" in table
    (samples,) = (tmp_path / "out").rglob("*_samples_scenes.jsonl")
    answers = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    found = {one["doc_id"]: one["filtered_resps"] for one in answers}
    assert [found[number] for number in range(3)] == expected
    assert expected != [one.partition(" orange")[0] for one in plain]
    assert any(caption.text != one for caption, one in zip(acting, expected, strict=True))


def test_what_the_model_cannot_answer_is_refused_by_name(tmp_path: Path) -> None:
    seen = run("-c", REFUSED, home=tmp_path).splitlines()[-4:]
    assert seen == [
        "video in the task films",
        "a task of lmms-eval with likelihoods (loglikelihood)",
        "a task of lmms-eval in several rounds (generate_until_multi_round)",
        "batch_size='auto'",
    ]


def test_settings_of_tasks_become_arguments_of_generate() -> None:
    greedy: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0, "top_p": 1.0, "num_beams": 1}
    greedy |= {"do_sample": False, "image_aspect_ratio": "pad", "until": ["\n\n", ""]}
    options, stops = generate_options(greedy)
    assert (options, stops) == (
        {"max_new_tokens": 8, "num_beams": 1, "do_sample": False},
        ["\n\n"],
    )
    sampled = {"temperature": 0.2, "top_p": None, "until": "."}
    expected = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": True, "temperature": 0.2}
    assert generate_options(sampled) == (expected, ["."])
    with pytest.raises(VlmHeadsError, match="seed, visual_cot in the generation_kwargs"):
        generate_options({"seed": 0, "visual_cot": True})


def test_plugins_of_a_model_argument() -> None:
    assert chosen("none") == []
    assert chosen("auto") == ["auto"]
    assert chosen('"vhr:alpha=2,layers=[1];pai"') == ["vhr:alpha=2,layers=[1]", "pai"]
