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
        ("3", "is text; expected an object"),
        ("runs: []", "runs; expected a list of length >= 1"),
        ("runs: [{name: a}, {name: a}]", "distinct names"),
        ("runs: [{plugins: vhr}]", r"runs\[0\]: no key 'name'"),
        ("runs: [{name: ../../etc}]", "run '../../etc'; expected a name that can be a folder"),
        ("runs: [{name: /elsewhere/x}]", "run '/elsewhere/x'"),
        ("runs: [{name: ..}]", r"run '\.\.'"),
        ("runs: [{name: data}]", "run 'data'"),
        ("runs: [{name: report-pattern}]", "run 'report-pattern'"),
        ('runs: [{name: "a\\e[31m"}]', "a name that can be a folder"),
        ("runs: [{name: a}]\nmodels: [..]", r"model '\.\.'"),
        ("runs: [{name: a}]\nmodels: [a/b, c/b]", "names that differ at the end"),
        ("runs: [{name: a}]\nnum: .nan", "num is text; expected a whole number"),
        ("runs: [{name: a}]\nnum: 0", "num; expected a whole number >= 1"),
        ("runs: [{name: a}]\nnum: " + "9" * 5000, "num: integer value out of range"),
        ("runs: [{name: a}]\ntasks: poem", r"tasks \['poem'\]; expected different ones of caption"),
        ("runs: [{name: a}]\nvariants: [pattern, pattern]", "variants"),
        ("runs: [{name: a}]\nmodels: []", "different models"),
        ("runs: &a [*a]", "an alias"),
        ("[" * 60000, "nested too deeply"),
        ("a: " * 20000, "spec.yaml"),
        ('runs: [{name: "\\ud800"}]', "surrogates not allowed"),
        ("about: " + "x" * 70000, "70,007 characters"),
        ("runs: [{name: a}]\nmodles: x", "unknown key 'modles'"),
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
