"""One contract for all plugins, on all families: the invariants of docs/architecture.md.

A plugin joins by being registered, a family by its row in tests/support/tiny.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from active import REFUSED, contract_plugins, make

from vlmheads import VlmHeadsError, attach

LENGTHS = (5, 3, 7)
NEW_TOKENS = 5
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "temperature": 0.7},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "static": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
}
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
def single(family: str, index: int = 1) -> dict[str, torch.Tensor]:
    return tiny.row(family, LENGTHS, index)


def prompts(family: str, mode: str) -> list[dict[str, torch.Tensor]]:
    """One prompt, and a padded batch where the mode takes one."""
    return [single(family)] if mode == "lookup" else [single(family), batch(family)]


@cache
def plain(family: str, attention: str, mode: str) -> list[Result]:
    model = tiny.build(family, attention)
    return [run(model, inputs, mode) for inputs in prompts(family, mode)]


def same(one: Result, other: Result) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(
    params=[
        pytest.param((family, name), id=f"{family}-{name}", marks=pytest.mark.xdist_group(family))
        for family in tiny.FAMILIES
        for name in contract_plugins()
    ]
)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    family, name = request.param
    return family, name


def refused(family: str, name: str) -> bool:
    """Whether the plugin refuses the family; then that is what is tested."""
    word = REFUSED.get((name, family))
    if word is None:
        return False
    model = tiny.build(family)
    with pytest.raises(VlmHeadsError, match=word), attach(model, make(name, family)):
        run(model, batch(family), "greedy")
    return True


def test_neutral_options_change_no_bit(case: tuple[str, str]) -> None:
    family, name = case
    neutral = contract_plugins()[name].neutral()
    for attention in ("sdpa", "eager"):
        model = tiny.build(family, attention)
        for mode in MODES:
            expected = plain(family, attention, mode)
            for inputs, before in zip(prompts(family, mode), expected, strict=True):
                with attach(model, neutral):
                    during = run(model, inputs, mode)
                assert same(during, before), (attention, mode, len(inputs["input_ids"]))


def test_it_acts_and_then_leaves_no_trace(case: tuple[str, str]) -> None:
    family, name = case
    if refused(family, name):
        return
    for attention in ("sdpa", "eager"):
        model = tiny.build(family, attention)
        (before, *_) = plain(family, attention, "greedy")
        hooks = hook_count(model)
        with attach(model, make(name, family)):
            during = run(model, single(family), "greedy")
        assert not torch.equal(during[1], before[1]), "the plugin does nothing"
        assert not bool(during[1].isnan().any())
        assert hook_count(model) == hooks
        assert not [m for m in model.modules() if "_vlmheads" in m.__dict__]
        assert model.get_decoder().config._attn_implementation == attention
        assert same(run(model, single(family), "greedy"), before)


def test_a_padded_batch_gives_each_row_what_it_gets_alone(case: tuple[str, str]) -> None:
    family, name = case
    if refused(family, name):
        return
    model, plugin = tiny.build(family), make(name, family)
    for mode in ("greedy", "beams"):
        with attach(model, plugin):
            together = run(model, batch(family), mode)
            alone = [run(model, single(family, index), mode) for index in range(len(LENGTHS))]
        assert together[0].tolist() == [ids[0].tolist() for ids, _ in alone], mode
        if mode == "greedy":
            for index, (_, logits) in enumerate(alone):
                torch.testing.assert_close(together[1][:, index], logits[:, 0], atol=1e-4, rtol=0)


def test_sdpa_and_eager_agree(case: tuple[str, str]) -> None:
    family, name = case
    if refused(family, name):
        return
    results = []
    for attention in ("sdpa", "eager"):
        model = tiny.build(family, attention)
        with attach(model, make(name, family)):
            results.append(run(model, batch(family), "greedy"))
    assert results[0][0].tolist() == results[1][0].tolist()
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-4, rtol=0)


def test_prompt_lookup_and_a_static_cache_say_what_greedy_search_says(
    case: tuple[str, str],
) -> None:
    family, name = case
    if refused(family, name):
        return
    model, plugin = tiny.build(family), make(name, family)
    with attach(model, plugin):
        greedy = run(model, single(family), "greedy")
        assert run(model, single(family), "lookup")[0].tolist() == greedy[0].tolist()
        if plugin.streams:
            with pytest.raises(VlmHeadsError, match="StaticCache"):
                run(model, single(family), "static")
        else:
            assert run(model, single(family), "static")[0].tolist() == greedy[0].tolist()


def test_nothing_survives_from_one_generation_to_the_next(case: tuple[str, str]) -> None:
    family, name = case
    if refused(family, name):
        return
    model = tiny.build(family)
    with attach(model, make(name, family)):
        run(model, batch(family), "beams")
        second = run(model, single(family, 2), "greedy")
    with attach(model, make(name, family)):
        first = run(model, single(family, 2), "greedy")
    assert same(first, second)


def test_a_prompt_without_an_image_passes_through(case: tuple[str, str]) -> None:
    family, name = case
    model = tiny.build(family)
    ids = torch.tensor([[5, 9, 7, 4], [3, 8, 2, 6]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if types := tiny.SPECS[family].types:
        inputs[types] = torch.zeros_like(ids)
    results = []
    for context in (nullcontext(), attach(model, make(name, family))):
        with context:
            results.append(run(model, inputs, "greedy"))
    assert same(*results)


def test_an_exception_inside_generate_leaves_the_model_as_it_was(case: tuple[str, str]) -> None:
    family, name = case
    if refused(family, name):
        return
    model = tiny.build(family)

    def stop(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), attach(model, make(name, family)):
        model.generate(**single(family), max_new_tokens=4, stopping_criteria=[stop])
    assert same(run(model, single(family), "greedy"), plain(family, "sdpa", "greedy")[0])


def hook_count(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
