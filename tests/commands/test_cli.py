"""The main job as people run it: captions on stdout, trouble on stderr with exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import tiny
import transformers
from click.testing import CliRunner, Result
from PIL import Image

import vlmheads
from vlmheads import Captioner, HeadMap, VlmHeadsError, attach
from vlmheads.cli import main
from vlmheads.commands.edge import OneLineGroup
from vlmheads.commands.measures import MEASURES
from vlmheads.commands.show import differing


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    done = CliRunner().invoke(main, ["testbed", "make", str(folder), "--num", "3", "--seed", "5"])
    assert done.exit_code == 0, done.output
    return folder / "images"


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner.from_pretrained("embedded", ())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_folder_is_captioned(scenes: Path) -> None:
    done = run("caption", scenes)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(".png: " in line and line.endswith(".") for line in lines)
    assert done.stderr == ""


def test_json_has_an_object_a_line_with_everything_needed(scenes: Path) -> None:
    plugin = "vhr:alpha=1.5,layers=[1,6,7]"
    done = run("caption", scenes, "--json", "--compare", "--plugin", plugin, "--batch-size", 2)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(record["image"]).parent for record in records] == [scenes] * 3
    assert set(records[0]) == {
        *("image", "caption", "plain", "tokens", "at_limit", "prompt", "plugins")
    }
    assert records[0]["plugins"][0]["name"] == "vhr"
    assert records[0]["plugins"][0]["options"]["alpha"] == 1.5


def test_no_plugin_gives_the_plain_caption(scenes: Path) -> None:
    plain = json.loads(run("caption", scenes, "--json", "--plugin", "none").stdout.splitlines()[0])
    both = json.loads(run("caption", scenes, "--json", "--compare").stdout.splitlines()[0])
    assert (plain["caption"], plain["plugins"]) == (both["plain"], [])


def test_captions_do_not_depend_on_the_batch_size(scenes: Path) -> None:
    by_size = [run("caption", scenes, "--json", "--batch-size", size).stdout for size in (1, 3)]
    assert by_size[0] == by_size[1]


def test_the_objects_that_differ_are_marked_and_the_wording_is_not() -> None:
    before, after = differing("There is a dog and a cat.", "The image shows a puppy and two forks.")
    assert before.plain == "There is a dog and a [-cat-]."
    assert after.plain == "The image shows a puppy and two {+forks+}."
    same = differing("A cat and a dog.", "There are a dog and a cat.")
    assert [text.plain for text in same] == ["A cat and a dog.", "There are a dog and a cat."]
    assert [text.spans for text in same] == [[], []]


def test_a_strong_plugin_is_shown_beside_the_plain_caption(scenes: Path) -> None:
    done = run("caption", scenes, "--compare", "--plugin", "pai:alpha=2")
    assert done.exit_code == 0
    assert "plain" in done.stdout
    assert "[-" in done.stdout
    assert "{+" in done.stdout


def test_what_cannot_be_read_is_reported_and_the_rest_is_done(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty").mkdir()
    scene = next(scenes.iterdir())
    done = run("caption", tmp_path / "no.png", tmp_path / "text.png", scene, tmp_path / "empty")
    assert done.exit_code == 2
    assert len(done.stdout.splitlines()) == 1
    errors = done.stderr.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("error: ") for line in errors)
    assert "no file" in errors[0]
    assert "is not an image" in errors[1]
    assert "holds no image" in errors[2]


def test_what_a_folder_walk_leaves_out_is_one_line(scenes: Path, tmp_path: Path) -> None:
    shutil.copy(next(scenes.iterdir()), tmp_path / "scene.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "more").mkdir()
    expected = (
        "note: left out: 1 file without an image suffix (.txt) and 1 folder inside those named "
        "(--recursive enters them)"
    )
    for command in (("caption",), ("detect", "--measure", "sinks")):
        done = run(*command, tmp_path)
        assert done.exit_code == 0
        assert done.stderr.splitlines() == [expected]


def test_a_photograph_gets_one_line_of_notice(tmp_path: Path) -> None:
    for index in range(2):
        Image.new("RGB", (640, 480), "green").save(tmp_path / f"{index}.jpg")
    done = run("caption", tmp_path, "--max-new-tokens", 4)
    assert done.exit_code == 0
    assert done.stderr.count("note: the embedded model knows only its own drawn scenes") == 1
    assert "--model" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plugin", "vrh"), "no plugin is called 'vrh'"),
        (("--plugin", "vhr:alpha=99"), "alpha=99"),
        (("--plugin", "vhr:layers=[50]"), "indices from 0 to"),
        (("--model", "./nowhere"), "no model './nowhere'"),
        (("--model", "nobody/nothing"), "nobody/nothing cannot be loaded"),
        (("--dtype", "int3"), "dtype 'int3'"),
        (("--device", "toaster"), "device 'toaster'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    scenes: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run("caption", scenes, *arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_model_without_image_input_is_refused(scenes: Path, tmp_path: Path) -> None:
    transformers.LlamaForCausalLM(tiny._llama()).save_pretrained(tmp_path)
    done = run("caption", scenes, "--model", tmp_path)
    assert done.exit_code == 2
    assert "takes no images" in done.stderr


def test_a_folder_without_a_model_is_refused(scenes: Path, tmp_path: Path) -> None:
    done = run("caption", scenes, "--model", tmp_path)
    assert done.exit_code == 2
    assert "holds no config.json" in done.stderr


def test_heads_are_measured_saved_and_drawn(scenes: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "heads.safetensors", tmp_path / "heads.png"
    done = run("detect", scenes, "--out", out, "--plot", plot, "--top", 2, "--batch-size", 2)
    assert done.exit_code == 0, done.output
    found = HeadMap.load(out)
    assert found.images == 3
    assert found.provenance["model"] == "embedded"
    assert plot.stat().st_size > 1000
    again = run("caption", scenes, "--plugin", f"vhr:head_map={out}")
    assert again.exit_code == 0, again.output


def test_plugins_and_families_are_listed() -> None:
    assert "vhr  (vlmheads" in run("plugins").stdout
    assert "alpha=2.0 (0.0 to 10.0)" in run("plugins", "vhr").stdout
    assert "layer=None (0 or more)" in run("plugins", "rudder").stdout
    assert "| `vhr` |" in run("plugins", "--markdown").stdout
    assert "vhr-llava15.json (vhr; " in run("presets").stdout
    assert "| `vhr-llava15.json` | vhr |" in run("presets", "--markdown").stdout
    families = run("families").stdout
    assert all(name in families for name in vlmheads.list_families())
    assert "Mllama  [mllama]  refused: " in families


def test_a_pipeline_follows_the_plugins(captioner: Captioner, scenes: Path) -> None:
    pipe = transformers.pipeline(
        "image-text-to-text", model=captioner.model, processor=captioner.processor
    )
    image = next(scenes.iterdir())
    text = {"type": "text", "text": "Describe the image."}
    chat = [{"role": "user", "content": [{"type": "image", "image": str(image)}, text]}]
    options = {"max_new_tokens": 48, "do_sample": False}

    def said() -> str:
        answer: str = pipe(text=chat, generate_kwargs=options, return_full_text=False)[0][
            "generated_text"
        ]
        return answer.strip()

    plain = said()
    with attach(captioner.model, "vhr:alpha=4"):
        during = said()
    assert said() == plain
    assert during != plain
    assert plain == captioner([image], max_new_tokens=48)[0].text
    assert during == captioner([image], max_new_tokens=48, plugins="vhr:alpha=4")[0].text


def test_a_caption_says_whether_the_limit_cut_it(captioner: Captioner, scenes: Path) -> None:
    image = next(scenes.iterdir())
    whole = captioner([image])[0]
    cut = captioner([image], max_new_tokens=4)[0]
    exact = captioner([image], max_new_tokens=whole.tokens)[0]
    assert (whole.at_limit, cut.at_limit, exact.at_limit) == (False, True, True)
    assert (cut.tokens, exact.text) == (4, whole.text)


def test_a_captioner_checks_its_arguments_before_it_loads(scenes: Path) -> None:
    with pytest.raises(VlmHeadsError, match="no plugin"):
        Captioner.from_pretrained("./nowhere", plugins="vrh")
    with pytest.raises(VlmHeadsError, match="batch_size=0"):
        Captioner(None, None, ())([next(scenes.iterdir())], batch_size=0)


def every_group(command: click.Command) -> Iterator[click.Group]:
    if isinstance(command, click.Group):
        yield command
        for name in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), name)
            assert child is not None
            yield from every_group(child)


def test_no_command_is_described_by_half_a_sentence_at_80_columns() -> None:
    for group in every_group(main):
        context = click.Context(group)
        names = group.list_commands(context)
        room = 78 - 6 - max(map(len, names))
        for name in names:
            child = group.get_command(context, name)
            assert child is not None
            assert not child.get_short_help_str(room).endswith("..."), (group.name, name)


def test_every_help_page_fits_80_columns_with_its_lists_as_they_are() -> None:
    for group in every_group(main):
        for name in group.list_commands(click.Context(group)):
            shown = CliRunner().invoke(group, [name, "--help"], terminal_width=80).output
            assert "\\b" not in shown, name
    shown = run("detect", "--help").output
    assert max(map(len, shown.splitlines())) <= 80
    for measure in MEASURES:
        assert any(line.startswith(f"  {measure} ") for line in shown.splitlines())


def test_without_a_command_three_examples_are_shown() -> None:
    shown = CliRunner().invoke(main, []).output
    lines = shown[shown.index("Examples:") :].splitlines()[1:]
    assert len(lines) == 3
    for line in lines:
        name, command, *rest = line.split()
        child = main.get_command(click.Context(main), command)
        assert name == "vlmheads"
        assert child is not None
        child.make_context(
            command, [one for one in rest if one != "photo.jpg"], resilient_parsing=True
        )


def test_an_interrupt_ends_with_the_exit_code_that_shells_know() -> None:
    @click.group(cls=OneLineGroup)
    def group() -> None:
        pass

    @group.command()
    def long() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(group, ["long"])
    assert result.exit_code == 130
    assert result.output == "interrupted\n"
