"""What is sent to a server, and what is read from it."""

import base64
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_server import MODEL, Reply, completion, fake_server, logprobs
from PIL import Image

from vlmheads.cli import main
from vlmheads.endpoint.answers import read_error
from vlmheads.endpoint.client import Question, connected
from vlmheads.endpoint.images import data_url
from vlmheads.endpoint.probe import probe
from vlmheads.endpoint.settings import Endpoint
from vlmheads.errors import VlmHeadsError


def encoded(image, kind, **about):
    file = io.BytesIO()
    image.save(file, kind, **about)
    return file.getvalue()


def sent(content):
    head, _, body = data_url(content, "x").partition(";base64,")
    return head, base64.b64decode(body)


RED = Image.new("RGB", (20, 10), "red")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_files_that_every_server_reads_are_sent_as_they_are(kind):
    content = encoded(RED, kind)
    assert sent(content) == (f"data:image/{kind.lower()}", content)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(RED, "JPEG", exif=exif)


OTHERS = {
    "BMP": encoded(RED, "BMP"),
    "GIF": encoded(RED, "GIF"),
    "transparent": encoded(RED.convert("RGBA"), "PNG"),
    "CMYK": encoded(RED.convert("CMYK"), "JPEG"),
    "palette": encoded(RED.convert("P"), "PNG"),
    "turned": turned(),
    "animated": encoded(
        RED, "WEBP", save_all=True, append_images=[Image.new("RGB", RED.size, "blue")]
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_servers_read_in_different_ways_is_sent_as_a_local_model_sees_it(name):
    head, content = sent(OTHERS[name])
    image = Image.open(io.BytesIO(content))
    assert (head, image.format, image.mode) == ("data:image/png", "PNG", "RGB")
    assert image.size == ((10, 20) if name == "turned" else (20, 10))


def test_a_file_that_is_no_image_is_refused():
    with pytest.raises(VlmHeadsError, match="x is not an image"):
        data_url(b"hello", "x")


def ask(fake, questions, **about):
    with connected(Endpoint(fake.url, MODEL, **about)) as client:
        return list(client.ask(questions))


def test_the_image_stands_before_the_text():
    with fake_server(lambda body, number: completion()) as fake:
        found = ask(
            fake, [Question(0, "What?", "data:image/png;base64,AA", 9)], fields={"top_k": 1}
        )
    assert [answer.text for _, answer in found] == ["A dog."]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    content = [image, {"type": "text", "text": "What?"}]
    assert fake.asked == [
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 9,
            "top_k": 1,
        }
    ]


def test_no_more_requests_are_in_flight_than_allowed():
    from time import sleep

    def answer(body, number):
        sleep(0.02)
        return completion()

    with fake_server(answer) as fake:
        found = ask(fake, [Question(n, "?", None, 9) for n in range(20)], concurrency=4)
    assert len(found) == 20
    assert fake.most == 4


def test_requests_start_at_the_rate_that_was_asked_for():
    from time import monotonic

    with fake_server(lambda body, number: completion()) as fake:
        started = monotonic()
        ask(fake, [Question(n, "?", None, 9) for n in range(5)], per_minute=600)
    assert monotonic() - started > 0.4


def test_an_answer_at_the_limit_is_told():
    with fake_server(lambda body, number: completion(reason="length")) as fake:
        found = ask(fake, [Question(0, "?", None, 9)])
    assert [(answer.at_limit, answer.tokens) for _, answer in found] == [(True, 3)]


def test_a_server_is_known_by_what_it_says_of_itself():
    def answer(body, number):
        return completion()

    answer.probed = lambda body, shown: completion(
        prompt=70 if shown else 10, system_fingerprint="fp1", model="fake-2"
    )
    with fake_server(answer) as fake, connected(Endpoint(fake.url, MODEL)) as client:
        assert probe(client).to_dict() == {
            "url": fake.url,
            "model": MODEL,
            "listed": {"id": MODEL},
            "answered": "fake-2",
            "system_fingerprint": "fp1",
            "logprobs": False,
        }


def test_a_server_that_wants_another_field_for_the_limit_gets_it():
    def answer(body, number):
        if "max_tokens" in body:
            said = "Unsupported parameter: use 'max_completion_tokens' instead"
            return Reply({"error": {"message": said}}, 400)
        return completion()

    def probed(body, shown):
        found = answer(body, 0)
        return found if isinstance(found, Reply) else completion(prompt=70 if shown else 10)

    answer.probed = probed
    with fake_server(answer) as fake, connected(Endpoint(fake.url, MODEL)) as client:
        probe(client)
        found = list(client.ask([Question(0, "?", None, 9)]))
    assert [answer.text for _, answer in found] == ["A dog."]


URLS = [
    "localhost:8000",
    "ftp://x/v1",
    "http://",
    "http://u:p@x/v1",
    "http://x/v1?key=1",
    "http://x:y/",
]


@pytest.mark.parametrize("url", URLS)
def test_what_is_no_address_is_refused_without_its_password(url):
    with pytest.raises(VlmHeadsError) as caught:
        Endpoint(url, MODEL)
    assert ":p@" not in str(caught.value)


REFUSED = {
    "caption": """--plugin vhr|--dtype float16|--device cpu|--device-map auto
    |--quantization bnb-4bit|--attn sdpa|--compare|--batch-size 2|--token-budget 9""",
    "eval predict": """--plugin vhr|--dtype float16|--device cpu|--control text-only
    |--control-seed 1|--batch-size 2""",
}
CASES = [
    (name, option.split()) for name, options in REFUSED.items() for option in options.split("|")
]


@pytest.mark.parametrize(("name", "option"), CASES)
def test_options_of_a_local_model_are_refused_by_name(name, option, tmp_path):
    place = [str(tmp_path / "x.png")] if name == "caption" else []
    out = ["--out", str(tmp_path / "x.jsonl")]
    about = ["--endpoint", "http://127.0.0.1:1/v1", "--model", MODEL]
    result = CliRunner().invoke(main, [*name.split(), *place, *about, *out, *option])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {option[0]} with --endpoint")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "option", ["--concurrency 2", "--timeout 3", "--retries 1", "--request-fields {}"]
)
def test_options_of_an_endpoint_need_one(option):
    result = CliRunner().invoke(main, ["caption", "x.png", *option.split()])
    assert result.exit_code == 2
    assert "without --endpoint" in result.stderr


