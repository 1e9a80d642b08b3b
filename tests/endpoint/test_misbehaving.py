"""Servers that misbehave: one clear line, what is finished is kept, and the exit code is 2."""

import json
import threading

import pytest
from click.testing import CliRunner
from fake_server import MODEL, SOON, Reply, completion, fake_server
from PIL import Image

from vlmheads.cli import main

KEY = "sk-very-secret"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(14):
        Image.new("RGB", (16, 16 + number), "red").save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def run(fake, images, out=None, *options, count=3):
    names = [str(path) for path in sorted(images.iterdir())[:count]]
    where = ("--out", str(out)) if out else ()
    about = ("--endpoint", fake.url, "--model", MODEL, "--retries", "1", "--concurrency", "1")
    result = CliRunner().invoke(main, ["caption", *names, *about, *where, *options])
    assert KEY not in result.output
    assert "Traceback" not in result.output
    return result


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def errors(result):
    return [line for line in result.stderr.splitlines() if line.startswith("error:")]


def second(reply):
    """Answer well but for the second image."""

    def answer(body, number):
        return reply if number == 2 else completion(f"Picture {number}.")

    return answer


ONCE = {
    "refused": (completion("", refusal="I cannot help with that."), "refusal: I cannot help"),
    "filtered": (completion("", reason="content_filter"), "content_filter"),
    "empty": (completion(""), "got an empty caption"),
    "nothing": (completion(None), "got an empty caption"),
    "half a surrogate pair": (completion("\ud800"), "not UTF-8"),
    "bytes that are not UTF-8": (
        Reply(json.dumps(completion("Zoë"), ensure_ascii=False).encode("latin-1")),
        "not UTF-8",
    ),
    "too large": (Reply({"error": {"message": "image too large"}}, 400), "400: image too large"),
    "detail": (Reply({"detail": "bad field"}, 422), "422: bad field"),
    "cut JSON": (Reply(b'{"choices": [{"mess'), "cannot be read"),
    "a page": (Reply(b"<html>hello", kind="text/html"), "without a message"),
    "no choices": (completion() | {"choices": []}, "without a message"),
    "a list": (Reply([1, 2]), "without a message"),
    "parts": (completion([{"type": "text", "text": "A dog."}]), "answered with a list"),
}


@pytest.mark.parametrize("name", ONCE)
def test_an_answer_that_is_none_fails_its_image_alone(images, tmp_path, name):
    reply, said = ONCE[name]
    out = tmp_path / "c.jsonl"
    with fake_server(second(reply)) as fake:
        result = run(fake, images, out)
    assert result.exit_code == 2
    assert [said in line for line in errors(result)] == [True], result.stderr
    assert [line["text"] for line in lines(out)] == ["Picture 1.", "Picture 3."]
    assert [line["file_name"] for line in lines(tmp_path / "c.job" / "failed.jsonl")] == ["01.png"]


