"""HallusionBench: questions on images, altered images and none (Guan et al., CVPR 2024)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.files import read_table, table_files
from vlmheads_eval.benchmarks.readings import READINGS
from vlmheads_eval.benchmarks.record import (
    YES_OR_NO,
    Answer,
    Answers,
    Benchmark,
    Figure,
    Item,
    Questions,
    Source,
    Tally,
    ratio,
    share,
)
from vlmheads_eval.records import inside

QUESTIONS, IMAGE_QUESTIONS = 1129, 951
JUDGED = ("gpt4v_output_gpt_check", "gpt4_eval", "judgement")  # Fields with a judge's verdict.
FIELDS = ("category", "subcategory", "set_id", "figure_id", "question_id")


class Way(NamedTuple):
    """One way of scoring: how answers are read, and whether an unclear one may be right.

    Args:
        read: a reading of yes or no; None takes a judge's verdicts from the records.
        unclear_counts: "cannot tell" is right where no image was shown, and figures leave these
            questions out, as in the official script.
        images_only: only the questions with an image.
    """

    read: str | None
    unclear_counts: bool
    images_only: bool = False


WAYS: Mapping[str, Way] = {
    "strict": Way("first-word", True),
    "words": Way("words", True),
    "judged": Way(None, True),
    "internvl": Way("yes-or-else", False),
    "internvl-images": Way("yes-or-else", False, images_only=True),
    "vlmevalkit": Way("words", False, images_only=True),
}


def key_of(record: Mapping[str, Any]) -> str | None:
    """Return the key of a record in the format of HallusionBench.json; None for another one."""
    if any(not isinstance(record.get(name), str | int) for name in FIELDS):
        return None
    return "_".join(str(record[name]) for name in FIELDS)


def load(source: Source) -> Questions:
    """Read HallusionBench.json, or a table with its columns.

    The images are looked for in `source.images`, or in `hallusion_bench/` beside the file.
    """
    path = source.path
    if path.is_dir() and (path / "HallusionBench.json").is_file():
        path = path / "HallusionBench.json"
    files = table_files(path)
    beside = files[0].parent / "hallusion_bench"
    folder = source.images or (beside if beside.is_dir() else files[0].parent)
    items: dict[str, Item] = {}
    for row in read_table(source, files):
        record = dict(row.values)
        if record.get("visual_input") in (0, 1, 2):
            record["visual_input"] = str(record["visual_input"])
        key = key_of(record)
        label = {"1": "yes", "0": "no"}.get(str(record.get("gt_answer")))
        if key is None or label is None or record.get("visual_input") not in ("0", "1", "2"):
            expected = f"{', '.join(FIELDS)}, visual_input 0, 1 or 2, gt_answer 0 or 1"
            raise VlmHeadsError(f"{row.place}: not a question of HallusionBench", expected)
        if key in items:
            raise VlmHeadsError(f"{row.place}: question {key} again", "each once")
        picture, name = record.get("image"), record.get("filename")
        image = picture.file if picture else None
        if image is None and isinstance(name, str) and name:
            image = inside(folder, name.removeprefix("./"), row.place)
        facts = {n: str(record[n]) for n in ("category", "figure_id", "visual_input")}
        category, kind, number, figure, asked_as = (str(record[name]) for name in FIELDS)
        cluster = f"{category}_{kind}_{number}"
        facts |= {"pair": f"{cluster}_{asked_as}", "figure": f"{cluster}_{figure}"}
        part = f"{category} {kind}"
        question = row.text("question")
        items[key] = Item(key, question, label, cluster, part, image, facts)
    if not items:
        raise VlmHeadsError(f"{path} holds no question", "HallusionBench.json")
    return Questions(tuple(items.values()), files)


def without_image(item: Item) -> bool:
    """Whether a question is the first, imageless one of a visual-supplement set."""
    return (item.facts["category"], item.facts["figure_id"]) == ("VS", "0")


def asked(item: Item, reading: str) -> bool:
    """Whether a way of scoring takes a question into account."""
    return not (WAYS[reading].images_only and item.facts["visual_input"] == "0")


def verdict(item: Item, answer: Answer, way: Way) -> str:
    """Return "1" for a right answer, "0" for a wrong one and "2" for an unclear one."""
    if way.read is None:
        found = next((answer.record[name] for name in JUDGED if name in answer.record), None)
        if str(found) not in ("0", "1", "2"):
            raise VlmHeadsError(
                f"the answer to {item.key} without a judge's verdict",
                f"0, 1 or 2 as {' or '.join(JUDGED)}",
                "use another --reading",
            )
        return str(found)
    said = READINGS[way.read](answer.text)
    return "2" if said is None else "1" if said == item.label else "0"


def tally(items: Sequence[Item], answers: Answers, reading: str) -> Tally:
    """Count questions, figures, pairs, and the easy and hard halves of pairs."""
    way = WAYS[reading]
    result = Tally()
    verdicts = {item.key: verdict(item, answers[item.key], way) for item in items}
    groups: dict[tuple[str, str, str], list[bool]] = {}
    for item in items:
        found = verdicts[item.key]
        accepted = way.unclear_counts and without_image(item)
        right = found == "1" or (found == "2" and accepted)
        result.correct[item.key] = right
        truth = item.label == "yes"
        result.add(
            item.cluster,
            asked=1,
            right=int(right),
            unparsed=int(found == "2"),
            wrong=int(not right),
            wrong_no=int(not right and not truth),
            yes=int(right == truth),
            truth=int(truth),
        )
        names = [("pairs", item.facts["pair"])]
        names.append(("hard" if item.facts["visual_input"] == "2" else "easy", item.facts["pair"]))
        if not accepted:
            names.append(("figures", item.facts["figure"]))
        for kind, name in names:
            groups.setdefault((item.cluster, kind, name), []).append(right)
    for (cluster, kind, _), rights in groups.items():
        whole = sum(rights) / len(rights)
        columns = {kind: 1.0, f"{kind} right": float(whole == 1)}
        if kind == "figures":
            mixed = float(0 < whole < 1)
            columns |= {"figures wrong": float(whole == 0), "figures mixed": mixed, "parts": whole}
        result.add(cluster, **columns)
    _add_causes(result, items, answers, verdicts, groups)
    return result


def _add_causes(
    result: Tally,
    items: Sequence[Item],
    answers: Answers,
    verdicts: Mapping[str, str],
    groups: Mapping[tuple[str, str, str], Sequence[bool]],
) -> None:
    """Add language hallucination, visual illusion or both, of questions and of wrong pairs.

    Needs `same` in every record: whether the answer agrees with that to the original question.
    """
    first = {
        item.facts["pair"]: verdicts[item.key] for item in items if item.facts["figure_id"] == "0"
    }
    same = {item.key: str(answers[item.key].record.get("same")) for item in items}
    pairs = {item.facts["pair"] for item in items}
    if not pairs.issubset(first) or not {"0", "1"}.issuperset(same.values()):
        return
    of_pair: dict[tuple[str, str], set[str]] = {}
    for item in items:
        found = cause(item, verdicts[item.key], first[item.facts["pair"]], same[item.key] == "1")
        if found:
            result.add(item.cluster, **{f"cause {_name(*found)}": 1})
        of_pair.setdefault((item.cluster, item.facts["pair"]), set()).update(found)
    for (cluster, pair), causes in of_pair.items():
        wrong = not all(groups[cluster, "pairs", pair])
        result.add(cluster, **{"pairs blamed": 1, f"pair cause {_name(*causes)}": int(wrong)})


def _name(*causes: str) -> str:
    return "mixed" if len(causes) == 2 else causes[0] if causes else "none"


def cause(item: Item, found: str, first: str, same: bool) -> tuple[str, ...]:
    """Return what the official script blames for an answer: language, vision, both or nothing.

    Args:
        item: the question.
        found: the verdict on its answer.
        first: the verdict on the answer to the same question about the original figure.
        same: whether both answers agree.
    """
    both, language, vision = ("language", "vision"), ("language",), ("vision",)
    original = item.facts["figure_id"] == "0"
    if item.facts["category"] == "VS" and original:
        return language if found == "0" else ()
    if found == "1":
        return ()
    if item.facts["category"] == "VD":
        return both if not original and (first, found) == ("1", "0") and same else vision
    if first == "0":
        return language if found == "0" and same else both
    altered = item.facts["visual_input"] == "2"
    return language if (first, found) == ("1", "0") and same and altered else vision


def figures(items: Sequence[Item], reading: str) -> list[Figure]:
    """Return aAcc, fAcc and qAcc, and what the official script prints beside them."""
    found = [
        Figure("aAcc", share("right", "asked"), "asked"),
        Figure("fAcc", share("figures right", "figures"), "figures"),
        Figure("qAcc", share("pairs right", "pairs"), "pairs"),
        Figure("easy pairs", share("easy right", "easy"), "easy"),
        Figure("hard pairs", share("hard right", "hard"), "hard"),
        Figure("figures all wrong", share("figures wrong", "figures"), "figures"),
        Figure("figures mixed", share("figures mixed", "figures"), "figures"),
        Figure("right per figure", share("parts", "figures"), "figures"),
        Figure(
            "yes minus truth",
            lambda sums: ratio(sums["yes"], sums["asked"]) - ratio(sums["truth"], sums["asked"]),
            "asked",
        ),
        Figure("wrong: truth is no", share("wrong_no", "wrong"), "wrong"),
    ]
    if WAYS[reading].read is None:
        found += [
            Figure(f"blame {kind}", share(f"pair cause {kind}", "pairs blamed"), "pairs blamed")
            for kind in ("language", "vision", "mixed")
        ]
    return found


HALLUSIONBENCH = Benchmark(
    name="hallusionbench",
    title="HallusionBench",
    unit="set",
    constants={**YES_OR_NO, "never clear": "Unclear"},
    readings={
        "strict": "the first word, in the judge's place; unreadable is unclear; all 1,129",
        "words": "the word yes or no, in the judge's place; unreadable is unclear; all 1,129",
        "judged": "official: a judge's verdict in every record; all 1,129",
        "internvl": "yes anywhere, else no; figures include questions without image; all 1,129",
        "internvl-images": "yes anywhere, else no; the 951 questions with an image",
        "vlmevalkit": "the word yes or no, unknown is wrong; the 951 questions with an image",
    },
    load=load,
    tally=tally,
    figures=figures,
    tested=("aAcc", "qAcc"),
    asked=asked,
    key_of=key_of,
    floor_reading={"judged": "strict"},
)