def test_objects_are_flagged_by_what_the_server_answers_about_them(tmp_path):
    RED.save(tmp_path / "x.png")

    def answer(body, number):
        text = body["messages"][0]["content"][1]["text"]
        if text.startswith("Is there a cat"):
            return completion("No", logprobs=logprobs(0.1, 0.8))
        if text.startswith("Is there a dog"):
            return completion("Yes", logprobs=logprobs(0.8, 0.1))
        return completion("There is a dog. There is a cat.")

    with fake_server(answer) as fake:
        about = ["--endpoint", fake.url, "--model", MODEL, "--flag", "--drop", "--json"]
        result = CliRunner().invoke(main, ["caption", str(tmp_path / "x.png"), *about])
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    found = {word["text"]: (round(word["score"], 3), word["flagged"]) for word in record["words"]}
    assert found == {"dog": (0.889, False), "cat": (0.111, True)}
    assert record["rewrite"] == "There is a dog."
    assert "not calibrated" in result.stderr
    images = {body["messages"][0]["content"][0]["image_url"]["url"] for body in fake.asked}
    assert len(images) == 1
    assert all(body["messages"][0]["content"][0]["type"] == "image_url" for body in fake.asked)


def test_a_server_without_log_probabilities_cannot_flag(tmp_path):
    RED.save(tmp_path / "x.png")

    def answer(body, number):
        return completion()

    answer.probed = lambda body, shown: completion(prompt=70 if shown else 10)
    with fake_server(answer) as fake:
        about = ["--endpoint", fake.url, "--model", MODEL, "--flag"]
        result = CliRunner().invoke(main, ["caption", str(tmp_path / "x.png"), *about])
    assert result.exit_code == 2
    assert "returns no log-probabilities (top_logprobs)" in result.stderr
    assert not fake.asked


