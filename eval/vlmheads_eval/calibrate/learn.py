"""Calibration on images with known objects: gains of heads from a model's own captions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.calibrate.examples import (
    Weights,
    make_example,
    object_tokens,
    read_answer,
    split_images,
)
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.measures import count_mentions, overall, score_mentions
from vlmheads_eval.chair.variants import Variant, get_variant
from vlmheads_eval.data import Material, Sample, load_material

if TYPE_CHECKING:
    from vlmheads.gains.learn import Calibration, Checkpoint
    from vlmheads.headmap import HeadMap


CAPTIONS = 64  # Images per generation.


@dataclass(frozen=True)
class Settings:
    """Settings of calibration.

    Args:
        rounds: maximum number of rounds; each captions images under the gains so far, and learns.
        images: captions per round.
        batch_size: captions per step.
        weights: of the kinds of choices.
        rate: Adam's step size in the first round.
        penalty: how strongly gains are pulled towards 1.
        low: the smallest gain.
        high: the largest gain.
        held_out: share of the images used to choose the best round.
        patience: rounds without improvement before it stops.
        fewest: the least number of hallucinated mentions in the plain captions.
        max_new_tokens: token limit of captions.
        seed: for the held-out images and the order of steps.
        variant: the variant of CHAIR that finds mentions.
    """

    rounds: int = 10
    images: int = 192
    batch_size: int = 16
    weights: Weights = Weights()
    rate: float = 0.03
    penalty: float = 0.02
    low: float = 0.0
    high: float = 4.0
    held_out: float = 0.25
    patience: int = 5
    fewest: int = 20
    max_new_tokens: int = 96
    seed: int = 0
    variant: str = "pattern"


@dataclass(frozen=True)
class Source:
    """Images to learn from, with their objects."""

    material: Material
    truth: GroundTruth
    folder: Path


def load_source(data: str, workspace: Path, variant: Variant, **options: Any) -> Source:
    """Return the images and ground truth of a COCO folder or of a split of the test bench.

    Raises VlmHeadsError for a folder without annotations or without its images.
    """
    from vlmheads_eval.chair.ground_truth import load_ground_truth

    material = load_material([data], "caption", workspace=workspace, **options)
    samples = tuple(sample for sample in material.samples if sample.image.is_file())
    folder = material.ground_truth[0].parent
    if not samples:
        raise VlmHeadsError(
            f"{folder} without its images",
            f"files such as {material.samples[0].image}" if material.samples else "images",
            "pass --images FOLDER",
        )
    truth = load_ground_truth(material.ground_truth, variant)
    return Source(Material(samples, material.ground_truth), truth, folder)


@dataclass(frozen=True)
class GainCaptioner:
    """Captions of given images under gains, scored against the objects in the images.

    Args:
        captioner: the model, without plugins.
        samples: image key -> sample.
        truth: image key -> categories in the image.
        variant: the variant of CHAIR that finds mentions.
        max_new_tokens: token limit of captions.
    """

    captioner: Any
    samples: Mapping[str, Sample]
    truth: Mapping[str, frozenset[str]]
    variant: Variant
    max_new_tokens: int

    def texts(self, keys: Sequence[str], gains: "HeadMap | None" = None) -> list[str]:
        """Caption images under gains, or plain without them."""
        from vlmheads.images import read_image
        from vlmheads.registry import get_plugin
        from vlmheads_eval.predict.model import Generator

        model, processor = self.captioner.model, self.captioner.processor
        scaled = () if gains is None else (get_plugin("gains").from_dict({"head_map": gains}),)
        describe = Generator(type(self.captioner)(model, processor, scaled), self.max_new_tokens)
        found: list[str] = []
        for some in (keys[at : at + CAPTIONS] for at in range(0, len(keys), CAPTIONS)):
            chosen = [self.samples[key] for key in some]
            images = [read_image(sample.image) for sample in chosen]
            answers = describe(images, [sample.prompt for sample in chosen])
            found += [answer.text for answer in answers]
        return found

    def object_f1(self, keys: Sequence[str], texts: Sequence[str]) -> float:
        """Return object F1 of captions, from the sums over images."""
        scores = [
            score_mentions(key, self.variant.read(text), self.truth[key])
            for key, text in zip(keys, texts, strict=True)
        ]
        sums = np.sum([count_mentions(one) for one in scores], axis=0)
        return float(overall(sums)["object_f1"] or 0)

    def mention_counts(self, keys: Sequence[str], texts: Sequence[str]) -> tuple[int, int]:
        """Return how many mentions captions have, and how many of them are hallucinated."""
        mentions = [
            mention.node in self.truth[key]
            for key, text in zip(keys, texts, strict=True)
            for mention in self.variant.read(text).mentions
        ]
        return len(mentions), len(mentions) - sum(mentions)


def learn(
    captioner: Any,
    sources: Sequence[Source],
    settings: Settings,
    *,
    provenance: Mapping[str, Any],
    say: Callable[[str], None] = lambda line: None,
    progress: "Callable[[Checkpoint], bool]" = lambda look: True,
) -> "Calibration":
    """Caption images round by round, and learn gains from what the captions name.

    The held-out images are captioned after each round; their cost is 1 minus object F1, averaged
    over the sources.

    Raises VlmHeadsError for plain captions with too few hallucinated mentions to learn from.
    """
    from vlmheads.gains.learn import calibrate
    from vlmheads.images import read_image

    variant = get_variant(settings.variant)
    samples = {one.key: one for source in sources for one in source.material.samples}
    truth = {key: source.truth.objects[key] for source in sources for key in _known(source)}
    reader = GainCaptioner(captioner, samples, truth, variant, settings.max_new_tokens)
    parts = [split_images(_known(one), settings.held_out, settings.seed) for one in sources]
    held_out = [part for _, part in parts]
    learned = interleaved([part for part, _ in parts])
    objects = object_tokens(captioner.processor.tokenizer, variant.vocabulary)
    tokenizer = captioner.processor.tokenizer
    every = [key for part in held_out for key in part] + learned[: settings.images]
    mentions, hallucinated = reader.mention_counts(every, reader.texts(every))
    say(f"{len(every)} plain captions with {mentions} mentions, {hallucinated} hallucinated")
    if hallucinated < settings.fewest:
        raise VlmHeadsError(
            f"{hallucinated} hallucinated mentions in {len(every)} captions",
            f"at least {settings.fewest} to learn from",
            "use more images with --num or --data",
        )

    def examples(number: int, gains: "HeadMap") -> list[Any]:
        start = (number - 1) * settings.images
        keys = [learned[at % len(learned)] for at in range(start, start + settings.images)]
        keys = list(dict.fromkeys(keys))
        pairs = list(zip(keys, reader.texts(keys, gains), strict=True))
        answers = [(key, read_answer(tokenizer, text, truth[key], variant)) for key, text in pairs]
        answers = [(key, answer) for key, answer in answers if answer.tokens]
        return [
            make_example(
                captioner,
                [read_image(samples[key].image) for key, _ in some],
                samples[some[0][0]].prompt,
                [answer for _, answer in some],
                objects,
                settings.weights,
            )
            for some in _batches(answers, settings.batch_size)
        ]

    def judge(gains: "HeadMap") -> float:
        f1 = [reader.object_f1(keys, reader.texts(keys, gains)) for keys in held_out]
        return 1 - sum(f1) / len(f1)

    about = {
        "images": len(truth),
        "held-out images": sum(map(len, held_out)),
        "settings": asdict(settings) | {"weights": settings.weights._asdict()},
    }
    return calibrate(
        captioner.model,
        examples,
        judge,
        rounds=settings.rounds,
        rate=settings.rate,
        penalty=settings.penalty,
        low=settings.low,
        high=settings.high,
        patience=settings.patience,
        seed=settings.seed,
        provenance=about | dict(provenance),
        progress=progress,
    )


def interleaved(parts: Sequence[Sequence[str]]) -> list[str]:
    """Interleave the keys of several sources, so that every part contains some of each."""
    longest = max(map(len, parts))
    return [part[at] for at in range(longest) for part in parts if at < len(part)]


def _known(source: Source) -> list[str]:
    """Return the keys of the images that contain an object."""
    return [one.key for one in source.material.samples if source.truth.objects.get(one.key)]


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def refuse_overlap(learned: Sequence[Source], tested: Sequence[Source]) -> None:
    """Refuse to test on an image that was learned from."""
    known = {_identity(one) for source in learned for one in source.material.samples}
    shared = [
        one.key for source in tested for one in source.material.samples if _identity(one) in known
    ]
    if shared:
        raise VlmHeadsError(
            f"{len(shared)} test images were learned from, image {shared[0]} among them",
            "other images to test on",
            "use other --data, or another --seed",
        )


def _identity(sample: Sample) -> tuple[str, int, bytes]:
    """Identify an image by its id, its size and its first bytes."""
    with sample.image.open("rb") as file:
        return sample.key, sample.image.stat().st_size, file.read(4096)
