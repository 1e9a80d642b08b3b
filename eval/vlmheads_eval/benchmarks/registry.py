"""All benchmarks of questions by name."""

from collections.abc import Callable, Mapping

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks import mmhal, openchair
from vlmheads_eval.benchmarks.amber_questions import AMBER
from vlmheads_eval.benchmarks.dash_b import DASH_B
from vlmheads_eval.benchmarks.hallusionbench import HALLUSIONBENCH
from vlmheads_eval.benchmarks.humblebench import HUMBLEBENCH, HUMBLEBENCH_E
from vlmheads_eval.benchmarks.mme import MME
from vlmheads_eval.benchmarks.popev2 import POPEV2
from vlmheads_eval.benchmarks.record import Benchmark, Questions, Source

# Scored without a judge, by one code; AMBER's own command is older and prints its script's figures.
SCORED: Mapping[str, Benchmark] = {
    one.name: one for one in (MME, HALLUSIONBENCH, DASH_B, POPEV2, HUMBLEBENCH, HUMBLEBENCH_E)
}
COMPARED: Mapping[str, Benchmark] = {**SCORED, AMBER.name: AMBER}
# Asked here, and judged elsewhere.
JUDGED: Mapping[str, Callable[[Source], Questions]] = {
    "mmhal": mmhal.load,
    "openchair": openchair.load,
}
ASKED: Mapping[str, Callable[[Source], Questions]] = {
    **{name: one.load for name, one in SCORED.items()},
    **JUDGED,
}


def get_benchmark(name: str) -> Benchmark:
    """Return the benchmark of a name that can be scored and compared without a judge."""
    if name not in COMPARED:
        raise VlmHeadsError(f"benchmark {name!r}", " or ".join(COMPARED))
    return COMPARED[name]
