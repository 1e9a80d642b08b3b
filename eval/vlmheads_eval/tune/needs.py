"""What candidates need of the model itself, learned from the images to learn from."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmheads.errors import VlmHeadsError
from vlmheads.output import replace, save
from vlmheads_eval.calibrate.learn import Source
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.spans import caption_spans
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.data import Material, Sample
from vlmheads_eval.learn.methods import METHODS
from vlmheads_eval.tune.candidates import ATTRIBUTION, GAINS, file_of

if TYPE_CHECKING:
    from vlmheads.headmap import HeadMap
    from vlmheads.learned import Learned

ROUNDS = 4  # Of calibration.
TOGETHER = 4  # Captions of an attribution at a time: a gradient keeps what each layer said.
FAILED = "failed.json"


@dataclass(frozen=True)
class TrainingData:
    """What there is to learn from.

    Args:
        captioner: the plain model.
        samples: the images.
        texts: image key -> the plain model's caption.
        truth: the objects in these images, and in no others.
        variant: the variant of CHAIR that finds objects.
        batch_size: captions per pass.
        max_new_tokens: token limit of captions.
        seed: of what is drawn.
        about: provenance, plain values.
    """

    captioner: Any
    samples: Sequence[Sample]
    texts: Mapping[str, str]
    truth: GroundTruth
    variant: Variant
    batch_size: int
    max_new_tokens: int
    seed: int
    about: Mapping[str, Any]

    @property
    def captioned(self) -> list[Sample]:
        """The images that have a caption."""
        return [sample for sample in self.samples if sample.key in self.texts]

    @property
    def source(self) -> Source:
        """The captioned images with their objects."""
        return Source(Material(tuple(self.captioned), self.truth.files), self.truth, Path())


def learn_needs(
    needs: Sequence[str], out: Path, training: TrainingData, say: Callable[[str], None]
) -> dict[str, str]:
    """Learn what is not there yet, each into its file in OUT; return what failed, with the reason.

    A file is there once it is whole. What cannot be learned from these captions, such as heads for
    hallucinated words where there are none, fails by name and is not tried again.
    """
    (out / file_of("")).parent.mkdir(parents=True, exist_ok=True)
    record = (out / file_of("")).parent / FAILED
    failed: dict[str, str] = json.loads(record.read_bytes()) if record.is_file() else {}
    for need in needs:
        path = out / file_of(need)
        if path.is_file() or need in failed:
            continue
        say(f"learning {need} from {len(training.captioned)} images")
        try:
            found = _learn(need, training, say)
        except VlmHeadsError as error:
            failed[need] = " ".join(str(error).split())
            replace(record, json.dumps(failed, indent=1) + "\n")
            say(f"{need} cannot be learned: {failed[need]}")
            continue
        save(path, found.save)
    return {need: failed[need] for need in needs if need in failed}


def _learn(need: str, training: TrainingData, say: Callable[[str], None]) -> "HeadMap | Learned":
    if not training.captioned:
        raise VlmHeadsError("no image with a caption", "at least one to learn from")
    if need == ATTRIBUTION:
        return _attribution(training)
    return _gains(training, say) if need == GAINS else _method(need, training)


def _method(method: str, training: TrainingData) -> "Learned":
    """Learn what a method of `vlmheads learn` takes."""
    from vlmheads.images import read_image
    from vlmheads.learned import Learned
    from vlmheads.model.anatomy import examine
    from vlmheads_eval.learn.pairs import make_pairs
    from vlmheads_eval.learn.words import label, record

    how, chosen = METHODS[method], training.captioned
    about = {**training.about, "images": len(chosen)}
    if how.pictures is not None:
        some = chosen[: how.images]
        images = [read_image(one.image) for one in some]
        values = how.pictures(training.captioner, images, some[0].prompt)
        geometry = examine(training.captioner.model).geometry
        return Learned(method, values, geometry, {**about, "images": len(some)})
    texts = [(one, training.texts[one.key]) for one in chosen]
    if how.pairs is not None:
        pairs = make_pairs(texts, training.truth.objects, training.variant)
        if not pairs:
            raise VlmHeadsError("captions that give no pair to learn from", "at least one object")
        values = how.pairs(training.captioner, pairs, training.source)
        geometry = examine(training.captioner.model).geometry
        return Learned(method, values, geometry, {**about, "pairs": len(pairs)})
    assert how.words is not None  # A method learns from one of the three.
    tokenizer = training.captioner.processor.tokenizer
    labelled = label(tokenizer, texts, training.truth.objects, training.variant)
    if not labelled:
        raise VlmHeadsError("captions that name no object", "at least one object")
    masses, real = record(training.captioner, labelled, training.batch_size)
    return Learned(method, how.words(masses, real), masses.geometry, about)


def _attribution(training: TrainingData) -> "HeadMap":
    """Rank heads by what they do for hallucinated against grounded words, by gradient."""
    from vlmheads.detect.attribution import Attribution, attribution
    from vlmheads.grounding.words import token_masks
    from vlmheads.images import read_image

    captioner, parts = training.captioner, []
    marked = [
        (
            one,
            caption_spans(
                training.texts[one.key], training.truth.objects[one.key], training.variant
            ),
        )
        for one in training.captioned
    ]
    both = [(one, spans) for one, spans in marked if spans.grounded and spans.hallucinated]
    if not both:
        raise VlmHeadsError(
            f"{len(marked)} captions, none with an object that is there and one that is not",
            "at least one to rank heads by",
        )
    for some in (both[at : at + TOGETHER] for at in range(0, len(both), TOGETHER)):
        inputs = captioner.prepare([read_image(one.image) for one, _ in some], some[0][0].prompt)
        ids, true, hallucinated = token_masks(
            captioner.processor.tokenizer,
            [spans.text for _, spans in some],
            [spans.grounded for _, spans in some],
            [spans.hallucinated for _, spans in some],
        )
        parts.append(
            attribution(
                captioner.model,
                inputs,
                ids,
                true,
                hallucinated,
                method="gradient",
                provenance=training.about,
            )
        )
    return Attribution.concatenate(parts).score


def _gains(training: TrainingData, say: Callable[[str], None]) -> "HeadMap":
    """Calibrate the gains of all heads."""
    from vlmheads_eval.calibrate.learn import Settings, learn

    settings = Settings(
        rounds=ROUNDS,
        images=len(training.captioned),
        batch_size=training.batch_size,
        max_new_tokens=training.max_new_tokens,
        seed=training.seed,
        variant=training.variant.name,
    )
    found = learn(
        training.captioner, [training.source], settings, provenance=training.about, say=say
    )
    if not found.best:
        raise VlmHeadsError("no round of calibration better than the plain model", "other images")
    return found.gains


def learned_digests(out: Path, needs: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of each file that was learned."""
    return {
        need: hashlib.sha256((out / file_of(need)).read_bytes()).hexdigest()
        for need in needs
        if (out / file_of(need)).is_file()
    }
