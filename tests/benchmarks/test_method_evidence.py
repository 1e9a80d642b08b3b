"""The lines that the demo shows about methods are those of the results in the repository."""

from __future__ import annotations

import json

import method_evidence


def test_the_lines_of_the_demo_are_up_to_date() -> None:
    assert json.loads(method_evidence.OUT.read_text("utf-8")) == method_evidence.evidence(), (
        "run python benchmarks/method_evidence.py"
    )


def test_a_line_is_what_the_results_say() -> None:
    found = method_evidence.evidence()
    assert found["embedded"]["vcd"]["line"].startswith(
        "500 scenes of each kind. Typical scenes: better (object F1 +3.0, +1.9 to +4.2);"
    )
    assert found["published"]["adaiat"]["mark"] == "better"
    assert found["embedded"]["vista"]["mark"] == "harmful"
