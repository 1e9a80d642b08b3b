"""Resident memory of the demo's server while it answers request after request.

python benchmarks/demo_memory.py --requests 200 --out out/demo_memory.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file

# Methods of each kind in turn: none, heads, attention, a second stream.
METHODS: tuple[list[Any], ...] = (
    [],
    [[{"name": "vhr"}]],
    [[{"name": "pai"}], [{"name": "vhr"}]],
    [[{"name": "cfg"}]],
)


def resident(process: int) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def request(client: Client, number: int, picture: Path, tokens: int) -> None:
    """Do what a visitor does: upload or pick a scene, describe it, select a word, export."""
    given: dict[str, Any] = {
        "methods": METHODS[number % len(METHODS)],
        "decoding": {"max_new_tokens": tokens},
    }
    if number % 2:
        given["image"] = handle_file(picture)
    else:
        given["scene"] = f"test:{number}"
    answer = client.predict(**given, api_name="/describe")
    words = answer["captions"][0]["words"]
    for place, word in enumerate(words):
        if word["object"]:
            client.predict(answer["result"], 0, place, api_name="/attention")
            break
    if number % 10 == 0:
        client.predict(answer["result"], api_name="/export")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--warm", type=int, default=40, help="requests before the table")
    parser.add_argument("--every", type=int, default=20, help="requests between measurements")
    parser.add_argument("--tokens", type=int, default=24, help="maximum new tokens per caption")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    from vlmheads_demo.services.images import draw_scene

    picture = Path("out/demo_memory.png")
    picture.parent.mkdir(exist_ok=True)
    draw_scene("counterfactual:9").image.resize((800, 800)).save(picture)
    command = [str(Path(sys.executable).parent / "vlmheads"), "demo", "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        address = re.search(r"http://\S+/", server.stdout.readline())
        assert address is not None
        client = Client(address[0], verbose=False)
        readings = []
        start = time.perf_counter()
        for number in range(options.warm + options.requests + 1):
            done = number - options.warm
            if done >= 0 and done % options.every == 0:
                readings.append((done, round(resident(server.pid), 1)))
                print(f"{done:5d} requests  {readings[-1][1]:8.1f} MB")
            if done < options.requests:
                request(client, number, picture, options.tokens)
            # Change clients now and then, as visitors come and go.
            if number % 25 == 24:
                client = Client(address[0], verbose=False)
        seconds = time.perf_counter() - start
    finally:
        server.terminate()
        server.wait()
        picture.unlink()
    growth = readings[-1][1] - readings[0][1]
    print(f"growth {growth:+.1f} MB over {options.requests} requests, {seconds:.0f} s")
    if options.out is not None:
        result = {"readings_mb": readings, "growth_mb": growth, "warm": options.warm}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
