"""Real servers with the embedded model: transformers' own, and ours with a plugin attached."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from vlmheads.cli import main
from vlmheads.endpoint.client import Question, connected
from vlmheads.endpoint.images import data_url_of, read_data_url
from vlmheads.endpoint.probe import LOGPROBS, probe
from vlmheads.endpoint.settings import Endpoint
from vlmheads.errors import VlmHeadsError
from vlmheads.model.loading import locate

START = 90  # seconds, on a machine that does much else
TRANSFORMERS = "from transformers.cli.transformers import main; main()"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command: list[str], log: Path) -> subprocess.Popen:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text("utf-8")[-2000:]
        try:
            urllib.request.urlopen(f"{url}/models", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no answer within {START} s: {log.read_text('utf-8')[-2000:]}")


def stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Both, started side by side: kind -> base URL and name of the model."""
    folder = tmp_path_factory.mktemp("servers")
    model = locate("embedded")
    ports = {"transformers": free_port(), "ours": free_port()}
    logs = {kind: folder / f"{kind}.log" for kind in ports}
    place = ["--host", "127.0.0.1", "--port", str(ports["transformers"])]
    theirs = [sys.executable, "-c", TRANSFORMERS, "serve", model, *place]
    ours = [sys.executable, "-m", "vlmheads", "serve", "--port", str(ports["ours"])]
    running = {
        "transformers": start(
            [*theirs, "--device", "cpu", "--dtype", "float32"], logs["transformers"]
        ),
        "ours": start([*ours, "--plugin", "vhr"], logs["ours"]),
    }
    try:
        urls = {kind: f"http://127.0.0.1:{port}/v1" for kind, port in ports.items()}
        for kind, process in running.items():
            wait_for(urls[kind], process, logs[kind])
        yield {"transformers": (urls["transformers"], model), "ours": (urls["ours"], "embedded")}
    finally:
        for process in running.values():
            stop(process)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    from vlmheads_testbed.scenes import scene

    folder = tmp_path_factory.mktemp("scenes")
    for number in range(4):
        scene("test", 0, number).image.save(folder / f"{number}.png")
    return folder


def run(*arguments):
    result = CliRunner().invoke(main, [str(part) for part in arguments])
    assert result.exit_code == 0, result.output
    return result


def about(servers, kind):
    url, name = servers[kind]
    return ("--endpoint", url, "--model", name)


LOCAL = {"transformers": "none", "ours": "vhr"}


@pytest.mark.parametrize("kind", LOCAL)
def test_a_served_model_says_what_it_says_here(servers, scenes, kind):
    there = run("caption", scenes, *about(servers, kind))
    here = run("caption", scenes, "--plugin", LOCAL[kind])
    assert there.stdout == here.stdout
    assert here.stdout.count("\n") == 4


@pytest.mark.parametrize("kind", LOCAL)
def test_a_run_of_questions_is_the_same_and_resumed(servers, scenes, tmp_path, kind):
    names = ("cat", "fork", "person")
    questions = [
        {
            "question_id": number,
            "image": f"{number // 3}.png",
            "text": f"Is there a {names[number % 3]} in the image?",
            "label": "no",
        }
        for number in range(9)
    ]
    file = tmp_path / "pope_random.json"
    file.write_text("".join(json.dumps(one) + "\n" for one in questions))
    task = ("eval", "predict", "--task", "pope", "--data", file, "--images", scenes)
    run(*task, "--out", tmp_path / "there", *about(servers, kind))
    plugin = () if kind == "transformers" else ("--plugin", LOCAL[kind])
    run(*task, "--out", tmp_path / "here", *plugin)
    there, here = (
        [
            json.loads(line)
            for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()
        ]
        for name in ("there", "here")
    )
    assert [line["answer"] for line in there] == [line["answer"] for line in here]
    assert [line["image_sha256"] for line in there] == [line["image_sha256"] for line in here]
    config = json.loads((tmp_path / "there" / "config.json").read_text())
    assert config["server"]["listed"]["id"] == servers[kind][1]
    assert config["server"]["logprobs"] is (kind == "ours")
    # Cut off in the middle, it asks only what is missing.
    kept = (tmp_path / "there" / "predictions.jsonl").read_text().splitlines(True)
    (tmp_path / "there" / "predictions.jsonl").write_text("".join(kept[:-3]) + kept[-3][:20])
    run(*task, "--out", tmp_path / "there", *about(servers, kind))
    assert (tmp_path / "there" / "predictions.jsonl").read_text() == "".join(kept)


