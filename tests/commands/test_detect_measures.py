"""`vlmheads detect` with measures that end in an answer, on scenes of the test bench."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from detecting import make_scenes, record, run

from vlmheads import HeadMap
from vlmheads.commands.conditions import exit_conclusion
from vlmheads.commands.measurement import Measurement, Options
from vlmheads.grounding.visualness import Visualness


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = ["--num", "4", "--seed", "31", "--split", "counterfactual"]
    return make_scenes(tmp_path_factory.mktemp("scenes"), *given)


def rows(found: dict[str, Any], title: str) -> list[dict[str, Any]]:
    grid = found["tables"][title]
    return [dict(zip(grid["columns"], row, strict=True)) for row in grid["rows"]]


def test_heads_are_chosen_saved_and_outlined(scenes: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "map.safetensors", tmp_path / "map.png"
    found = record(scenes, "--measure", "select", "--count", 2, "--out", out, "--plot", plot)
    listed = rows(found, "heads to switch off")
    best = [(layer, head) for layer, head, _ in HeadMap.load(out).top(2)]
    assert [(row["layer"], row["head"]) for row in listed] == best
    assert plot.stat().st_size > 1000
    named = ",".join(f'"{layer}-{head}"' for layer, head in best)
    assert f"adhh:heads=[{named}]" in found["answer"]


def test_the_graph_of_heads_is_drawn(scenes: Path, tmp_path: Path) -> None:
    plot = tmp_path / "graph.png"
    found = record(scenes, "--measure", "composition", "--heads", "0-7,3-5,6-1", "--plot", plot)
    edges = rows(found, "which head reads from which")
    assert {(edge["writer"], edge["reader"]) for edge in edges} == {
        ("0-7", "3-5"),
        ("0-7", "6-1"),
        ("3-5", "6-1"),
    }
    assert plot.stat().st_size > 1000


def test_words_without_picture_are_saved_as_a_model_has_them(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "visualness.json"
    found = record(scenes, "--measure", "visualness", "--out", out)
    assert Visualness.load(out).gains["a"].count > 0
    most = rows(found, "words that need it most")
    gains = [row["gain by the image, nats"] for row in most]
    assert gains == sorted(gains, reverse=True)
    without = {row["word"] for row in rows(found, "words that need no picture")}
    assert not without & {row["word"] for row in most}
    alone = run(next(scenes.iterdir()), "--measure", "visualness")
    assert alone.exit_code == 2
    assert "one image, with no other to compare" in alone.stderr
    one = record(next(scenes.iterdir()), "--measure", "visualness", "--against", "nothing")
    assert one["notes"]["against"] == "the image deleted"


def test_words_that_need_no_picture_stand_in_no_table(scenes: Path) -> None:
    found = record(scenes, "--measure", "words")
    said = {word["text"].lower() for one in found["captions"] for word in one["words"]}
    assert "with" not in said
    assert any("with" in one["caption"] for one in found["captions"])
    assert found["notes"]["words left out, which need no picture"] >= 1


def test_each_layer_is_read_for_both_kinds_of_words(scenes: Path) -> None:
    found = record(scenes, "--measure", "overconfidence")
    layers = rows(found, "what each layer gives")
    undone = rows(found, "what the last layer takes back")[2:]
    assert len(layers) == 8
    assert undone[0]["grounded"] == pytest.approx(layers[-1]["grounded"], abs=1e-5)
    assert undone[-1]["hallucinated"] == pytest.approx(layers[-2]["hallucinated"], abs=1e-5)
    assert "last layer" in found["answer"]


def test_sinks_are_laid_out_by_condition(scenes: Path) -> None:
    found = record(scenes, "--measure", "sink-table")
    conditions = rows(found, "φ of image tokens")
    # The model's template puts the image first, whatever the order of the parts.
    assert [row["condition"] for row in conditions] == [
        *("as given", "longer", "later turn", "half size", "double size"),
    ]
    assert found["notes"]["the model's template makes the same prompt of"] == "text first"
    assert {row["image tokens"] for row in conditions} == {64}
    given, later = conditions[0], conditions[2]
    assert given["largest"] != pytest.approx(later["largest"], rel=1e-6)
    assert "VAR" in found["answer"]


def test_exits_are_compared_with_the_plain_model(scenes: Path) -> None:
    found = record(scenes, "--measure", "token-exit", "--max-new-tokens", 24)
    table = rows(found, "what is said when image tokens leave")
    assert table[0]["form"] == "plain"
    assert table[0]["Δ"] is None
    dropped = next(row for row in table if row["form"] == "drop" and row["stay, %"] == 0)
    assert dropped["recall, %"] < table[0]["recall, %"]
    assert dropped["Δ"] == pytest.approx(dropped["recall, %"] - table[0]["recall, %"])


def test_the_share_of_tokens_seen_is_of_all_layers_of_the_model() -> None:
    counts = [("a dog", (1, 1, 1, 0))]
    data = [{None: counts, (0, "drop", 0.0): counts, (0, "drop", 0.5): counts}]
    captioner: Any = SimpleNamespace(model=tiny.build("llava"))  # four layers
    options = Options("token-exit", "Describe the image.", {})
    found = exit_conclusion(captioner, Measurement({}, data=data), options)
    (table,) = found.tables.values()
    seen = [row[table.columns.index("seen, %")] for row in table.rows]
    assert seen == [100, 25, 62.5]


def test_pairs_of_images_are_asked_about_in_both_orders(scenes: Path) -> None:
    found = record(scenes, "--measure", "position-bias", "--max-new-tokens", 24)
    assert found["notes"]["pairs"] == found["maps"]["order preference"]["images"] == 2
    assert "named where the image comes first" in found["figures"]
    odd = run(*sorted(scenes.iterdir())[:3], "--measure", "position-bias")
    assert odd.exit_code == 2
    assert "3 images" in odd.stderr


def test_the_image_cache_is_shared_out_by_head(scenes: Path) -> None:
    two = sorted(scenes.iterdir())[:2]
    found = record(*two, "--measure", "cache-heads", "--max-new-tokens", 6)
    table = rows(found, "image cache by head")
    kept = [row["image cache kept, %"] for row in table]
    assert kept == sorted(kept, reverse=True)
    assert "image cache" in found["answer"]


def test_the_tower_has_a_head_map_of_its_own(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "tower.safetensors"
    found = record(scenes, "--measure", "vision-heads", "--out", out)
    assert HeadMap.load(out).geometry.model_type == "llava vision tower"
    assert len(rows(found, "heads of the vision tower")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--measure", "vhd", "--count", 3), "--count with --measure vhd"),
        (("--measure", "token-exit", "--plot", "a.png"), "--plot with --measure token-exit"),
        (("--measure", "select", "--tau", 3), "--tau with --measure select"),
        (("--measure", "composition", "--heads", "1-1", "--count", 3), "--count with --heads"),
        (
            ("--measure", "composition", "--heads", "1-1", "--max-new-tokens", 3),
            "--max-new-tokens with --heads",
        ),
        (("--measure", "select", "--method", "cd-t", "--factor", 0), "factor=0.0"),
        (("--measure", "composition", "--heads", "x"), "--heads x"),
        (
            ("--measure", "select", "--method", "cd-t", "--towards", "identity"),
            "towards='identity'",
        ),
    ],
)
def test_options_without_effect_are_refused(
    scenes: Path, arguments: tuple[object, ...], message: str
) -> None:
    done = run(scenes, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_tables_are_printed_with_the_answer_last(scenes: Path) -> None:
    done = run(scenes, "--measure", "select", "--count", 2, "--top", 2)
    assert done.exit_code == 0, done.output
    assert "heads to switch off" in done.stdout
    answer = done.stdout.rstrip().splitlines()[-1]  # one line, to be copied
    assert answer.startswith("Try them on other images: --plugin 'adhh:heads=[")
    assert answer.endswith("before you rely on them.")
