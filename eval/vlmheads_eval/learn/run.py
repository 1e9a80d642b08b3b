"""Learn what a method needs from images with known objects, and write it to one file."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval import run_folder
from vlmheads_eval.calibrate.learn import Source, load_source
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.data import Sample
from vlmheads_eval.learn.methods import METHODS
from vlmheads_eval.learn.words import label, record
from vlmheads_eval.records import image_key, predictions_file, read_captions

if TYPE_CHECKING:
    from vlmheads.learned import Learned

Say = Callable[[str], None]


def learn(
    method: str,
    model: str,
    data: str,
    workspace: Path,
    *,
    images: Path | None = None,
    captions: Path | None = None,
    num: int | None = None,
    prompt: str | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 8,
    fewest: int = 100,
    variant: str = "pattern",
    seed: int = 1,
    dtype: str = "auto",
    device: str | None = None,
    command: str = "",
    say: Say = lambda line: None,
) -> "Learned":
    """Learn one method.

    Args:
        method: one of METHODS.
        model: a packaged model, a folder or a hub id.
        data: a COCO folder, or a split of the test bench.
        workspace: a folder for the captions, which a second call resumes, and generated scenes.
        images: the folder of the images, if the data do not contain it.
        captions: captions of this model that exist already: a run folder or a file of records.
        num: how many images, drawn with the seed; by default what the method says, or as many as
            there are, or those that have captions.
        prompt: what captions are asked for with.
        max_new_tokens: the token limit of a caption.
        batch_size: captions per pass.
        fewest: the least number of words of either kind to learn from.
        variant: the variant of CHAIR that finds words.
        seed: for the draw of images, and for the scenes of the test bench.
        dtype: see `vlmheads.Captioner.from_pretrained`.
        device: see there.
        command: remembered with what was learned.
        say: is told what was found, line by line.

    Raises:
        VlmHeadsError: an unknown method, captions of another model or under plugins, images without
            captions, or too few words.
    """
    import vlmheads
    from vlmheads.learned import Learned
    from vlmheads.model.anatomy import examine
    from vlmheads_eval.predict.model import model_fingerprint, versions

    if method not in METHODS:
        raise VlmHeadsError(f"method {method!r}", " or ".join(METHODS))
    how, found, reader = METHODS[method], get_variant(variant), model_fingerprint(model)
    if captions is not None:
        if how.words is None:
            raise VlmHeadsError(f"captions for {method}, which learns from images", "none")
        prompt = _prompt_of(captions, prompt, reader)
    elif num is None:
        num = at_most(data, images, how.images)
    source = load_source(data, workspace, found, images=images, seed=seed, prompt=prompt, num=num)
    about: dict[str, Any] = {
        "model": model,
        "weights": digest(sorted(reader.items())),
        "data": data,
        "prompt": source.material.samples[0].prompt,
        "seed": seed,
        "versions": versions(),
        "command": command,
    }
    options = {"dtype": dtype, "device": device}
    if how.words is None:
        from vlmheads.images import read_image

        captioner = vlmheads.Captioner.from_pretrained(model, **options)
        samples = source.material.samples
        pictures = [read_image(sample.image) for sample in samples]
        assert how.pictures is not None
        values = how.pictures(captioner, pictures, samples[0].prompt)
        names = [(sample.key, _sha256(sample.image)) for sample in samples]
        about |= {"images": len(samples), "data_digest": digest(names)}
        return Learned(method, values, examine(captioner.model).geometry, about)
    run = captions
    if run is None:
        run = workspace / "captions"
        predict(model, data, run, workspace, num, seed, prompt, images,
                max_new_tokens, batch_size, options)  # fmt: skip
    texts = _texts(run, source)
    captioner = vlmheads.Captioner.from_pretrained(model, **options)
    labelled = label(captioner.processor.tokenizer, texts, source.truth.objects, found)
    real = sum(sum(one.words.values()) for one in labelled)
    hallucinated = sum(len(one.words) for one in labelled) - real
    say(f"{len(texts)} captions with {real} real and {hallucinated} hallucinated object words")
    if min(real, hallucinated) < fewest:
        raise VlmHeadsError(
            f"{real} real and {hallucinated} hallucinated object words in {len(texts)} captions",
            f"at least {fewest} of each to learn from",
            "use more images with --num, or accept fewer with --fewest",
        )
    masses, truth = record(captioner, labelled, batch_size)
    about |= {
        "images": len(texts),
        "words": {"real": real, "hallucinated": hallucinated},
        "captions": str(captions) if captions is not None else "its own",
        "data_digest": digest(
            [(s.key, text, sorted(source.truth.objects[s.key])) for s, text in texts]
        ),
        "max_new_tokens": max_new_tokens if captions is None else None,
        "variant": variant,
    }
    return Learned(method, how.words(masses, truth), masses.geometry, about)


def predict(
    model: str,
    data: str,
    out: Path,
    workspace: Path,
    num: int | None,
    seed: int,
    prompt: str | None,
    images: Path | None,
    max_new_tokens: int,
    batch_size: int,
    options: Mapping[str, Any],
) -> None:
    """Caption the images with the plain model, or go on where an earlier call was stopped."""
    from vlmheads_eval.predict.run import run_prediction

    run_prediction(
        (data,), images, model, (), None, 0, "caption", out, num, None, seed, prompt,
        max_new_tokens, batch_size, retry_failed=False, workspace=workspace, **options,
    )  # fmt: skip


def at_most(data: str, images: Path | None, num: int) -> int | None:
    """Return how many images to take: `num`, or None for all of a folder that has no more."""
    if not Path(data).is_dir():
        return num
    from vlmheads_eval.data import coco_images

    return num if num < len(coco_images(Path(data), images)[0]) else None


def digest(content: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _prompt_of(captions: Path, prompt: str | None, files: Mapping[str, str]) -> str | None:
    """Return the prompt of captions, and refuse a run of another model or under plugins."""
    if not (captions / run_folder.CONFIG).is_file():
        return prompt
    config = run_folder.read_config(captions)
    for name, expected in (("task", "caption"), ("plugins", []), ("control", None)):
        if config.get(name) != expected:
            raise VlmHeadsError(
                f"{captions}: {name} {config.get(name)!r}", f"{expected!r}, plain captions"
            )
    if config.get("model_files") != dict(files):
        raise VlmHeadsError(
            f"{captions}: captions of {config.get('model')}, whose files differ from this model's",
            "captions of the model itself",
        )
    if prompt not in (None, config.get("prompt")):
        raise VlmHeadsError(
            f"prompt {prompt!r} for captions that were asked for with {config.get('prompt')!r}",
            "the same prompt",
            "leave --prompt out",
        )
    found: str | None = config.get("prompt")
    return found


def _texts(run: Path, source: Source) -> list[tuple[Sample, str]]:
    """Return the samples that have a caption, in the order of the data, each with its caption."""
    said = {image_key(one.image_id): one.text for one in read_captions(run)}
    samples: Iterable[Sample] = source.material.samples
    found = [
        (one, said[one.key])
        for one in samples
        if one.key in said and one.key in source.truth.objects
    ]
    if not found:
        raise VlmHeadsError(
            f"{predictions_file(run)}: no caption of an image of {source.folder}",
            "captions of its images",
        )
    return found