def test_words_are_flagged_by_our_server_and_not_by_one_without_log_probabilities(servers, scenes):
    image = scenes / "0.png"
    found = run("caption", image, *about(servers, "ours"), "--flag", "--json")
    words = json.loads(found.stdout)["words"]
    assert words
    assert all(0 <= word["score"] <= 1 for word in words)
    result = CliRunner().invoke(
        main, ["caption", str(image), *about(servers, "transformers"), "--flag"]
    )
    assert result.exit_code == 2
    assert "returns no log-probabilities" in result.stderr


def test_p_yes_of_our_server_is_that_of_the_model(servers, scenes):
    from vlmheads_plugins.vhr import VHR

    from vlmheads import attach
    from vlmheads.caption import Captioner
    from vlmheads.grounding.questions import question_about, read_answer, read_served_answer

    url, name = servers["ours"]
    image = read_data_url(scenes / "0.png")
    prompt = question_about("cat")
    with connected(Endpoint(url, name)) as client:
        answer = client.one(Question(0, prompt, image, 1, LOGPROBS))
    captioner = Captioner.from_pretrained("embedded")
    inputs = captioner.prepare([scenes / "0.png"], prompt)
    with attach(captioner.model, VHR()):
        out = captioner.model.generate(
            **inputs, max_new_tokens=1, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    log = out.logits[0][0].log_softmax(-1).tolist()
    vocabulary = captioner.processor.tokenizer.get_vocab()
    expected = read_answer({text: log[at] for text, at in vocabulary.items()})
    found = read_served_answer(answer.first)
    assert found.p_yes == pytest.approx(expected.p_yes, abs=1e-5)
    assert found.low <= expected.p_yes + 1e-6
    assert expected.p_yes - 1e-6 <= found.high


def test_the_probe_knows_both(servers):
    for kind, (url, name) in servers.items():
        with connected(Endpoint(url, name)) as client:
            server = probe(client)
        assert (server.answered, server.logprobs) == (name, kind == "ours")


@pytest.mark.parametrize("kind", LOCAL)
def test_a_model_that_is_not_served_is_named(servers, kind):
    endpoint = Endpoint(servers[kind][0], "nothing/like-it")
    refused = pytest.raises(VlmHeadsError, match="serves no model 'nothing/like-it'")
    with connected(endpoint) as client, refused:
        probe(client)


def test_our_server_streams(servers):
    import openai
    from vlmheads_testbed.scenes import scene

    url, name = servers["ours"]
    image = {"type": "image_url", "image_url": {"url": data_url_of(scene("test", 0, 0).image)}}
    content = [image, {"type": "text", "text": "Describe the image."}]
    asked = {"model": name, "messages": [{"role": "user", "content": content}]}
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**asked)
        with client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = list(stream)
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert len([part for part in parts if part]) > 3
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


def test_our_server_ends_at_a_signal_and_says_so(tmp_path):
    command = [sys.executable, "-m", "vlmheads", "serve", "--port", "0", "--plugin", "none"]
    process = start(command, tmp_path / "log")
    try:
        deadline = time.monotonic() + START
        while not (said := re.search(r"served at (\S+/v1)", (tmp_path / "log").read_text())):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        wait_for(said[1], process, tmp_path / "log")
        taken = str(int(said[1].split(":")[2].split("/")[0]))
        result = CliRunner().invoke(main, ["serve", "--port", taken])
        assert (result.exit_code, "cannot be listened on" in result.stderr) == (2, True)
    finally:
        stop(process)
    assert process.returncode == 0
    assert (tmp_path / "log").read_text().rstrip().endswith("stopped")
