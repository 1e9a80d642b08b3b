"""From a run's answers to a file of requests for a judge."""

from pathlib import Path

from vlmheads.errors import VlmHeadsError
from vlmheads.schema import read_text
from vlmheads_eval.benchmarks import mmhal, openchair
from vlmheads_eval.benchmarks.answers import read_answers
from vlmheads_eval.benchmarks.judged import write_requests
from vlmheads_eval.benchmarks.record import Source
from vlmheads_eval.run_folder import CONFIG, read_config


def write_judge_requests(
    name: str,
    run: Path,
    data: Path,
    judge: str,
    template: Path | None,
    concreteness: Path | None,
    out: Path,
) -> list[str]:
    """Write the requests for one benchmark, and return what to tell about them.

    Raises:
        VlmHeadsError: answers that do not fit the data, a table of concreteness that is missing or
            has no use, or spaCy missing for openchair.
    """
    if (concreteness is None) == (name == "openchair"):
        raise VlmHeadsError(
            f"--concreteness {concreteness} for {name}", "one for openchair, none for mmhal"
        )
    questions = {"mmhal": mmhal.load, "openchair": openchair.load}[name](Source(data))
    items = list(questions.items)
    if (run / CONFIG).is_file():
        asked = set(read_config(run)["samples"])
        items = [item for item in items if item.key in asked]
    places = {(item.question, item.facts.get("gt_answer")): item.key for item in items}
    answers = read_answers(
        run, lambda record: places.get((str(record.get("question")), record.get("gt_answer")))
    )
    missing = [item.key for item in items if item.key not in answers]
    if missing or not items:
        raise VlmHeadsError(
            f"{run}: {len(missing)} of {len(items)} questions have no answer", "one per question"
        )
    wording = _wording(name, template)
    if concreteness is None:
        found = mmhal.requests(items, answers)
        about = mmhal.unjudged(items, answers)
        said = [
            f"without a judge: {about.words:.1f} words per answer, {about.refusals:.1%} refuse, "
            f"{about.unnamed_objects:.2f} COCO objects per answer that the record does not name "
            "(it names some only)"
        ]
    else:
        table = openchair.read_concreteness(concreteness)
        nouns, model = openchair.spacy_nouns()
        found = openchair.requests(items, answers, table, nouns)
        said = [f"{len(items)} captions; nouns found by spaCy's {model}"]
    if not found:
        raise VlmHeadsError(f"{run}: nothing to ask a judge", "answers that name objects")
    write_requests(out, found, judge, wording)
    if template is None:
        said.append("our own wording: results are not those of the published prompt (--template)")
    return [f"{len(found)} requests to {judge} in {out}", *said]


def _wording(name: str, template: Path | None) -> str:
    if template is None:
        return {"mmhal": mmhal.TEMPLATE, "openchair": openchair.TEMPLATE}[name]
    return read_text(template, "a template")
