"""`vlmheads learn` from labelled words to its command."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.commands.learn import learn
from vlmheads_eval.data import Sample
from vlmheads_eval.learn.methods import attention_tables
from vlmheads_eval.learn.words import label, record
from vlmheads_testbed.coco import write_dataset

import vlmheads
from vlmheads.detect.mass import WordMass, word_mass
from vlmheads.images import read_image
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry

TEXT = "There is a beach with a dog. There are two birds."


@pytest.fixture(scope="module")
def captioner() -> vlmheads.Captioner:
    return vlmheads.Captioner.from_pretrained("embedded", ())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learn") / "scenes"
    write_dataset(folder, "counterfactual", 8)
    return folder


def run(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(learn, [str(one) for one in arguments], catch_exceptions=False)
    return found.exit_code, found.output


SMALL = ("--model", "embedded", "--fewest", 1)
SHORT = ("--max-new-tokens", 32)


def test_words_are_labelled_by_what_is_in_the_image(captioner: vlmheads.Captioner) -> None:
    tokenizer = captioner.processor.tokenizer
    sample = Sample("1", Path("a.png"), "Describe the image.")
    other = Sample("2", Path("b.png"), "Describe the image.")
    truth = {"1": frozenset({"dog"}), "2": frozenset({"dog"})}
    captions = [(sample, TEXT), (other, "There is a beach.")]
    (found,) = label(tokenizer, captions, truth, get_variant("pattern"))
    said = {tokenizer.decode([found.tokens[at]]).strip(): real for at, real in found.words.items()}
    assert said == {"dog": True, "bird": False}


def test_recorded_words_keep_their_labels(captioner: vlmheads.Captioner, data: Path) -> None:
    image = next((data / "images").iterdir())
    sample = Sample("1", image, "Describe the image.")
    texts = [TEXT, "There is a dog.", "There is a bird and a dog with a bird."]
    found = label(
        captioner.processor.tokenizer,
        [(sample, text) for text in texts],
        {"1": frozenset({"dog"})},
        get_variant("pattern"),
    )
    masses, real = record(captioner, found, batch_size=2)
    # Shortest caption first.
    lengths = sorted(found, key=lambda one: len(one.tokens))
    expected = [one.words[at] for one in lengths for at in sorted(one.words)]
    assert real.tolist() == expected
    assert masses.said.tolist() == [at for one in lengths for at in sorted(one.words)]
    inputs = captioner.prepare([read_image(image)], sample.prompt)
    first = lengths[0]
    marked = torch.zeros(1, len(first.tokens), dtype=torch.bool)
    marked[0, list(first.words)] = True
    alone = word_mass(captioner.model, inputs, torch.tensor([first.tokens]), marked)
    torch.testing.assert_close(masses.image[: len(alone.image)], alone.image, atol=1e-4, rtol=0)


def test_tables_are_means_over_words_of_the_mean_over_what_was_said() -> None:
    generated = torch.rand(5, 2, 3)
    said = torch.tensor([0, 2, 4, 1, 5])
    real = torch.tensor([True, True, False, True, False])
    masses = WordMass(generated, generated, generated, said, Geometry("llava", 2, 3))
    found = attention_tables(masses, real)
    for kind, words in (("real", (1, 3)), ("hallucinated", (2, 4))):
        for layer in range(2):
            for head in range(3):
                means = [float(generated[w, layer, head]) / int(said[w]) for w in words]
                value = float(found[kind][layer, head])
                assert value == pytest.approx(sum(means) / len(means), abs=1e-6)


def test_the_command_writes_tables_that_act_and_tell_where_they_come_from(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tables.safetensors"
    code, text = run("adaiat", *SMALL, *SHORT, "--data", data, "--out", out)
    assert code == 0, text
    found = Learned.load(out)
    about = found.provenance
    assert (found.method, about["model"], about["images"]) == ("adaiat", "embedded", 8)
    assert min(about["words"].values()) >= 1
    assert len(about["weights"]) == len(about["data_digest"]) == 64
    assert "--fewest 1" in about["command"]
    assert f"{about['words']['real']} real" in text
    plugin = vlmheads.get_plugin("adaiat").from_dict({"tables": str(out)})
    captioner = vlmheads.Captioner.from_pretrained("embedded", ())
    image = next((data / "images").iterdir())
    (caption,) = captioner([image], plugins=[plugin], max_new_tokens=8)
    assert caption.text
    # A second call finds the captions, and captions that are given give the same tables.
    again = tmp_path / "again.safetensors"
    code, text = run("adaiat", *SMALL, "--data", data, "--out", again, "--captions",
                     tmp_path / "tables-data" / "captions")  # fmt: skip
    assert code == 0, text
    assert Learned.load(again).digest == found.digest


def test_too_few_words_are_refused_with_the_number_needed(data: Path, tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    ids = [one["id"] for one in json.loads((data / "instances.json").read_text())["images"]]
    captions.write_text(json.dumps({"image_id": ids[0], "caption": TEXT}) + "\n")
    out = tmp_path / "tables.safetensors"
    arguments = ("--model", "embedded", "--data", data, "--out", out, "--captions", captions)
    code, text = run("adaiat", *arguments, "--fewest", 7)
    assert code == 2
    assert "object words in 1 captions; expected at least 7 of each" in text
    assert not out.exists()


def test_captions_of_other_images_are_refused(data: Path, tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    captions.write_text(json.dumps({"image_id": 987654, "caption": TEXT}) + "\n")
    out = tmp_path / "tables.safetensors"
    code, text = run("adaiat", *SMALL, "--data", data, "--out", out, "--captions", captions)
    assert (code, "no caption of an image" in text) == (2, True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"plugins": [{"name": "vhr"}]}, "plain captions"),
        ({"task": "pope"}, "plain captions"),
        ({"model_files": {}}, "captions of the model itself"),
        ({"prompt": "What?"}, "the same prompt"),
    ],
)
def test_captions_of_another_run_are_refused(
    data: Path, tmp_path: Path, change: dict[str, object], match: str
) -> None:
    from vlmheads.model.fingerprint import model_fingerprint

    config = {
        "schema": 1,
        "task": "caption",
        "plugins": [],
        "control": None,
        "model": "embedded",
        "model_files": model_fingerprint("embedded"),
        "prompt": None,
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | change))
    prompt = ("--prompt", "Describe it.") if "prompt" in change else ()
    code, text = run("adaiat", *SMALL, *prompt, "--data", data, "--captions", tmp_path / "run",
                     "--out", tmp_path / "tables.safetensors")  # fmt: skip
    assert (code, match in text) == (2, True), text


def test_a_pool_of_images_is_learned_without_captions(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool.safetensors"
    code, text = run("cicd", "--model", "embedded", "--data", data, "--num", 3, "--out", out)
    assert code == 0, text
    found = Learned.load(out)
    assert (found.method, len(found.values["pixels"])) == ("cicd", 3)
    assert not (tmp_path / "pool-data" / "captions").exists()
    captioner = vlmheads.Captioner.from_pretrained("embedded", ())
    image = next((data / "images").iterdir())
    (caption,) = captioner([image], plugins=[f"cicd:pool={out}"], max_new_tokens=8)
    assert caption.text
    code, text = run("cicd", "--model", "embedded", "--data", data, "--out", out, "--captions", out)
    assert (code, "--captions has no effect on cicd" in text) == (2, True)


def test_directions_of_the_vision_tower_are_learned_from_images(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "visual.safetensors"
    code, text = run("vti-visual", "--model", "embedded", "--data", data, "--num", 3, "--out", out)
    assert code == 0, text
    captioner = vlmheads.Captioner.from_pretrained("embedded", ())
    vision = captioner.model.config.vision_config
    positions = (vision.image_size // vision.patch_size) ** 2 + 1
    shape = (vision.num_hidden_layers, positions, vision.hidden_size)
    assert tuple(Learned.load(out).values["directions"].shape) == shape
    image = next((data / "images").iterdir())
    (caption,) = captioner([image], plugins=[f"vti-visual:directions={out}"], max_new_tokens=8)
    assert caption.text


@pytest.mark.parametrize(
    ("method", "given", "option"),
    [
        ("cicd", (), ("--fewest", 5)),
        ("cicd", (), ("--variant", "fixed")),
        ("adaiat", ("--captions", "."), ("--max-new-tokens", 9)),
    ],
)
def test_an_option_without_effect_is_refused(
    method: str, given: tuple[str, ...], option: tuple[object, ...], tmp_path: Path
) -> None:
    arguments = ("--model", "embedded", "--data", "testbed:train", "--out", tmp_path / "x")
    code, text = run(method, *arguments, *given, *option)
    assert (code, f"{option[0]} has no effect on {method}" in text) == (2, True)


def test_tables_of_words_that_begin_their_captions_are_refused() -> None:
    masses = WordMass(*[torch.ones(2, 1, 1)] * 3, torch.tensor([3, 0]), Geometry("llava", 1, 1))
    with pytest.raises(vlmheads.VlmHeadsError, match="no hallucinated object word"):
        attention_tables(masses, torch.tensor([True, False]))


def test_a_file_that_cannot_be_written_is_refused_before_captions(
    data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "tables"
    code, text = run("adaiat", *SMALL, *SHORT, "--data", data, "--out", out)
    assert code == 2
    assert f"folder {out.parent} cannot be made" in text
    assert list(tmp_path.iterdir()) == [out.parent]
