"""MME's four tasks on objects: existence, count, position, color (Fu et al., 2023)."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.schema import read_text
from vlmheads_eval.benchmarks.files import read_table, table_files
from vlmheads_eval.benchmarks.readings import READINGS
from vlmheads_eval.benchmarks.record import (
    Answer,
    Answers,
    Array,
    Benchmark,
    Figure,
    Item,
    Questions,
    Source,
    Sums,
    Tally,
    ratio,
)

TASKS = ("existence", "count", "position", "color")
READ_BY = {
    "official": "mme",
    "lmms-eval": "mme-lmms",
    "vlmevalkit": "words",
    "strict": "first-word",
}
ABOUT = {  # What each reading makes of an answer.
    "official": "yes, else no, in the first four characters of the lower-cased answer",
    "strict": "the first word is yes or no",
    "lmms-eval": "stripped, y and n allowed, then as official",
    "vlmevalkit": "the word yes or no anywhere, not both",
}
IMAGES = (".jpg", ".jpeg", ".png")


def load(source: Source) -> Questions:
    """Read the folder of MME's release, lmms-lab/MME's Parquet files, or VLMEvalKit's table.

    Of the release's fourteen tasks only the four are read. Every image must have two questions.
    """
    folder = source.path / "MME_Benchmark_release_version"
    folder = folder if folder.is_dir() else source.path
    files: Sequence[Path]
    if any((folder / task).is_dir() for task in TASKS):
        items, files = _release(folder)
    else:
        files = table_files(source.path)
        items = list(_table(source, files))
    if not items:
        raise VlmHeadsError(f"{source.path}: no question of {', '.join(TASKS)}", "MME's data")
    pairs = Counter(item.cluster for item in items)
    odd = next((name for name, number in pairs.items() if number != 2), None)
    if odd:
        raise VlmHeadsError(f"{source.path}: image {odd} has {pairs[odd]} questions", "two")
    return Questions(tuple(items), tuple(files))


def _release(folder: Path) -> tuple[list[Item], list[Path]]:
    items, files = [], []
    missing = [task for task in TASKS if not (folder / task).is_dir()]
    if missing:
        raise VlmHeadsError(f"{folder} without {', '.join(missing)}", "the four tasks' folders")
    for task in TASKS:
        texts = folder / task / "questions_answers_YN"
        texts, images = (texts, folder / task / "images") if texts.is_dir() else [folder / task] * 2
        for path in sorted(texts.glob("*.txt")):
            found = (images / (path.stem + suffix) for suffix in IMAGES)
            image = next((file for file in found if file.is_file()), images / f"{path.stem}.jpg")
            content = read_text(path, "MME's questions")
            lines = [line for line in content.splitlines() if line.strip()]
            for number, line in enumerate(lines, 1):
                place = f"{path}:{number}"
                question, tab, answer = line.partition("\t")
                if not tab or "\t" in answer:
                    raise VlmHeadsError(f"{place}: {line[:60]!r}", "question TAB answer")
                items.append(_item(task, image.name, number, question, answer, image, place))
            files.append(path)
    return items, files


def _table(source: Source, files: Sequence[Path]) -> Iterator[Item]:
    seen: Counter[tuple[str, str]] = Counter()
    for row in read_table(source, files):
        task = row.text("category").lower()
        if task not in TASKS:
            continue
        picture = row.values.get("image")
        own = row.values.get("image_path") or row.values.get("question_id")
        name = Path(str(own)).name if own else picture.identity if picture else ""
        if not name:
            raise VlmHeadsError(f"{row.place}: no image", "image_path, question_id or image")
        seen[task, name] += 1
        question, answer = row.text("question"), row.text("answer")
        file = picture.file if picture else None
        yield _item(task, name, seen[task, name], question, answer, file, row.place)


def _item(
    task: str, name: str, number: int, question: str, answer: str, image: Path | None, place: str
) -> Item:
    label = answer.strip().lower()
    if label not in ("yes", "no"):
        raise VlmHeadsError(f"{place}: answer {answer[:40]!r}", "Yes or No")
    cluster = f"{task}/{name}"
    return Item(f"{cluster}/{number}", question.strip(), label, cluster, task, image)


def tally(items: Sequence[Item], answers: Answers, reading: str) -> Tally:
    """Count questions, and images both of whose questions are right, per task."""
    read = READINGS[READ_BY[reading]]
    result = Tally()
    right: Counter[str] = Counter()
    for item in items:
        said = read(answers[item.key].text)
        correct = said == item.label
        right[item.cluster] += correct
        result.correct[item.key] = correct
        columns = {"asked": 1, "right": int(correct), "said yes": int(said == "yes")}
        # As in the official script, an answer that says neither counts in neither of the two.
        columns["read yes"] = int(said is not None and item.label == "yes")
        columns["hits"] = int(said == item.label == "yes")
        result.add(item.cluster, asked=1, unparsed=int(said is None))
        result.add(item.cluster, **{f"{item.part} {name}": n for name, n in columns.items()})
    for item in items[::-1]:
        if item.cluster in right:
            both = int(right.pop(item.cluster) == 2)
            result.add(item.cluster, **{f"{item.part} images": 1, f"{item.part} both": both})
    return result


def figures(items: Sequence[Item], reading: str) -> list[Figure]:
    """Return the total of the tasks, and each task's score, acc, acc+, precision and recall."""
    tasks = [task for task in TASKS if any(item.part == task for item in items)]
    found = [Figure("total", lambda sums: _total(sums, tasks), "asked", "")]
    for task in tasks:
        found += [
            Figure(f"{task}", _score(task), f"{task} asked", ""),
            Figure(f"{task} acc", _share(task, "right", "asked"), f"{task} asked"),
            Figure(f"{task} acc+", _share(task, "both", "images"), f"{task} images"),
            Figure(f"{task} precision", _share(task, "hits", "said yes"), f"{task} said yes"),
            Figure(f"{task} recall", _share(task, "hits", "read yes"), f"{task} read yes"),
        ]
    return found


