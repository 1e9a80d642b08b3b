import pytest
from vlmheads_eval.sweep import SweepRun, read_sweep, shipped_specs

from vlmheads.errors import VlmHeadsError


@pytest.mark.parametrize("name", ["embedded", "vhr-llava15-coco"])
def test_a_shipped_spec_is_read_by_its_name(name):
    assert name in shipped_specs()
    assert read_sweep(name).runs[0].plugins == ()


def test_several_draws_of_a_control_are_runs_of_their_own(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "runs:\n  - name: plain\n  - {name: random, plugins: vhr, control: random-heads, draws: 2}"
    )
    assert read_sweep(str(path)).runs == (
        SweepRun("plain"),
        SweepRun("random-0", ("vhr",), "random-heads", 0),
        SweepRun("random-1", ("vhr",), "random-heads", 1),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: [", r"spec\.yaml"),
        ("3", "no list of runs"),
        ("runs: []", "at least one run"),
        ("runs: [{name: a}, {name: a}]", "distinct names"),
        ("runs: [{plugins: vhr}]", "run"),
        ("runs: [{name: a}]\nmodles: x", "unknown field 'modles'"),
    ],
)
def test_a_spec_of_another_shape_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(VlmHeadsError, match=message):
        read_sweep(str(path))


def test_a_spec_that_is_not_there_is_named():
    with pytest.raises(VlmHeadsError, match="no spec nothing"):
        read_sweep("nothing")
