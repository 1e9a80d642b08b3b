"""The cache of a forward pass under its two names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers.utils import ModelOutput

from vlmheads.errors import VlmHeadsError
from vlmheads.runtime.cache import cache_argument, filled_cache, given_cache, with_cache


def new(input_ids: object = None, cache: object = None) -> None: ...


def old(input_ids: object = None, past_key_values: object = None) -> None: ...


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_callers_may_give_it_under_either_name(name: str) -> None:
    assert given_cache({"input_ids": 1, name: "there"}) == "there"
    assert given_cache({"cache": None, name: "there"}) == "there"
    assert given_cache({"input_ids": 1}) is None


@pytest.mark.parametrize("given", ["cache", "past_key_values"])
@pytest.mark.parametrize(("forward", "own"), [(new, "cache"), (old, "past_key_values")])
def test_a_model_gets_it_under_its_own_name(forward: object, own: str, given: str) -> None:
    model = SimpleNamespace(forward=forward)
    assert with_cache(model, {"input_ids": 1, given: "gone"}, "wide") == {
        "input_ids": 1,
        own: "wide",
    }


def test_a_model_whose_forward_names_no_cache_is_refused() -> None:
    def forward(input_ids: object = None, memory: object = None) -> None: ...

    with pytest.raises(VlmHeadsError, match="takes no cache; expected an argument cache or past"):
        cache_argument(SimpleNamespace(forward=forward))


def test_a_wrapper_that_passes_everything_on_is_given_the_old_name() -> None:
    def forward(*args: object, **kwargs: object) -> None: ...

    assert cache_argument(SimpleNamespace(forward=forward)) == "past_key_values"


def test_it_is_read_from_outputs_of_either_kind() -> None:
    class Plain(dict[str, object]):
        pass

    assert filled_cache(Plain(past_key_values="there")) == "there"
    assert filled_cache(Plain()) is None
    assert filled_cache(SimpleNamespace(cache="there")) == "there"
    assert filled_cache(SimpleNamespace(cache=None)) is None


def test_this_versions_outputs_have_one(caplog: pytest.LogCaptureFixture) -> None:
    from transformers.modeling_outputs import CausalLMOutputWithPast

    output: ModelOutput = CausalLMOutputWithPast()
    assert filled_cache(output) is None
    assert "deprecated" not in caplog.text
