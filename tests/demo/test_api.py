from __future__ import annotations

import base64
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from vlmheads_demo.middleware import UPLOADS
from vlmheads_demo.services.images import draw_scene

pytestmark = pytest.mark.xdist_group("demo")

SCENE = "counterfactual:9"
SHORT = {"max_new_tokens": 16}


@pytest.fixture(scope="module")
def client(served):
    return Client(served.address, verbose=False)


@pytest.fixture(scope="module")
def web(served):
    with httpx.Client(base_url=served.address, timeout=60) as found:
        yield found


def described(client, **given):
    return client.predict(**{"scene": SCENE, "decoding": SHORT} | given, api_name="/describe")


def repeatable(answer):
    """The captions of an answer without their times."""
    return [
        {key: value for key, value in one.items() if key != "seconds"} for one in answer["captions"]
    ]


def test_the_endpoints_are_named_and_described(client):
    found = client.view_api(return_format="dict")["named_endpoints"]
    names = ["/describe", "/stream", "/evaluate", "/attention", "/export", "/methods", "/stop"]
    names += ["/inspect", "/relevancy", "/patch"]
    assert sorted(names) == sorted(found)
    assert all(found[name]["description"] for name in names)


def test_a_client_gets_the_captions_of_the_captioner(client, model):
    answer = described(client, methods=[[{"name": "vhr", "options": {"alpha": 3}}]])
    image = draw_scene(SCENE).image
    options = {"max_new_tokens": 16, "words": True}
    expected = [
        model.captioner([image], plugins=plugins, **options)[0] for plugins in ((), "vhr:alpha=3.0")
    ]
    assert [one["name"] for one in answer["captions"]] == ["plain", "vhr:alpha=3"]
    assert [caption.text for caption in expected] == [c["caption"] for c in answer["captions"]]
    for caption, one in zip(expected, answer["captions"], strict=True):
        scores = [round(word["score"], 4) for word in one["words"]]
        assert [round(word.score, 4) for word in caption.words] == scores


def test_an_upload_is_described_as_its_scene_is(client, tmp_path):
    draw_scene(SCENE).image.save(tmp_path / "farm.png")
    answer = described(client, image=handle_file(tmp_path / "farm.png"), scene="")
    assert described(client)["captions"][0]["caption"] == answer["captions"][0]["caption"]
    assert answer["objects"] is None
    assert answer["captions"][0]["words"][-1]["correct"] is None


def test_a_stream_grows_and_ends_with_the_result(client):
    job = client.submit(scene=SCENE, decoding=SHORT, api_name="/stream")
    parts = list(job)
    counts = [part["captions"][0]["tokens"] for part in parts[:-1] if part["captions"]]
    assert sorted(counts) == counts
    assert len(set(counts)) > 3
    assert described(client)["captions"][0]["caption"] == parts[-1]["captions"][0]["caption"]


def test_attention_of_a_word_can_be_asked_for_head_by_head(client):
    answer = described(client)
    number, word = next((n, w) for n, w in enumerate(answer["captions"][0]["words"]) if w["object"])
    mean = client.predict(answer["result"], 0, number, api_name="/attention")
    one = client.predict(answer["result"], 0, number, 3, 5, api_name="/attention")
    assert mean["grid"] == [8, 8]
    assert word["overlay"] == pytest.approx(mean["values"], abs=1e-5)
    assert mean["values"] != one["values"]
    assert all(value >= 0 for value in one["values"])
    assert sum(one["values"]) <= 1.001


def test_a_token_a_word_and_a_place_can_be_asked_for(client):
    answer = described(client, methods=[[{"name": "cfg"}]])
    key, (plain, other) = answer["result"], answer["captions"]
    found = client.predict(key, 1, 0, api_name="/inspect")
    assert found["token"] == other["caption"].split()[0]
    assert [len(found[name]) for name in ("with_image", "without_image", "method")] == [20] * 3
    assert client.predict(key, 0, 0, api_name="/inspect")["method"] is None
    number = next(n for n, word in enumerate(plain["words"]) if word["object"])
    values = client.predict(key, 0, number, api_name="/relevancy")["values"]
    assert len(values) == 64
    assert max(values) > min(values) >= 0
    place = client.predict(key, 27, 0, api_name="/patch")
    assert (len(place["levels"]), len(place["words"])) == (9, 5)
    with pytest.raises(AppError, match="from 0 to 63"):
        client.predict(key, 64, 0, api_name="/patch")


def test_methods_come_with_their_group_and_what_is_known(client):
    found = {method["name"]: method for method in client.predict(api_name="/methods")}
    assert found["vhr"]["group"] == "heads"
    assert found["vhr"]["evidence"]["mark"] == "worse"


def test_an_evaluation_of_another_kind_gets_a_clear_message(client):
    for given, message in (
        ({"methods": 5}, "methods that are a number"),
        ({"methods": [], "scenes": "many"}, "scenes=many"),
        ({"methods": [], "split": ["test"]}, "split"),
    ):
        with pytest.raises(AppError, match=message):
            client.predict(**given, api_name="/evaluate")


def test_an_export_contains_pictures(client):
    answer = described(client)
    found = client.predict(answer["result"], api_name="/export")
    assert answer == found["json"]
    for data in found["pictures"].values():
        with Image.open(BytesIO(base64.b64decode(data))) as image:
            image.verify()


def test_eight_clients_at_once_get_what_each_gets_alone(served):
    methods = [[], *([[{"name": name}]] for name in ("vhr", "pai", "spin", "vaf", "cfg", "vcd"))]
    methods.append([[{"name": "vhr", "options": {"alpha": 4}}]])
    clients = [Client(served.address, verbose=False) for _ in methods]

    def ask(pair):
        return repeatable(described(pair[0], methods=pair[1], decoding={"max_new_tokens": 8}))

    alone = [ask(pair) for pair in zip(clients, methods, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, zip(clients, methods, strict=True)))
    assert alone == together


