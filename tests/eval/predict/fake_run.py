"""A run with a model that is none, for tests that start processes and kill them.

Usage: python fake_run.py RUN SAMPLES DIE_RANK DIE_AFTER; a process of that rank kills itself after
so many samples.
"""

import os
import signal
import sys
import time
from pathlib import Path

from accelerate import PartialState
from vlmheads_eval.data import Sample
from vlmheads_eval.predict.model import Answer
from vlmheads_eval.predict.run import OneProcess, predict

run, number, die_rank, die_after = Path(sys.argv[1]), *map(int, sys.argv[2:])
processes = PartialState(cpu=True) if "RANK" in os.environ else OneProcess()
asked = 0


def describe(images, prompts):
    global asked
    for _ in images:
        asked += 1
        if processes.process_index == die_rank and asked > die_after:
            os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return [Answer(f"A picture of {image}.", 4, False) for image in images]


samples = [
    Sample(str(n), Path(f"{n}.png"), "What is there?", {"image_id": n}) for n in range(number)
]
predict(
    run,
    {"model": "none"},
    samples,
    describe,
    read=lambda path: path.stem,
    batch_size=2,
    processes=processes,
)
