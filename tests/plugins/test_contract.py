"""One contract for all plugins, on all families: the invariants of docs/architecture.md.

A plugin joins by being registered, a family by its row in tests/support/tiny.py.

Which rows are run is a function of these two lists. Every plugin meets every family: once in the
test of each invariant that depends on both. Backend and decoding mode rotate over these pairs, so
that every plugin, and every family, meets each of the twelve combinations of the two. What belongs
to the installation or to a plugin alone (exceptions, leftovers of an earlier generation, prompts
without an image) is run on a diagonal: every plugin once, every family once. Whether sdpa and eager
agree is asked on every family of plugins that edit attention rows, of the others on the diagonal.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from typing import Any

import pytest
import tiny
import torch
from active import REFUSED, STEPWISE, contract_plugins, make

from vlmheads import VlmHeadsError, attach
from vlmheads.model.anatomy import examine
from vlmheads.runtime.compat import takes_encoded_images

LENGTHS = (3, 7)
NEW_TOKENS = 5
BACKENDS = ("sdpa", "eager")
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "temperature": 0.7},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "static": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
}
# What plugins that edit the cache say of other ways to decode.
CACHE_REFUSALS = {"static": "StaticCache", "no cache": "without a cache"}
# Those that need a cache without editing it.
UNCACHED = {("ilvad", "no cache"), ("resdec", "no cache"), ("sid", "no cache")}
# A random model says image tokens too, which no trained one does.
UNSAID = [tiny.IMAGE, tiny.VIDEO, 57, 58, 59]

Result = tuple[torch.Tensor, torch.Tensor]


def run(model: Any, inputs: dict[str, torch.Tensor], mode: str) -> Result:
    """Ids of the new tokens, and the logits that they came from."""
    torch.manual_seed(11)
    options = {"do_sample": False} | MODES[mode]
    output = model.generate(
        **inputs,
        **options,
        max_new_tokens=NEW_TOKENS,
        suppress_tokens=UNSAID,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return output.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(output.logits)


@cache
def batch(family: str) -> dict[str, torch.Tensor]:
    return tiny.inputs(family, LENGTHS)


@cache
def single(family: str, index: int = 0) -> dict[str, torch.Tensor]:
    return tiny.row(family, LENGTHS, index)


def prompts(family: str, mode: str) -> list[dict[str, torch.Tensor]]:
    """One prompt, and a padded batch where the mode takes one."""
    return [single(family)] if mode == "lookup" else [single(family), batch(family)]


@cache
def plain(family: str, backend: str, mode: str) -> list[Result]:
    model = tiny.build(family, backend)
    return [run(model, inputs, mode) for inputs in prompts(family, mode)]


@cache
def alone(family: str, name: str, backend: str, index: int = 0) -> Result:
    """What a plugin makes greedy search say of one prompt."""
    model = tiny.build(family, backend)
    with attach(model, make(name, family)):
        return run(model, single(family, index), "greedy")


def same(one: Result, other: Result) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class Case:
    """A plugin on a family, and under which backend and in which mode the two meet."""

    family: str
    name: str
    backend: str
    mode: str
    turn: int

    @property
    def way(self) -> str:
        """A way to decode that has to say what greedy search says."""
        return ("lookup", "static", "no cache")[self.turn // len(BACKENDS) % 3]


def pairs(plugins: list[str], families: list[str]) -> list[Case]:
    """Every plugin on every family, under combinations of backend and mode that take turns."""
    found = []
    for row, family in enumerate(families):
        for column, name in enumerate(plugins):
            turn = row + column
            backend = BACKENDS[turn % len(BACKENDS)]
            mode = list(MODES)[turn // len(BACKENDS) % len(MODES)]
            found.append(Case(family, name, backend, mode, turn))
    return found


def diagonal(plugins: list[str], families: list[str]) -> list[Case]:
    """As few of the pairs as hold every plugin and every family."""
    count = max(len(plugins), len(families))
    chosen = set(zip(islice(cycle(plugins), count), islice(cycle(families), count), strict=True))
    return [case for case in pairs(plugins, families) if (case.name, case.family) in chosen]


NAMES, FAMILIES = list(contract_plugins()), list(tiny.FAMILIES)
PAIRS, DIAGONAL = pairs(NAMES, FAMILIES), diagonal(NAMES, FAMILIES)
OF_ROWS = [case for case in PAIRS if "on_attention" in contract_plugins()[case.name].hooks()]


def each(cases: list[Case], says: str = "mode") -> Any:
    """Run a test for each case; those of a family stay in one process, which has built it.

    The attribute `says` of a case stands in front of its name.
    """
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(
                case,
                id=f"{getattr(case, says)}-{case.backend}-{case.family}-{case.name}",
                marks=pytest.mark.xdist_group(case.family),
            )
            for case in cases
        ],
    )


def edits_vision(model: Any) -> bool:
    """Whether the forward pass takes images that were encoded under plugins."""
    return examine(model).family.inner or takes_encoded_images(model)


def refused(case: Case) -> bool:
    """Whether the plugin refuses the family; then that is what is tested."""
    model, plugin = tiny.build(case.family), make(case.name, case.family)
    word = REFUSED.get((case.name, case.family))
    if "on_vision" in plugin.hooks() and not edits_vision(model):
        word = "transformers 5.18"
    if word is None:
        return False
    with pytest.raises(VlmHeadsError, match=word), attach(model, plugin):
        run(model, batch(case.family), "greedy")
    return True


def test_every_plugin_meets_every_family_backend_and_mode() -> None:
    combinations = {(backend, mode) for backend in BACKENDS for mode in MODES}
    assert {(case.name, case.family) for case in PAIRS} == {
        (name, family) for name in NAMES for family in FAMILIES
    }
    for name in NAMES:
        assert {(c.backend, c.mode) for c in PAIRS if c.name == name} == combinations
    for family in FAMILIES:
        assert {(c.backend, c.mode) for c in PAIRS if c.family == family} == combinations
    assert {case.name for case in DIAGONAL} == set(NAMES)
    assert {case.family for case in DIAGONAL} == set(FAMILIES)
    assert len(DIAGONAL) == max(len(NAMES), len(FAMILIES))


@each(PAIRS)
def test_neutral_options_change_no_bit(case: Case) -> None:
    neutral = contract_plugins()[case.name].neutral()
    model = tiny.build(case.family, case.backend)
    expected = plain(case.family, case.backend, case.mode)
    for inputs, before in zip(prompts(case.family, case.mode), expected, strict=True):
        with attach(model, neutral):
            during = run(model, inputs, case.mode)
        assert same(during, before), len(inputs["input_ids"])


@each(PAIRS)
def test_it_acts_and_then_leaves_no_trace(case: Case) -> None:
    if refused(case):
        return
    model = tiny.build(case.family, case.backend)
    before = plain(case.family, case.backend, "greedy")[0]
    hooks = hook_count(model)
    during = alone(case.family, case.name, case.backend)
    assert not torch.equal(during[1], before[1]), "the plugin does nothing"
    assert not bool(during[1].isnan().any())
    assert hook_count(model) == hooks
    assert not [m for m in model.modules() if "_vlmheads" in m.__dict__]
    assert model.get_decoder().config._attn_implementation == case.backend
    assert same(run(model, single(case.family), "greedy"), before)


@each(PAIRS)
def test_a_padded_batch_gives_each_row_what_it_gets_alone(case: Case) -> None:
    if refused(case):
        return
    mode = "beams" if case.turn // len(BACKENDS) % 2 else "greedy"
    model = tiny.build(case.family, case.backend)
    rows = range(len(LENGTHS))
    with attach(model, make(case.name, case.family)):
        together = run(model, batch(case.family), mode)
        if mode == "beams":
            found = [run(model, single(case.family, index), mode) for index in rows]
    if mode == "greedy":
        found = [alone(case.family, case.name, case.backend, index) for index in rows]
        for index, (_, logits) in enumerate(found):
            torch.testing.assert_close(together[1][:, index], logits[:, 0], atol=1e-4, rtol=1e-7)
    assert together[0].tolist() == [ids[0].tolist() for ids, _ in found]


@each([case for case in PAIRS if case in OF_ROWS or case in DIAGONAL])
def test_sdpa_and_eager_agree(case: Case) -> None:
    if refused(case):
        return
    one, other = (alone(case.family, case.name, backend) for backend in BACKENDS)
    assert one[0].tolist() == other[0].tolist()
    torch.testing.assert_close(one[1], other[1], atol=1e-4, rtol=1e-7)


@each(PAIRS, says="way")
def test_other_ways_to_decode_say_what_greedy_search_says(case: Case) -> None:
    if refused(case):
        return
    model, plugin = tiny.build(case.family, case.backend), make(case.name, case.family)
    with attach(model, plugin):
        if case.way == "static" and plugin.streams:
            with pytest.raises(VlmHeadsError, match="StaticCache"):
                run(model, single(case.family), case.way)
            return
        if case.way != "lookup" and (
            "on_cache" in plugin.hooks() or (case.name, case.way) in UNCACHED
        ):
            with pytest.raises(VlmHeadsError, match=CACHE_REFUSALS[case.way]):
                run(model, single(case.family), case.way)
            return
        try:
            found = run(model, single(case.family), case.way)
        except VlmHeadsError as error:  # only where a draft was found
            stepwise = case.way == "lookup" and case.name in STEPWISE
            if not stepwise or "one token per step" not in str(error):
                raise
            return
    assert found[0].tolist() == alone(case.family, case.name, case.backend)[0].tolist()


@each(DIAGONAL)
def test_nothing_survives_from_one_generation_to_the_next(case: Case) -> None:
    if refused(case):
        return
    model = tiny.build(case.family, case.backend)
    with attach(model, make(case.name, case.family)):
        run(model, batch(case.family), "beams")
        second = run(model, single(case.family), "greedy")
    assert same(alone(case.family, case.name, case.backend), second)


@each(DIAGONAL)
def test_a_prompt_without_an_image_passes_through(case: Case) -> None:
    model = tiny.build(case.family, case.backend)
    ids = torch.tensor([[5, 9, 7, 4], [3, 8, 2, 6]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if types := tiny.SPECS[case.family].types:
        inputs[types] = torch.zeros_like(ids)
    results = []
    for context in (nullcontext(), attach(model, make(case.name, case.family))):
        with context:
            results.append(run(model, inputs, "greedy"))
    assert same(*results)


@each(DIAGONAL)
def test_an_exception_inside_generate_leaves_the_model_as_it_was(case: Case) -> None:
    if refused(case):
        return
    model = tiny.build(case.family, case.backend)

    def stop(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), attach(model, make(case.name, case.family)):
        model.generate(**single(case.family), max_new_tokens=4, stopping_criteria=[stop])
    before = plain(case.family, case.backend, "greedy")[0]
    assert same(run(model, single(case.family), "greedy"), before)


def hook_count(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