def test_a_cancelled_run_leaves_the_model_as_it_was(served, client):
    before = repeatable(described(client))
    other = Client(served.address, verbose=False)
    long = {"max_new_tokens": 512, "temperature": 2.0, "seed": 3}
    job = other.submit(scene=SCENE, methods=[[{"name": "pai"}]], decoding=long, api_name="/stream")
    next(iter(job))
    stopped = other.predict(api_name="/stop")
    last = list(job)[-1]
    assert stopped == 1
    assert last["stage"] == "stopped"
    second = other.submit(scene=SCENE, decoding=long, api_name="/stream")
    next(iter(second))
    second.cancel()
    assert before == repeatable(described(client))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scene": "", "image": None}, "no picture"),
        ({"scene": "train:0"}, "expected test:N or counterfactual:N"),
        ({"methods": [[{"name": "nonesuch"}]]}, "no plugin is called 'nonesuch'"),
        ({"methods": [[{"name": "vhr", "options": {"alpha": 99}}]]}, "from 0 to 10"),
        ({"methods": [[{"name": "icd"}]]}, "icd"),
        ({"model": "llava-hf/llava-1.5-7b-hf"}, "is not served here"),
        ({"decoding": {"max_new_tokens": 9999}}, "from 1 to 512"),
        ({"prompt": ""}, "an empty prompt"),
        (
            {"methods": [[{"name": "vhr", "options": {"head_map": "/etc/passwd"}}]]},
            "cannot be set",
        ),
        ({"methods": [["vhr-llava15.json"]]}, "method"),
        ({"methods": 5}, "methods that are a number"),
        ({"methods": {"name": "vhr"}}, "methods that are a JSON object"),
        ({"decoding": [64]}, "decoding that is a list; expected an object with some of"),
        ({"decoding": "greedy"}, "decoding that is a text"),
        ({"scene": "", "image": 7}, "an image that is a number"),
        ({"scene": ["test:1"]}, "expected test:N or counterfactual:N"),
        ({"prompt": 5}, "a prompt that is a number; expected a text"),
        ({"prompt": "What is on <image>?"}, "holds '<image>', which stands for an image"),
        ({"tau": "high"}, "tau='high'; expected a number"),
    ],
)
def test_a_client_gets_a_clear_message(client, given, message):
    with pytest.raises(AppError, match=re.escape(message)) as error:
        described(client, **given)
    assert "Traceback" not in str(error.value)


TRAVERSAL = (
    "/etc/passwd",
    "/proc/self/environ",
    f"{UPLOADS}/../../etc/passwd",
    f"{UPLOADS}/%2e%2e/%2e%2e/etc/passwd",
    "../../../../etc/passwd",
    "..\\..\\etc\\passwd",
    f"{UPLOADS}//etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x",
)


@pytest.mark.parametrize("path", TRAVERSAL)
def test_files_outside_the_uploads_cannot_be_fetched(web, path):
    for prefix in ("/gradio_api/file=", "/file="):
        answer = web.get(f"{prefix}{path}")
        assert answer.status_code in (400, 403, 404), answer.status_code
        assert "root:" not in answer.text


@pytest.mark.parametrize("path", TRAVERSAL)
def test_files_outside_the_uploads_cannot_be_described(web, path):
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "", None, "x", "", None, 20]
    started = web.post("/gradio_api/call/describe", json={"data": data})
    if started.status_code == 200:
        answer = web.get(f"/gradio_api/call/describe/{started.json()['event_id']}")
        assert "event: error" in answer.text
        assert "root:" not in answer.text
        assert "caption" not in answer.text


def test_an_upload_with_a_path_as_its_name_stays_in_the_folder(web):
    data = BytesIO()
    draw_scene(SCENE).image.save(data, format="PNG")
    name = f"../../../..{tempfile.gettempdir()}/vlmheads-escaped.png"
    files = {"files": (name, data.getvalue(), "image/png")}
    (path,) = web.post("/gradio_api/upload", files=files).json()
    assert path.startswith(UPLOADS)
    assert ".." not in path
    assert not (Path(tempfile.gettempdir()) / "vlmheads-escaped.png").exists()
    assert web.get(f"/gradio_api/file={path}").status_code == 200


def test_a_large_upload_is_refused(web):
    files = {"files": ("x.png", bytes(21 * 2**20), "image/png")}
    assert web.post("/gradio_api/upload", files=files).status_code == 413


def test_no_path_of_the_machine_reaches_a_client(web, client, served, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    texts = [web.get(path).text for path in ("/", "/config", "/gradio_api/info", "/theme.css")]
    with pytest.raises(AppError, match=r"bad\.png is not a picture") as error:
        described(client, image=handle_file(tmp_path / "bad.png"), scene="")
    texts += [str(error.value), str(described(client))]
    files = {"files": ("x.png", b"x", "image/png")}
    texts.append(web.post("/gradio_api/upload", files=files).text)
    texts.append(web.get(f"/gradio_api/file={UPLOADS}/nothing").text)
    private = [str(Path(__file__).parents[2]), sys.prefix, str(Path.home()) + "/"]
    private += [tempfile.gettempdir() + "/", "site-packages"]
    for text in texts:
        assert not [path for path in private if path in text]


def test_the_page_needs_nothing_from_elsewhere(web):
    page = web.get("/").text
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:)?//([^"/]+)', page)
    assert {host for _, host in loaded} <= {
        web.base_url.netloc.decode(),
        "raw.githubusercontent.com",
    }


def test_the_server_listens_on_this_machine_only(served):
    assert served.address.startswith("http://127.0.0.1:")
