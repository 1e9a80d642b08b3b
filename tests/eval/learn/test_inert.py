"""Which image tokens count as inert, by loops; and what `vlmheads learn havae` writes."""

import statistics
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from vlmheads_eval.commands.learn import learn
from vlmheads_eval.learn.inert import head_ratios, inert_tokens
from vlmheads_testbed.coco import write_dataset

import vlmheads
from vlmheads.detect.mass import WordMass
from vlmheads.detect.traces import Traces
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry


def made(seed: int = 3) -> list[Traces]:
    """Two images whose tokens mostly read as words of their own, and a few as word 7."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for count in (40, 25):
        words = torch.randint(10, 30, (count, 6), generator=generator)
        words[:, 2:] = words[:, :1]
        words[:5, :4] = 7
        words[5, :] = torch.tensor([7, 7, 11, 12, 13, 14])
        attention = torch.rand(count, generator=generator) + 0.2
        attention[:6] += 4
        found.append(Traces(words, attention / attention.mean()))
    return found


def by_hand(traces: list[Traces]) -> tuple[set[int], list[list[bool]]]:
    tokens = [
        (own.tolist(), float(attention), index)
        for index, one in enumerate(traces)
        for own, attention in zip(one.words, one.attention, strict=True)
    ]
    ruled = []
    for words, attention, index in tokens:
        counts = Counter(words)
        word = min(counts, key=lambda one: (-counts[one], one))
        ruled.append((word, counts[word] / len(words), attention, index))
    limits = [torch.quantile(one.attention, 0.75) for one in traces]
    seen = [word for word, _, attention, index in ruled if attention > limits[index]]
    scores: dict[int, list[float]] = {}
    for word, share, attention, _ in ruled:
        scores.setdefault(word, []).append(share * seen.count(word) / len(seen) * attention)
    means = {word: statistics.mean(parts) for word, parts in scores.items()}
    low, _, high = statistics.quantiles([v for v in means.values() if v > 0], method="inclusive")
    anchors = {word for word, value in means.items() if value > high + 1.5 * (high - low)}
    inert = [
        [word in anchors and share >= 0.5 for word, share, _, index in ruled if index == at]
        for at in range(len(traces))
    ]
    return anchors, inert


@pytest.mark.parametrize("seed", [3, 4])
def test_inert_tokens_are_ruled_by_a_word_that_stands_out(seed: int) -> None:
    traces = made(seed)
    anchors, inert = inert_tokens(traces)
    expected = by_hand(traces)
    assert set(anchors.tolist()) == expected[0]
    assert anchors.tolist()[0] == 7
    assert [one.tolist() for one in inert] == expected[1]
    assert all(one[:5].all() and not one[5] for one in inert)


def test_without_an_anchor_nothing_is_inert() -> None:
    words = torch.arange(12).repeat(3, 1).T
    anchors, inert = inert_tokens([Traces(words, torch.ones(12))])
    assert (len(anchors), int(inert[0].sum())) == (0, 0)


def test_ratios_leave_inert_tokens_and_hallucinated_words_out() -> None:
    image, apart = torch.rand(4, 2, 3), 0.2 * torch.rand(4, 2, 3)
    image[:, 1], apart[:, 1] = torch.nan, torch.nan  # a layer without heads
    masses = WordMass(image, image, image, torch.arange(4), Geometry("llava", 2, 3, (0,)), apart)
    real = torch.tensor([True, False, True, False])
    found = head_ratios(masses, real)["nhar"]
    for head in range(3):
        mean = sum(float(image[w, 0, head] - apart[w, 0, head]) for w in (0, 2)) / 2
        assert float(found[0, head]) == pytest.approx(mean, abs=1e-6)
    assert found[1].tolist() == [0, 0, 0]


def test_the_command_writes_ratios_that_act(tmp_path: Path) -> None:
    data, out = tmp_path / "scenes", tmp_path / "ratios.safetensors"
    write_dataset(data, "counterfactual", 6)
    given = ("havae", "--model", "embedded", "--data", data, "--out", out, "--fewest", 1,
             "--max-new-tokens", 32, "--batch-size", 4)  # fmt: skip
    done = CliRunner().invoke(learn, [str(one) for one in given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "image tokens inert" in done.output
    found = Learned.load(out)
    assert found.method == "havae"
    assert 0 < float(found.values["nhar"].min()) <= float(found.values["nhar"].max()) <= 1
    plugin = vlmheads.get_plugin("havae").from_dict({"ratios": str(out), "alpha": 0.6})
    captioner = vlmheads.Captioner.from_pretrained("embedded", ())
    image = next((data / "images").iterdir())
    (caption,) = captioner([image], plugins=[plugin], max_new_tokens=8)
    assert caption.text