PASSING = {
    "too many": Reply({"error": {"message": "slow down"}}, 429, SOON),
    "server error": Reply({"error": "oops"}, 500, SOON),
    "unavailable": Reply(b"", 503, SOON),
    "closed": Reply(drop=True),
    "cut": Reply(completion(), length=10_000),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(images, name):
    with fake_server(second(PASSING[name])) as fake:
        result = run(fake, images)
    assert result.exit_code == 0, result.stderr
    assert len(fake.asked) == 4
    assert "01.png: Picture 3." in result.stdout


def test_all_requests_wait_as_long_as_the_server_says(images):
    from time import monotonic

    times = []

    def answer(body, number):
        times.append(monotonic())
        return Reply({}, 429, {"retry-after": "0.4"}) if number == 1 else completion()

    with fake_server(answer) as fake:
        result = run(fake, images, None, "--concurrency", "3")
    assert result.exit_code == 0, result.stderr
    late = [time - times[0] for time in times[1:]]
    # Those that were under way beside the first were not told.
    assert sum(one > 0.35 for one in late) >= 1
    assert not any(0.2 < one < 0.35 for one in late)


def test_a_server_that_is_gone_ends_the_job_and_keeps_what_is_done(images, tmp_path):
    def answer(body, number):
        return completion(f"Picture {number}.") if number <= 2 else Reply(drop=True)

    out = tmp_path / "c.jsonl"
    with fake_server(answer) as fake:
        result = run(fake, images, out, "--retries", "0", count=14)
    assert result.exit_code == 2
    assert [line.split(";")[0].split(" (")[0] for line in errors(result)] == [
        f"error: 10 requests in a row failed, the last because {fake.url}"
    ]
    assert "run the same command again" in result.stderr
    assert len(lines(out)) == 2
    assert not (tmp_path / "c.job" / "failed.jsonl").exists()
    with fake_server(lambda body, number: completion()) as other:
        again = run(other, images, tmp_path / "other.jsonl", count=14)
    assert again.exit_code == 0


def test_the_same_command_goes_on(images, tmp_path):
    broken = True

    def answer(body, number):
        return Reply({"error": "down"}, 500, SOON) if broken and number > 3 else completion()

    out = tmp_path / "c.jsonl"
    with fake_server(answer) as fake:
        assert run(fake, images, out, "--retries", "0", count=14).exit_code == 2
        broken = False
        result = run(fake, images, out, "--retries", "0", count=14)
        assert result.exit_code == 0, result.stderr
        assert "11 captioned, 3 had a caption" in result.stdout
    assert [line["file_name"] for line in lines(out)] == [f"{n:02d}.png" for n in range(14)]


def test_a_slow_server_is_named(images):
    never = threading.Event()
    slow = Reply(completion(), wait=never)
    with fake_server(lambda body, number: slow) as fake:
        result = run(fake, images, None, "--timeout", "0.3", "--retries", "0", count=1)
        never.set()
    assert result.exit_code == 2
    assert "gave no answer within 0.3 s; raise --timeout" in errors(result)[0]


def test_a_wrong_key_ends_the_job_and_is_not_shown(images, tmp_path):
    reply = Reply({"error": {"message": f"wrong key: {KEY}"}}, 401)
    with fake_server(lambda body, number: reply) as fake:
        result = run(fake, images, tmp_path / "c.jsonl")
    assert result.exit_code == 2
    assert len(fake.asked) == 1
    assert "answered 401: wrong key: ***; put the key into the environment" in errors(result)[0]
    assert set(fake.keys) == {f"Bearer {KEY}"}
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def probing(reply):
    def answer(body, number):
        return completion()

    answer.probed = reply
    return answer


BLIND = {
    "left out": (lambda body, shown: completion(prompt=10), "leaves the image out"),
    "refused": (
        lambda body, shown: Reply({"error": "no image input"}, 400) if shown else completion(),
        "answers fake without an image, and not with one",
    ),
}


@pytest.mark.parametrize("name", BLIND)
def test_a_model_without_images_is_refused(images, name):
    reply, said = BLIND[name]
    with fake_server(probing(reply)) as fake:
        result = run(fake, images)
    assert result.exit_code == 2
    assert len(errors(result)) == 1
    assert said in errors(result)[0]
    assert not fake.asked


STRANGE = {
    "another model": (Reply({"object": "list", "data": [{"id": "other"}]}), "one that it lists"),
    "no list": (Reply(b"<html>", kind="text/html"), ""),
    "not found": (Reply({}, 404), ""),
    "wrong key": (Reply({"error": {"message": "no"}}, 401), "answered 401: no"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_the_list_of_models_may_be_anything(images, name):
    models, said = STRANGE[name]

    def answer(body, number):
        return completion()

    if name == "another model":
        answer.probed = lambda body, shown: Reply({"error": "unknown"}, 404)
    with fake_server(answer, models=models) as fake:
        result = run(fake, images, None, "--retries", "0")
    assert "Traceback" not in result.output
    if said:
        assert result.exit_code == 2
        assert said in errors(result)[0]
    elif name == "not found":
        assert result.exit_code == 0, result.stderr


def test_nothing_at_the_address_is_one_line(images):
    with fake_server(lambda body, number: completion()) as fake:
        pass
    result = run(fake, images, None, "--retries", "0")
    assert result.exit_code == 2
    assert len(errors(result)) == 1
    assert "cannot be reached" in errors(result)[0]
