import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from vlmheads_eval.data import Sample
from vlmheads_eval.predict.model import Answer
from vlmheads_eval.predict.run import predict
from vlmheads_eval.run_folder import (
    LOCK,
    PREDICTIONS,
    merge,
    only_writer,
    put_in_order,
    read_config,
)

from vlmheads.errors import VlmHeadsError

NUMBER = 23
SAMPLES = [Sample(str(n), Path(f"{n}.png"), "What is there?", {"image_id": n}) for n in range(23)]
CONFIG = {"model": "none", "plugins": []}


class Killed(BaseException):
    pass


def describe(images, prompts):
    return [Answer(f"Ein Bild — {image}.", 4, False) for image in images]


def dying(after):
    """Describe until so many images were seen, then die."""
    seen = 0

    def fail(images, prompts):
        nonlocal seen
        seen += len(images)
        if seen > after:
            raise Killed
        return describe(images, prompts)

    return fail


def ask(run, describe=describe, config=CONFIG, samples=SAMPLES, batch_size=4, **options):
    def read(path):
        return path.stem

    options = {"read": read, **options}
    predict(run, config, samples, describe, batch_size=batch_size, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The predictions of a run that nobody stopped."""
    run = tmp_path_factory.mktemp("whole")
    ask(run)
    return (run / PREDICTIONS).read_bytes()


def test_a_prediction_is_one_line_with_what_was_asked_and_said(whole):
    first = json.loads(whole.splitlines()[0])
    assert first == {
        "sample": "0",
        "image_id": 0,
        "caption": "Ein Bild — 0.",
        "tokens": 4,
        "at_limit": False,
    }
    assert len(whole.splitlines()) == NUMBER


@pytest.mark.parametrize("point", range(20))
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(tmp_path, whole, point):
    draws = random.Random(point)
    for _ in range(3):
        with pytest.raises(Killed):
            ask(tmp_path, dying(draws.randrange(8)), batch_size=draws.randint(1, 5))
        path = tmp_path / PREDICTIONS
        if path.exists():
            content = path.read_bytes()
            path.write_bytes(content[: draws.randint(0, len(content))])
    ask(tmp_path, batch_size=draws.randint(1, 9))
    assert (tmp_path / PREDICTIONS).read_bytes() == whole


def test_nothing_done_is_asked_again(tmp_path):
    with pytest.raises(Killed):
        ask(tmp_path, dying(9))
    asked = []

    def listening(images, prompts):
        asked.extend(images)
        return describe(images, prompts)

    ask(tmp_path, listening)
    assert asked == [str(n) for n in range(8, NUMBER)]


def test_a_whole_last_line_without_its_end_is_kept(tmp_path, whole):
    ask(tmp_path)
    (tmp_path / PREDICTIONS).write_bytes(whole[:-1])
    ask(tmp_path, dying(0))
    assert (tmp_path / PREDICTIONS).read_bytes() == whole


def test_a_changed_config_is_refused_with_what_differs(tmp_path):
    ask(tmp_path)
    with pytest.raises(VlmHeadsError, match=r'another config: model "none" -> "other"; expected'):
        ask(tmp_path, config=CONFIG | {"model": "other"})
    assert read_config(tmp_path)["model"] == "none"


def test_two_writers_on_one_run_are_refused(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from vlmheads_eval.run_folder import only_writer\n"
        "with only_writer(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / LOCK)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(VlmHeadsError, match="another process writes"):
            ask(tmp_path)
    finally:
        other.communicate()
    ask(tmp_path)  # The lock went with the process.


def test_a_failing_image_is_recorded_and_does_not_stop_the_run(tmp_path):
    def read(path):
        if path.stem == "3":
            raise VlmHeadsError("3.png is not an image", "an image")
        return path.stem

    ask(tmp_path, read=read)
    lines = [json.loads(line) for line in (tmp_path / PREDICTIONS).read_text().splitlines()]
    assert lines[3] == {
        "sample": "3",
        "image_id": 3,
        "error": "3.png is not an image; expected an image",
    }
    assert sum("caption" in line for line in lines) == NUMBER - 1


def test_a_failed_image_is_asked_again_on_request(tmp_path, whole):
    def unreadable(path):
        raise VlmHeadsError("no image")

    ask(tmp_path, read=unreadable)
    ask(tmp_path, dying(0))
    ask(tmp_path, retry_failed=True)
    assert (tmp_path / PREDICTIONS).read_bytes() == whole


def test_a_batch_that_does_not_fit_is_halved(tmp_path, whole):
    sizes = []

    def small(images, prompts):
        sizes.append(len(images))
        if len(images) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return describe(images, prompts)

    ask(tmp_path, small, batch_size=8)
    assert (tmp_path / PREDICTIONS).read_bytes() == whole
    assert sizes[:3] == [8, 4, 2]


def test_another_fault_of_the_model_is_not_hidden(tmp_path):
    def broken(images, prompts):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        ask(tmp_path, broken)


def test_two_samples_of_one_name_are_refused(tmp_path):
    with pytest.raises(VlmHeadsError, match="two samples with the same key"):
        ask(tmp_path, samples=[*SAMPLES, SAMPLES[0]])


def test_a_line_of_something_else_is_named(tmp_path):
    (tmp_path / PREDICTIONS).write_text('{"image_id": 1}\n')
    with pytest.raises(VlmHeadsError, match=r"predictions\.jsonl:1: no key 'sample'"):
        ask(tmp_path)


def test_the_lock_is_free_after_a_run(tmp_path):
    ask(tmp_path)
    with only_writer(tmp_path / LOCK):
        pass


def launch(run, world, die_rank=-1, die_after=0):
    """Run the fake model on so many processes and return the exit status."""
    script = [str(Path(__file__).with_name("fake_run.py")), str(run), "41"]
    script += [str(die_rank), str(die_after)]
    launcher = [sys.executable]
    if world > 1:
        # This is how accelerate starts several processes; each of them then takes the CPU.
        launcher += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1"]
        launcher += [f"--num_processes={world}", "--mixed_precision=no", "--dynamo_backend=no"]
        launcher += ["--main_process_port=0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*launcher, *script], env=environment, capture_output=True, timeout=240, check=False
    )
    return finished.returncode, finished.stderr.decode()[-2000:]


@pytest.mark.parametrize("worlds", [(2, 1), (2, 3)])
def test_no_sample_is_lost_or_twice_when_a_process_is_killed(tmp_path, worlds):
    first, second = worlds
    status, _ = launch(tmp_path, first, die_rank=1, die_after=5)
    assert status != 0
    parts = list(tmp_path.glob("predictions.rank*.jsonl"))
    kept = sum(len(path.read_text().splitlines()) for path in parts)
    assert 0 < kept < 41
    status, errors = launch(tmp_path, second)
    assert status == 0, errors
    lines = [json.loads(line) for line in (tmp_path / PREDICTIONS).read_text().splitlines()]
    assert [line["sample"] for line in lines] == [str(n) for n in range(41)]
    assert not list(tmp_path.glob("predictions.rank*.jsonl"))


def test_a_retried_sample_of_another_process_replaces_its_failure(tmp_path):
    def line(sample, **fields):
        return json.dumps({"sample": sample, **fields}) + "\n"

    (tmp_path / PREDICTIONS).write_text(line("0", error="no image") + line("1", caption="A dog."))
    again = line("0", caption="A cat.") + line("1", caption="A bird.") + line("2", error="none")
    (tmp_path / "predictions.rank1.jsonl").write_text(again)
    merge(tmp_path)
    put_in_order(tmp_path, ["0", "1", "2"])
    lines = [json.loads(text) for text in (tmp_path / PREDICTIONS).read_text().splitlines()]
    assert [one.get("caption") for one in lines] == ["A cat.", "A dog.", None]