def scorer(weights) -> str:
    from vlmheads.grounding.scores import Scorer

    return json.dumps(Scorer(weights).to_dict())


def test_a_scorer_of_what_servers_do_not_return_is_refused(tmp_path: Path):
    (tmp_path / "s.json").write_text(scorer({"p_yes": 1.0, "attention": 1.0}))
    about = ["--endpoint", "http://127.0.0.1:1/v1", "--model", MODEL]
    about += ["--flag", "--scorer", str(tmp_path / "s.json")]
    result = CliRunner().invoke(main, ["caption", "x.png", *about])
    assert result.exit_code == 2
    assert "weighs attention, which p-yes does not give" in result.stderr


def prompt_logprobs(tokens, logs):
    """As vLLM has them: nothing for the first token, and further ones where they were likelier."""
    entries = [
        {"7": {"logprob": log, "rank": 2, "decoded_token": token}, "8": {"logprob": 0.0}}
        for token, log in zip(tokens, logs, strict=True)
    ]
    return [None, *[{"1": {"logprob": -1.0, "decoded_token": "<image>"}}] * 3, *entries]


def test_the_gain_of_the_image_is_read_from_the_end_of_the_prompt(tmp_path):
    from math import exp

    RED.save(tmp_path / "x.png")
    tokens = ["A", "\u0120do", "g", " and", "\u2581a", "cat", "."]
    given = [-1, -2, -3, -1, -1, -4, -1]

    def answer(body, number):
        if body.get("prompt_logprobs") != 0:
            return completion("A dog and a cat.")
        if "image_url" not in json.dumps(body):
            without = [-1, -4, -4, -1, -1, -1, -1]
            return completion("", prompt_logprobs=prompt_logprobs(tokens, without))
        return completion("", prompt_logprobs=prompt_logprobs(tokens, given))

    with fake_server(answer) as fake:
        about = ["--endpoint", fake.url, "--model", MODEL, "--flag", "--json", "--signal", "gain"]
        result = CliRunner().invoke(main, ["caption", str(tmp_path / "x.png"), *about])
    assert result.exit_code == 0, result.stderr
    found = {word["text"]: word["score"] for word in json.loads(result.stdout)["words"]}
    assert found == pytest.approx({"dog": 1 / (1 + exp(-3)), "cat": 1 / (1 + exp(3))})
    asked = [body for body in fake.asked if "prompt_logprobs" in body]
    assert {body["messages"][-1]["content"] for body in asked[1:]} == {"A dog and a cat."}
    assert all(body["continue_final_message"] is True for body in asked)


def test_a_server_without_log_probabilities_of_the_prompt_has_no_gain(tmp_path):
    RED.save(tmp_path / "x.png")
    with fake_server(lambda body, number: completion()) as fake:
        about = ["--endpoint", fake.url, "--model", MODEL, "--flag", "--signal", "gain"]
        result = CliRunner().invoke(main, ["caption", str(tmp_path / "x.png"), *about])
    assert result.exit_code == 2
    assert "returns no log-probabilities of the prompt (prompt_logprobs)" in result.stderr


def test_an_error_that_is_cut_off_keeps_no_part_of_the_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    endpoint = Endpoint("http://localhost:1/v1", MODEL)
    said = str(read_error(ValueError("x" * 190 + "sk-very-secret"), endpoint).error)
    assert "x***" in said
    assert "sk-" not in said
