"""Calibration on images with known objects: from a model's own captions to gains of its heads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.calibration_lessons import (
    Answer,
    Weights,
    make_lesson,
    object_tokens,
    read_answer,
    split_images,
)
from vlmheads_eval.ground_truth import GroundTruth
from vlmheads_eval.lineages import Lineage, lineage
from vlmheads_eval.samples import Material, Sample, load_material

if TYPE_CHECKING:
    from vlmheads.calibration import Calibration, Step

CAPTIONS = 64  # Images captioned at once.


@dataclass(frozen=True)
class Settings:
    """How calibration goes about it.

    Args:
        held_out: share of the images that tell when to stop.
        batch_size: answers of one step.
        weights: of the kinds of choices.
        steps: the most steps.
        rate: Adam's step size.
        penalty: how strongly gains are drawn to 1.
        low: the least gain.
        high: the largest gain.
        every: steps between looks at what is held out.
        patience: looks without a gain before it stops.
        fewest: invented mentions that the plain captions must hold at least.
        max_new_tokens: where the plain captions are cut off.
        seed: of the draw of what is held out, and of the order of the steps.
        lineage: how captions are read.
    """

    held_out: float = 0.2
    batch_size: int = 16
    weights: Weights = Weights()
    steps: int = 150
    rate: float = 0.06
    penalty: float = 0.01
    low: float = 0.0
    high: float = 4.0
    every: int = 15
    patience: int = 3
    fewest: int = 20
    max_new_tokens: int = 96
    seed: int = 0
    lineage: str = "pattern"


@dataclass(frozen=True)
class Source:
    """Images to learn from, with what is in them."""

    material: Material
    truth: GroundTruth
    folder: Path


def load_source(data: str, workspace: Path, reading: Lineage, **options: Any) -> Source:
    """Return the images and ground truth of a COCO folder or of a split of the test bench.

    Raises VlmHeadsError for a folder without annotations, or one whose images are not there.
    """
    from vlmheads_eval.ground_truth import load_ground_truth

    material = load_material([data], "caption", workspace=workspace, **options)
    samples = tuple(sample for sample in material.samples if sample.image.is_file())
    folder = material.ground_truth[0].parent
    if not samples:
        raise VlmHeadsError(
            f"{folder} without its images",
            f"files such as {material.samples[0].image}" if material.samples else "images",
            "pass --images FOLDER",
        )
    truth = load_ground_truth(material.ground_truth, reading)
    return Source(Material(samples, material.ground_truth), truth, folder)


def learn(
    captioner: Any,
    sources: Sequence[Source],
    settings: Settings,
    *,
    provenance: Mapping[str, Any],
    say: Callable[[str], None] = lambda line: None,
    progress: "Callable[[Step], bool]" = lambda step: True,
) -> "Calibration":
    """Caption the images with the plain model, see what the captions name, and learn gains.

    Raises VlmHeadsError for captions with too few invented mentions to learn from.
    """
    from vlmheads.calibration import calibrate
    from vlmheads.images import read_image

    reading = lineage(settings.lineage)
    answers = _answers(captioner, sources, settings, reading)
    mentions = [name in one.truth for one in answers.values() for name in one.named.values()]
    invented = len(mentions) - sum(mentions)
    say(f"{len(answers)} captions with {len(mentions)} mentions, {invented} of them invented")
    if invented < settings.fewest:
        raise VlmHeadsError(
            f"{invented} invented mentions in {len(answers)} captions",
            f"at least {settings.fewest} to learn from",
            "give more images with --num or --data",
        )
    objects = object_tokens(captioner.processor.tokenizer, reading.vocabulary)
    samples = {sample.key: sample for source in sources for sample in source.material.samples}
    learned, held_out = split_images(list(answers), settings.held_out, settings.seed)

    def lessons(keys: Sequence[str]) -> list[Any]:
        size = settings.batch_size
        return [
            make_lesson(
                captioner,
                [read_image(samples[key].image) for key in some],
                samples[some[0]].prompt,
                [answers[key] for key in some],
                objects,
                settings.weights,
            )
            for some in (keys[at : at + size] for at in range(0, len(keys), size))
        ]

    about = {
        "images": len(answers),
        "held-out images": len(held_out),
        "mentions": len(mentions),
        "invented mentions": invented,
        "settings": asdict(settings) | {"weights": settings.weights._asdict()},
    }
    return calibrate(
        captioner.model,
        lessons(learned),
        lessons(held_out),
        steps=settings.steps,
        rate=settings.rate,
        penalty=settings.penalty,
        low=settings.low,
        high=settings.high,
        every=settings.every,
        patience=settings.patience,
        seed=settings.seed,
        provenance=about | dict(provenance),
        progress=progress,
    )


def _answers(
    captioner: Any, sources: Sequence[Source], settings: Settings, reading: Lineage
) -> dict[str, Answer]:
    """Return image key -> the plain model's caption, read against what is in the image."""
    from vlmheads.images import read_image
    from vlmheads_eval.generation import Generator

    describe = Generator(captioner, settings.max_new_tokens)
    tokenizer = captioner.processor.tokenizer
    found: dict[str, Answer] = {}
    for source in sources:
        samples = source.material.samples
        for some in (samples[at : at + CAPTIONS] for at in range(0, len(samples), CAPTIONS)):
            images = [read_image(sample.image) for sample in some]
            said = describe(images, [sample.prompt for sample in some])
            for sample, one in zip(some, said, strict=True):
                truth = source.truth.objects.get(sample.key, frozenset())
                if one.text and truth:
                    found[sample.key] = read_answer(tokenizer, one.text, truth, reading)
    return found


def refuse_overlap(learned: Sequence[Source], tested: Sequence[Source]) -> None:
    """Refuse to test on an image that was learned from."""
    known = {_identity(one) for source in learned for one in source.material.samples}
    shared = [
        one.key for source in tested for one in source.material.samples if _identity(one) in known
    ]
    if shared:
        raise VlmHeadsError(
            f"{len(shared)} test images were learned from, image {shared[0]} for one",
            "other images to test on",
            "give other --data, or another --seed",
        )


def _identity(sample: Sample) -> tuple[str, int, bytes]:
    """Tell an image by its id and its first bytes."""
    with sample.image.open("rb") as file:
        return sample.key, sample.image.stat().st_size, file.read(4096)
