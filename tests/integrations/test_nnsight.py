"""nnsight beside attached plugins, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_traces_and_plugins_work_side_by_side() -> None:
    script = Path(__file__).with_name("traced.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) == 17
    assert [what for what, right in results.items() if not right] == []
