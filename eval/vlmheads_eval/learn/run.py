"""Learn what a method needs from images with known objects, and write it to one file."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval import run_folder
from vlmheads_eval.calibrate.learn import Source, load_source
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.data import Sample, at_most
from vlmheads_eval.learn.methods import METHODS, Apart, FromImages, FromPairs, FromWords, Method
from vlmheads_eval.learn.pairs import make_pairs
from vlmheads_eval.learn.words import label, record
from vlmheads_eval.records import file_sha256, image_key, predictions_file, read_captions

if TYPE_CHECKING:
    from vlmheads.caption import Captioner
    from vlmheads.learned import Learned

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What to learn from, and how.

    Args:
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
        fewest: the least number of words of either kind, or of pairs of captions, to learn from.
        variant: the variant of CHAIR that finds words.
        seed: for the draw of images, and for the scenes of the test bench.
        form: of a method that has several; by default its first.
        dtype: see `vlmheads.Captioner.from_pretrained`.
        device: see there.
        command: remembered with what was learned.
    """

    model: str
    data: str
    workspace: Path
    images: Path | None = None
    captions: Path | None = None
    num: int | None = None
    prompt: str | None = None
    max_new_tokens: int = 256
    batch_size: int = 8
    fewest: int = 100
    variant: str = "pattern"
    seed: int = 1
    form: str | None = None
    dtype: str = "auto"
    device: str | None = None
    command: str = ""

    def load(self) -> "Captioner":
        """Return the plain model."""
        import vlmheads

        return vlmheads.Captioner.from_pretrained(
            self.model, (), dtype=self.dtype, device=self.device
        )


def learn(method: str, settings: Settings, say: Say = lambda line: None) -> "Learned":
    """Learn one of METHODS; `say` is called with what was found, line by line.

    Raises VlmHeadsError for an unknown method, captions of another model or under plugins, images
    without captions, or too few words or pairs.
    """
    from vlmheads.model.fingerprint import model_fingerprint
    from vlmheads_eval.predict.model import versions

    if method not in METHODS:
        raise VlmHeadsError(f"method {method!r}", " or ".join(METHODS))
    how, files = METHODS[method], model_fingerprint(settings.model)
    make_of_pairs = _formed(method, how, settings.form)
    if settings.captions is not None:
        if how.pictures is not None:
            raise VlmHeadsError(f"captions for {method}, which learns from images", "none")
        settings = replace(settings, prompt=_prompt_of(settings.captions, settings.prompt, files))
    elif settings.num is None:
        settings = replace(settings, num=at_most(settings.data, how.images))
    source = load_source(
        settings.data,
        settings.workspace,
        get_variant(settings.variant),
        images=settings.images,
        seed=settings.seed,
        prompt=settings.prompt,
        num=settings.num,
    )
    about = {
        "model": settings.model,
        "weights": digest(sorted(files.items())),
        "data": settings.data,
        "prompt": source.material.samples[0].prompt,
        "seed": settings.seed,
        "versions": versions(),
        "command": settings.command,
    }
    if how.pictures is not None:
        return _from_images(method, how.pictures, settings, source, about)
    if make_of_pairs is not None:
        form = {"form": settings.form or next(iter(how.forms))} if how.forms else {}
        return _from_pairs(method, make_of_pairs, settings, source, {**about, **form}, say)
    assert how.words is not None  # A method learns from one of the three.
    return _from_words(method, how.words, how.apart, settings, source, about, say)


def _formed(method: str, how: Method, form: str | None) -> FromPairs | None:
    """Return what makes tensors of pairs, in one of the forms of a method.

    Raises VlmHeadsError for a form that the method does not have.
    """
    if form is None:
        return how.pairs
    if form not in how.forms:
        known = " or ".join(map(repr, how.forms)) or "none: the method has one form"
        raise VlmHeadsError(f"form {form!r} of {method}", known)
    return how.forms[form]


