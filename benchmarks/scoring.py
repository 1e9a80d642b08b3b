"""How fast captions are scored, and whether memory grows with their number.

Run: python benchmarks/scoring.py --captions FOLDER --ground-truth gt_objects_2014.json --out FILE
The captions are real ones of published runs, repeated and cut to the length asked for; every copy
is made different, so that no cache of whole captions could help. `fixed` is measured with its
parser where that is installed, with its word lists, and with a vocabulary of LVIS's size.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nltk
from vlmheads_eval.chair.ground_truth import GroundTruth, load_ground_truth
from vlmheads_eval.chair.mentions import coco_vocabulary
from vlmheads_eval.chair.score import score_chair
from vlmheads_eval.chair.variants import Variant, get_variant, wordnet_words
from vlmheads_eval.records import Caption, read_captions

CATEGORIES = 1203  # As many as LVIS has.


def real_captions(folder: Path, number: int, words: int) -> Iterator[Caption]:
    """Yield captions of `words` words each, made of consecutive real ones."""
    source = [caption for file in sorted(folder.glob("*.jsonl")) for caption in read_captions(file)]
    for position in range(number):
        text: list[str] = []
        following = position
        while len(text) < words:
            text += source[following % len(source)].text.split()
            following += 1
        caption = source[position % len(source)]
        yield Caption(caption.image_id, " ".join(text[:words]), at_limit=False)


def fresh(name: str, vocabulary: Path | None = None, parser: bool | None = None) -> Variant:
    """Return a variant with nothing remembered from earlier runs."""
    from vlmheads_eval.chair import variants, words

    for cached in (
        words.singularise,
        words.chunk_words,
        words.final_words,
        variants.wordnet_lemma,
    ):
        cached.cache_clear()
    return get_variant(name, vocabulary, parser=parser)


def large_vocabulary(folder: str, captions: list[Caption]) -> Path:
    """Write 1,203 categories of two synonyms each: COCO's words and others of the captions.

    The 300 most frequent words, hardly any of which is a noun, are left out.
    """
    words = Counter(
        word for caption in captions for word in caption.text.lower().split() if word.isalpha()
    )
    names = list(coco_vocabulary().nodes) + [word for word, _ in words.most_common(3500)[300:]]
    names = [name.strip() for name in dict.fromkeys(names) if name.strip()]
    names += [f"thing {number}" for number in range(3 * CATEGORIES - len(names))]
    table = [
        {"name": one, "synonyms": [two, three]}
        for one, two, three in zip(names[::3], names[1::3], names[2::3], strict=False)
    ][:CATEGORIES]
    path = Path(folder) / "vocabulary.json"
    path.write_text(json.dumps({"categories": table}))
    return path


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Return seconds on the clock, and of the processor, in which neighbours do not count."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return {
        "clock": round(time.perf_counter() - clock, 2),
        "processor": round(time.process_time() - processor, 2),
    }


def reference_words(caption: str) -> list[str]:
    """The words of the wordnet variant by NLTK's own calls alone, as its script makes them."""
    from nltk.corpus import wordnet
    from nltk.stem import WordNetLemmatizer

    tags = {"J": wordnet.ADJ, "V": wordnet.VERB, "N": wordnet.NOUN, "R": wordnet.ADV}
    lemmatiser = WordNetLemmatizer()
    tagged = nltk.pos_tag(nltk.word_tokenize(caption.lower()))
    return [lemmatiser.lemmatize(word, tags.get(tag[0], wordnet.NOUN)) for word, tag in tagged]


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--ground-truth", type=Path, required=True)
    parser.add_argument("--number", type=int, default=5000)
    parser.add_argument("--words", type=int, default=90)
    parser.add_argument("--wordnet", type=int, default=500, help="captions for this variant")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    captions = list(real_captions(options.captions, options.number, options.words))
    truth = load_ground_truth([options.ground_truth], get_variant("pattern"))
    result: dict[str, Any] = {
        "captions": options.number,
        "words": options.words,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory() as folder:
        large = large_vocabulary(folder, captions)
        readers = {
            "pattern": fresh("pattern"),
            "fixed": fresh("fixed"),
            "fixed_word_lists": fresh("fixed", parser=False),
            f"fixed_{CATEGORIES}_categories": fresh("fixed", large),
            f"fixed_word_lists_{CATEGORIES}_categories": fresh("fixed", large, parser=False),
        }
    result["fixed_read_with"] = readers["fixed"].read_with
    for name, reading in readers.items():
        reading.read("A dog.")  # Loading the parser is not scoring.
        result[f"{name}_seconds"] = timed(lambda: score_chair(captions, truth, reading))  # noqa: B023
    few = captions[: options.wordnet]
    try:
        reading = fresh("wordnet")
        result["wordnet_captions"] = len(few)
        result["wordnet_seconds"] = timed(lambda: [wordnet_words(c.text) for c in few])
        result["wordnet_reference_seconds"] = timed(lambda: [reference_words(c.text) for c in few])
    except (ValueError, LookupError) as error:
        result["wordnet_left_out"] = str(error).split(";")[0]
    result["peak_mib"] = memory(captions, truth)
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def memory(captions: list[Caption], truth: GroundTruth) -> dict[str, float]:
    """Return the peak memory after one pass over the captions and after ten more, in MiB."""
    reading = fresh("pattern")
    score_chair(captions, truth, reading)
    once = peak_mib()
    score_chair((caption for _ in range(10) for caption in captions), truth, reading)
    return {"after_one_pass": round(once, 1), "after_eleven_passes": round(peak_mib(), 1)}


if __name__ == "__main__":
    main()
