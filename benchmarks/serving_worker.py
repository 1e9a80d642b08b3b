"""What `serving.py` runs inside vLLM's environment: captions of images by two checkpoints, timed.

It reads a task as JSON from the file that is its first argument, and writes what came of it to the
second. It imports vLLM and nothing of ours.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def descendants() -> set[int]:
    """The processes that this one has started, and those that they have."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def processor(processes: set[int]) -> float:
    """Processor seconds of this process and others; waiting for a busy machine is no part of it."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    import torch
    import transformers
    import vllm

    chats = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": task["prompt"]},
                ],
            }
        ]
        for url in task["images"]
    ]
    settings = vllm.SamplingParams(temperature=0, max_tokens=task["max_tokens"])
    engines, processes = {}, {}
    for name, path in task["models"].items():
        before = descendants()
        engines[name] = vllm.LLM(
            model=path,
            dtype="float32",
            enforce_eager=True,
            max_model_len=task["max_model_len"],
            max_num_seqs=task["batch"],
            limit_mm_per_prompt={"image": 1},
            # Rounds repeat their images: nothing that the last one computed may be used again.
            enable_prefix_caching=False,
            mm_processor_cache_gb=0,
            seed=0,
        )
        processes[name] = descendants() - before
    found: dict[str, Any] = {"tokens": {}, "texts": {}}
    found |= {kind: {name: [] for name in engines} for kind in ("seconds", "processor")}
    names = list(engines)
    for turn in range(task["rounds"] + 1):  # the first warms up, and is not timed
        for name in names if turn % 2 else reversed(names):
            started, used = time.perf_counter(), processor(processes[name])
            outputs = engines[name].chat(chats, settings, use_tqdm=False)
            if turn:
                found["seconds"][name].append(time.perf_counter() - started)
                found["processor"][name].append(processor(processes[name]) - used)
            found["tokens"][name] = [list(one.outputs[0].token_ids) for one in outputs]
            found["texts"][name] = [one.outputs[0].text.strip() for one in outputs]
    found["versions"] = {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    Path(sys.argv[2]).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