def _from_images(
    method: str, make: FromImages, settings: Settings, source: Source, about: Mapping[str, Any]
) -> "Learned":
    from vlmheads.images import read_image
    from vlmheads.learned import Learned
    from vlmheads.model.anatomy import examine

    captioner, samples = settings.load(), source.material.samples
    values = make(captioner, [read_image(one.image) for one in samples], samples[0].prompt)
    found = {
        "images": len(samples),
        "data_digest": digest([(one.key, file_sha256(one.image)) for one in samples]),
    }
    return Learned(method, values, examine(captioner.model).geometry, {**about, **found})


def _from_words(
    method: str,
    make: FromWords,
    apart: Apart | None,
    settings: Settings,
    source: Source,
    about: Mapping[str, Any],
    say: Say,
) -> "Learned":
    from vlmheads.learned import Learned

    texts = _texts(settings.captions or _captioned(settings), source)
    captioner, variant = settings.load(), get_variant(settings.variant)
    labelled = label(captioner.processor.tokenizer, texts, source.truth.objects, variant)
    real = sum(sum(one.words.values()) for one in labelled)
    hallucinated = sum(len(one.words) for one in labelled) - real
    message = f"{real} real and {hallucinated} hallucinated object words in {len(texts)} captions"
    if min(real, hallucinated) < settings.fewest:
        raise VlmHeadsError(
            message,
            f"at least {settings.fewest} of each to learn from",
            "use more images with --num, or accept fewer with --fewest",
        )
    say(message)
    own = apart and apart(captioner, labelled, settings.batch_size, say)
    masses, truth = record(captioner, labelled, settings.batch_size, own)
    found = _of_captions(settings, texts, source.truth.objects) | {
        "words": {"real": real, "hallucinated": hallucinated},
    }
    return Learned(method, make(masses, truth), masses.geometry, {**about, **found})


def _from_pairs(
    method: str,
    make: FromPairs,
    settings: Settings,
    source: Source,
    about: Mapping[str, Any],
    say: Say,
) -> "Learned":
    from vlmheads.learned import Learned
    from vlmheads.model.anatomy import examine

    texts, truth = _texts(settings.captions or _captioned(settings), source), source.truth.objects
    pairs = make_pairs(texts, truth, get_variant(settings.variant))
    message = f"{len(pairs)} pairs of captions from {len(texts)} captions"
    if len(pairs) < settings.fewest:
        raise VlmHeadsError(
            message,
            f"at least {settings.fewest} to learn from",
            "use more images with --num, or accept fewer with --fewest",
        )
    inserted = sum(pair.inserted for pair in pairs)
    say(f"{message}: an object inserted in {inserted}, clauses dropped in {len(pairs) - inserted}")
    captioner = settings.load()
    values = make(captioner, pairs, source)
    found = _of_captions(settings, texts, truth) | {
        "pairs": {"inserted": inserted, "rewritten": len(pairs) - inserted},
    }
    return Learned(method, values, examine(captioner.model).geometry, {**about, **found})


def _of_captions(
    settings: Settings,
    texts: list[tuple[Sample, str]],
    truth: Mapping[str, frozenset[str]],
) -> dict[str, Any]:
    """Return what is remembered of captions."""
    own = settings.captions is None
    return {
        "images": len(texts),
        "captions": "its own" if own else str(settings.captions),
        "max_new_tokens": settings.max_new_tokens if own else None,
        "variant": settings.variant,
        "data_digest": digest([(one.key, text, sorted(truth[one.key])) for one, text in texts]),
    }


def _captioned(settings: Settings) -> Path:
    """Caption the images with the plain model, or go on where an earlier call was stopped."""
    from vlmheads_eval.predict.run import run_prediction

    out = settings.workspace / "captions"
    run_prediction(
        data=(settings.data,),
        images=settings.images,
        model=settings.model,
        out=out,
        num=settings.num,
        seed=settings.seed,
        prompt=settings.prompt,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        dtype=settings.dtype,
        device=settings.device,
        workspace=settings.workspace,
    )
    return out


def digest(content: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
