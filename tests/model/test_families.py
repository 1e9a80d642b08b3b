"""Families from a saved folder with their real processors, as people load them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pytest
import tiny
from click.testing import CliRunner, Result
from PIL import Image

from vlmheads import Captioner, HeadMap, VlmHeadsError
from vlmheads.cli import main
from vlmheads.model.anatomy import examine

# PaliGemma's processor hands NumPy tensors as lists of tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ("Describe the image .", "Is there a dog on the grass near a tree ?")
WITHOUT = [family for family, recipe in folders.RECIPES.items() if not recipe.torchvision]
WITH = [family for family, recipe in folders.RECIPES.items() if recipe.torchvision]


needs_torchvision = pytest.mark.skipif(
    find_spec("torchvision") is None and not os.environ.get("CI"),
    reason="make installs torchvision for the tests; it is not there",
)
every_family = pytest.mark.parametrize(
    "family", [*WITHOUT, *(pytest.param(name, marks=needs_torchvision) for name in WITH)]
)


@cache
def pictures() -> tuple[Image.Image, ...]:
    """Noise, tall and wide."""
    generator = np.random.default_rng(0)
    shapes = ((40, 30, 3), (24, 50, 3))
    return tuple(
        Image.fromarray(generator.integers(0, 255, shape, dtype=np.uint8)) for shape in shapes
    )


@cache
def by_hand(family: str) -> Captioner:
    """The model and the processor as the tests make them, padding on the right."""
    return Captioner(tiny.build(family), folders.processor(family), ())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("models")

    @cache
    def save(family: str) -> Path:
        return folders.save(family, place / family)

    return save


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, picture in enumerate(pictures()):
        picture.save(folder / f"{number}.png")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_every_tiny_model_has_a_folder() -> None:
    types = {tiny.build(name).config.model_type for name in tiny.FAMILIES}
    assert set(folders.RECIPES) == types


@every_family
def test_a_saved_folder_is_captioned_and_measured(
    family: str, saved: Any, images: Path, tmp_path: Path
) -> None:
    folder = saved(family)
    captioner = Captioner.from_pretrained(str(folder), ())
    assert type(captioner.processor).__name__ == folders.RECIPES[family].processor
    assert type(captioner.processor.image_processor).__name__.endswith("Pil")
    captions = captioner(list(pictures()), PROMPTS[0], max_new_tokens=6)
    assert all(caption.tokens == 6 for caption in captions)

    options = ("--model", folder, "--prompt", PROMPTS[0])
    done = run("caption", images, *options, "--max-new-tokens", 6, "--plugin", "none", "--json")
    assert done.exit_code == 0, done.output
    found = [json.loads(line)["caption"] for line in done.stdout.splitlines()]
    assert found == [caption.text for caption in captions]

    out = tmp_path / "map.safetensors"
    done = run("detect", images, *options, "--out", out)
    assert done.exit_code == 0, done.output
    assert HeadMap.load(out).geometry == examine(captioner.model).geometry


@every_family
def test_prompts_of_different_lengths_are_answered_as_they_are_alone(family: str) -> None:
    captioner = by_hand(family)
    captioner.processor.tokenizer.padding_side = "right"
    inputs = captioner.prepare(pictures(), PROMPTS)
    assert not bool(inputs["attention_mask"].all()), "nothing was padded"
    assert bool(inputs["attention_mask"][:, -1].all())
    together = captioner.generate(inputs, max_new_tokens=8)
    alone = [
        captioner.generate(captioner.prepare(picture, prompt), max_new_tokens=8)[0]
        for picture, prompt in zip(pictures(), PROMPTS, strict=True)
    ]
    assert together == alone
    assert captioner.processor.tokenizer.padding_side == "right", "the user's processor is left"


@every_family
def test_a_prompt_that_holds_an_image_token_is_refused(family: str) -> None:
    captioner = by_hand(family)
    image = captioner.processor.tokenizer.convert_ids_to_tokens(tiny.IMAGE)
    for token in {image, captioner.processor.image_token}:
        with pytest.raises(VlmHeadsError, match="stands for an image to this model") as refusal:
            captioner.prepare(pictures()[0], f"What is {token} ?")
        assert "\n" not in str(refusal.value)


def test_what_a_processor_raises_is_one_line() -> None:
    processor = folders.processor("llava")
    processor.chat_template = "{{ raise_exception('only\n text') }}"
    with pytest.raises(VlmHeadsError, match=r"LlavaProcessor that fails .*\(only text\)"):
        Captioner(tiny.build("llava"), processor, ()).prepare(pictures()[0], "a dog")


# Loads the named folders and prints, for each, a caption or the refusal.
LOADING = """
import json, sys
import numpy as np
from vlmheads import Captioner, VlmHeadsError
images = [np.load(file) for file in sys.argv[1:3]]
for folder in sys.argv[3:]:
    try:
        captioner = Captioner.from_pretrained(folder, ())
        captions = captioner(images, "Describe the image .", max_new_tokens=6)
        print(json.dumps([caption.text for caption in captions]))
    except VlmHeadsError as error:
        print(json.dumps(str(error)))
"""


@needs_torchvision
def test_without_torchvision_families_load_alike_or_say_what_to_install(
    saved: Any, tmp_path: Path
) -> None:
    """A process of its own: transformers looks for torchvision once."""
    files = [tmp_path / f"{number}.npy" for number in range(2)]
    for file, picture in zip(files, pictures(), strict=True):
        np.save(file, np.asarray(picture))
    plain = ["llava", "idefics3"]
    names = [*plain, *WITH]
    done = subprocess.run(
        [sys.executable, "-c", LOADING, *map(str, files), *(str(saved(name)) for name in names)],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))
    for name in plain:
        captioner = Captioner.from_pretrained(str(saved(name)), ())
        captions = captioner(list(pictures()), PROMPTS[0], max_new_tokens=6)
        assert found[name] == [caption.text for caption in captions]
    for name in WITH:
        assert "needs torchvision, which is not installed" in found[name]
        assert "pip install torchvision torch==" in found[name]


def test_a_processor_without_images_is_refused(tmp_path: Path) -> None:
    tiny.build("llava").save_pretrained(tmp_path)
    folders.tokenizer(folders.RECIPES["llava"]).save_pretrained(tmp_path)
    with pytest.raises(VlmHeadsError, match="cannot be loaded|for texts and images"):
        Captioner.from_pretrained(str(tmp_path))
