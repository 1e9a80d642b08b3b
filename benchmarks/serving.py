"""Show that vLLM says what transformers says, plain and with a plugin baked into the checkpoint.

    python benchmarks/serving.py --vllm /path/to/vllm/bin/python --out out/serving.json

vLLM lives in an environment of its own, whose Python is given. Four things are shown on scenes of
the test bench: plain vLLM gives the tokens of plain transformers; the baked checkpoint in vLLM
gives those of the attached plugin; `vlmheads eval predict --endpoint` against vLLM's OpenAI server
gives the captions of the attached plugin; and the baked checkpoint is as fast as the plain one,
both loaded side by side and timed in turns, by the processor time of their processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from vlmheads_testbed.scenes import scene

from vlmheads import __version__
from vlmheads.caption import PROMPT, Captioner
from vlmheads.endpoint.answers import Failure
from vlmheads.endpoint.client import Question, connected
from vlmheads.endpoint.images import data_url_of
from vlmheads.endpoint.probe import LOGPROBS
from vlmheads.endpoint.settings import Endpoint
from vlmheads.endpoint.words import read_chance
from vlmheads.gains.bake import bake
from vlmheads.grounding.questions import p_yes, question_about
from vlmheads.model.loading import locate
from vlmheads.registry import resolve

HERE = Path(__file__).parent
GAINS = HERE / "results" / "gains-embedded.safetensors"
MAX_TOKENS, CONTEXT = 128, 512
ASKED = ("cat", "fork", "person", "car")
START = 300  # seconds that vLLM may take to load on a busy CPU
# vLLM looks for a distribution called "vllm" where its CPU build is called otherwise.
SERVER = "vllm.entrypoints.openai.api_server"


def captions(
    model: str, plugins: Sequence[Any], images: Sequence[Any]
) -> tuple[list[list[int]], list[str]]:
    """Tokens and texts of the images by transformers, in float32."""
    captioner = Captioner.from_pretrained(model, plugins, dtype="float32", device="cpu")
    found = captioner(images, max_new_tokens=MAX_TOKENS, batch_size=1)
    return [list(one.ids) for one in found], [one.text for one in found]


def same(first: Sequence[Any], second: Sequence[Any]) -> int:
    return sum(one == other for one, other in zip(first, second, strict=True))


def without_end(tokens: Sequence[Sequence[int]], end: int) -> list[list[int]]:
    return [list(row[:-1]) if row and row[-1] == end else list(row) for row in tokens]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


@contextmanager
def served(python: str, model: Path, name: str, log: Path) -> Iterator[str]:
    """vLLM's OpenAI server for a checkpoint, on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", SERVER, "--model", str(model), "--served-model-name", name]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", "8", "--enforce-eager"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment())
        try:
            deadline = time.monotonic() + START
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                    break
                except OSError:
                    time.sleep(1)
            else:
                raise SystemExit(f"vLLM did not start: {log.read_text('utf-8')[-2000:]}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def predictions(out: Path, field: str, *options: str) -> list[str]:
    """Answers of `vlmheads eval predict`, by sample."""
    command = [sys.executable, "-m", "vlmheads", "eval", "predict", "--out", str(out), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = (out / "predictions.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)[field] for line in lines]


def interval(values: Sequence[float], draws: int = 4000) -> list[float]:
    """95 % bootstrap interval of a median."""
    some = random.Random(0)
    medians = sorted(statistics.median(some.choices(values, k=len(values))) for _ in range(draws))
    return [round(medians[round(share * (draws - 1))], 3) for share in (0.025, 0.975)]


def p_yes_apart(url: str, model: Path, pictures: Sequence[Any]) -> dict[str, Any]:
    """How far P(yes) over an endpoint, from twenty listed tokens, is from P(yes) here."""
    captioner = Captioner.from_pretrained(str(model), (), dtype="float32", device="cpu")
    here = p_yes(captioner.model, captioner.processor, pictures, [ASKED] * len(pictures), ending="")
    questions = [
        Question((number, name), question_about(name, ""), data_url_of(picture), 1, LOGPROBS)
        for number, picture in enumerate(pictures)
        for name in ASKED
    ]
    apart, outside = [], 0
    with connected(Endpoint(url, "baked")) as client:
        for question, answer in client.ask(questions):
            if isinstance(answer, Failure):
                raise answer.error
            number, name = question.key
            found, known = read_chance(answer), here[number][name]
            outside += not found.low - 1e-4 <= known <= found.high + 1e-4
            if found.p_yes is not None and found.high - found.low < 0.01:
                apart.append(abs(found.p_yes - known))
    return {
        "questions": len(questions),
        "outside of their bounds": outside,
        "with bounds closer than 0.01": len(apart),
        "largest difference of those": float(f"{max(apart):.2g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", required=True, help="Python of an environment with vLLM")
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=60, help="timed rounds over all scenes")
    parser.add_argument("--batch", type=int, default=8, help="sequences that vLLM runs at a time")
    parser.add_argument("--plugin", default=f"gains:head_map={GAINS}")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    plugins = resolve([options.plugin])
    pictures = [scene("test", 0, index).image for index in range(options.scenes)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        baked = bake("embedded", folder / "baked", plugins, layout="published")
        plain, _ = captions("embedded", (), pictures)
        attached, _ = captions("embedded", plugins, pictures)
        task = {
            "models": {"plain": locate("embedded"), "baked": str(baked.folder)},
            "images": [data_url_of(picture) for picture in pictures],
            "prompt": PROMPT,
            "max_tokens": MAX_TOKENS,
            "max_model_len": CONTEXT,
            "batch": options.batch,
            "rounds": options.rounds,
        }
        (folder / "task.json").write_text(json.dumps(task), "utf-8")
        worker = [options.vllm, str(HERE / "serving_worker.py")]
        worker += [str(folder / "task.json"), str(folder / "found.json")]
        subprocess.run(worker, check=True, env=environment())
        found = json.loads((folder / "found.json").read_text("utf-8"))
        end = json.loads((baked.folder / "generation_config.json").read_text("utf-8"))
        tokens = {
            name: without_end(rows, end["eos_token_id"]) for name, rows in found["tokens"].items()
        }
        number = ("--num", str(options.scenes), "--max-new-tokens", str(MAX_TOKENS))
        here = predictions(folder / "here", "caption", "--plugin", options.plugin, *number)
        pope = ("--task", "pope", "--num", str(max(6, options.scenes // 5)))
        asked = predictions(folder / "pope", "answer", "--plugin", options.plugin, *pope)
        with served(options.vllm, baked.folder, "baked", folder / "server.log") as url:
            started = time.perf_counter()
            endpoint = ("--endpoint", url, "--model", "baked")
            there = predictions(folder / "there", "caption", *endpoint, *number)
            seconds = time.perf_counter() - started
            answered = predictions(folder / "answered", "answer", *endpoint, *pope)
            chances = p_yes_apart(url, baked.folder, pictures[:8])
        config = json.loads((folder / "there" / "config.json").read_text("utf-8"))

    def ratios(kind: str) -> dict[str, Any]:
        """Speed of the baked checkpoint over the plain one, round by round."""
        times = found[kind]
        pairs = zip(times["plain"], times["baked"], strict=True)
        rounds = [round(before / after, 3) for before, after in pairs]
        quartiles = [round(one, 3) for one in statistics.quantiles(rounds)[::2]]
        median = round(statistics.median(rounds), 3)
        return {
            "median": median,
            "interval": interval(rounds),
            "quartiles": quartiles,
            "rounds": rounds,
        }

    result = {
        "scenes": options.scenes,
        "plugin": Path(options.plugin).name
        if options.plugin.startswith("gains:")
        else options.plugin,
        "plain vLLM = plain transformers": same(tokens["plain"], plain),
        "baked vLLM = attached plugin": same(tokens["baked"], attached),
        "captions that the plugin changes": options.scenes - same(plain, attached),
        "eval predict: endpoint = attached plugin": same(there, here),
        "eval predict: seconds": round(seconds, 1),
        "POPE questions": len(asked),
        "POPE: endpoint = attached plugin": same(answered, asked),
        "P(yes)": chances,
        "baked over plain, images per processor second": ratios("processor"),
        "baked over plain, images a second": ratios("seconds"),
        "images per processor second": {
            name: round(options.scenes / statistics.median(times), 2)
            for name, times in found["processor"].items()
        },
        "server": {key: config["server"][key] for key in ("answered", "logprobs")}
        | {"system_fingerprint": config["server"]["system_fingerprint"]},
        "versions": {
            "vlmheads": __version__,
            "here": {"torch": torch.__version__, "transformers": transformers.__version__},
            "there": found["versions"],
        },
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