def _share(task: str, above: str, below: str) -> Callable[[Sums], Array]:
    return lambda sums: ratio(sums.get(f"{task} {above}", 0), sums.get(f"{task} {below}", 0))


def _score(task: str) -> Callable[[Sums], Array]:
    accuracy, both = _share(task, "right", "asked"), _share(task, "both", "images")
    return lambda sums: 100 * (accuracy(sums) + both(sums))


def _total(sums: Sums, tasks: Sequence[str]) -> Any:
    return sum(_score(task)(sums) for task in tasks)


def result_files(folder: Path) -> list[Path]:
    """Return where a folder of official result files has them, one per task."""
    return [folder / f"{task}.txt" for task in TASKS]


def read_results(folder: Path, questions: Questions) -> dict[str, Answer]:
    """Read a folder of official result files, TASK.txt: image TAB question TAB truth TAB answer.

    Lines are matched by task, image and question, not by order.
    """
    asked = {_identity(item.part, item.cluster, item.question): item for item in questions.items}
    answers: dict[str, Answer] = {}
    for task, path in zip(TASKS, result_files(folder), strict=True):
        for number, line in enumerate(read_text(path, "MME's results").splitlines(), 1):
            if not line.strip():
                continue
            cells = line.split("\t")
            place = f"{path}:{number}"
            if len(cells) != 4:
                raise VlmHeadsError(
                    f"{place}: {len(cells)} cells", "image, question, truth, answer"
                )
            item = asked.get(_identity(task, cells[0], cells[1]))
            if item is None:
                raise VlmHeadsError(f"{place}: {cells[0]}, {cells[1][:60]!r}", "a question of MME")
            if item.key in answers:
                raise VlmHeadsError(
                    f"{place}: question {item.key} again", "one answer per question"
                )
            answers[item.key] = Answer(cells[3])
    return answers


def _identity(task: str, image: str, question: str) -> tuple[str, str, str]:
    return task, Path(image).stem, re.sub(r"\s+", " ", question).strip().lower()


MME = Benchmark(
    "mme", "MME, hallucination subset", "image", ABOUT, load, tally, figures, tested=("total",)
)
