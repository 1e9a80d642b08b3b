"""Questions to a served model, several in flight, answers as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vlmheads.endpoint.answers import Answer, Failure, read_completion, read_error
from vlmheads.endpoint.pace import Pace
from vlmheads.endpoint.settings import Endpoint
from vlmheads.errors import VlmHeadsError, install_hint

# After so many failures in a row it is not the questions that are at fault.
HOPELESS = 10
CONNECT = 10.0  # seconds

K = TypeVar("K")


@dataclass(frozen=True)
class Question(Generic[K]):
    """One request.

    Args:
        key: what it is about; returned with the answer.
        prompt: the text.
        image: a data URL, which stands before the text, so that servers which keep prefixes read
            an image once for several questions; None for text alone; what is wrong with one that
            cannot be read, which is the answer then.
        max_tokens: of the answer.
        fields: further fields of the request.
        continued: the beginning of the answer, which the request ends with.
    """

    key: K
    prompt: str
    image: str | VlmHeadsError | None
    max_tokens: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    continued: str = ""

    def messages(self) -> list[dict[str, Any]]:
        """Return the conversation that the server is sent."""
        parts: list[dict[str, Any]] = [{"type": "text", "text": self.prompt}]
        if self.image is not None:
            parts.insert(0, {"type": "image_url", "image_url": {"url": self.image}})
        said: list[dict[str, Any]] = [{"role": "user", "content": parts}]
        if self.continued:
            said.append({"role": "assistant", "content": self.continued})
        return said


class Client:
    """A connection to an endpoint; see `connected`.

    Args:
        endpoint: the server and its model.
        openai: the openai package's asynchronous client.
        runner: the event loop in which requests are made.
    """

    def __init__(self, endpoint: Endpoint, openai: Any, runner: asyncio.Runner) -> None:
        self.endpoint, self.openai, self.runner = endpoint, openai, runner
        self.limit_field = "max_tokens"  # or max_completion_tokens, where the server wants that
        self.closed = False

    def ask(
        self, questions: Iterable[Question[K]]
    ) -> Generator[tuple[Question[K], Answer | Failure]]:
        """Yield each question with its answer or failure, in the order in which they come.

        Questions are taken from the iterator as requests become free.

        Raises:
            VlmHeadsError: a failure that every question would share (a wrong key, no such model),
                or HOPELESS failures in a row, which are then not yielded, so that they are asked
                again later.
        """
        held: list[tuple[Question[K], Answer | Failure]] = []
        for question, found in self._in_flight(questions):
            if isinstance(found, Failure) and not found.refused:
                if found.fatal:
                    raise found.error
                held.append((question, found))
                if len(held) == HOPELESS:
                    raise VlmHeadsError(
                        f"{HOPELESS} requests in a row failed, the last because {found.error}",
                        todo="what is finished is kept: run the same command again to go on",
                    )
                continue
            yield from held
            held.clear()
            yield question, found
        yield from held

    def one(self, question: Question[K]) -> Answer | Failure:
        """Ask a single question."""
        return self.runner.run(self._answer(question))[1]

    def get_models(self) -> list[Any] | Failure:
        """Return what the server lists as its models."""

        async def listed() -> list[Any]:
            page = await self.openai.models.list()
            return list(page.data)

        try:
            return self.runner.run(listed())
        except Exception as error:  # a server may send anything, and its parser raise anything
            return read_error(error, self.endpoint)

    def _in_flight(
        self, questions: Iterable[Question[K]]
    ) -> Iterator[tuple[Question[K], Answer | Failure]]:
        source = iter(questions)
        pending: set[asyncio.Task[tuple[Question[K], Answer | Failure]]] = set()

        async def step() -> list[tuple[Question[K], Answer | Failure]]:
            nonlocal pending
            while len(pending) < self.endpoint.concurrency:
                question = next(source, None)
                if question is None:
                    break
                pending.add(asyncio.create_task(self._answer(question)))
            if not pending:
                return []
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            # What was answered comes before a failure that ends everything.
            return sorted((task.result() for task in done), key=_is_failure)

        async def stop() -> None:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

        try:
            while found := self.runner.run(step()):
                yield from found
        finally:
            if not self.closed:
                self.runner.run(stop())

    async def _answer(self, question: Question[K]) -> tuple[Question[K], Answer | Failure]:
        if isinstance(question.image, VlmHeadsError):
            return question, Failure(question.image, refused=True)
        fields = {**self.endpoint.fields, **question.fields}
        try:
            completion = await self.openai.chat.completions.create(
                model=self.endpoint.model,
                messages=question.messages(),
                temperature=0,
                extra_body={self.limit_field: question.max_tokens, **fields},
            )
            found = read_completion(completion, f"{self.endpoint.url} ({self.endpoint.model})")
        except Exception as error:  # as in get_models
            return question, read_error(error, self.endpoint)
        return question, found


def _is_failure(pair: tuple[Any, Answer | Failure]) -> bool:
    return isinstance(pair[1], Failure)


@contextmanager
def connected(endpoint: Endpoint) -> Iterator[Client]:
    """Open a connection to an endpoint, and close it afterwards.

    Retries are those of the openai package: connection errors, timeouts, 408, 409, 429 and from
    500 on, with growing pauses or as long as the server says. After a 429 all requests wait.

    Raises:
        VlmHeadsError: the openai package is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise VlmHeadsError(
            "an endpoint needs the openai package, which is not installed",
            todo=install_hint("endpoint"),
        ) from error
    pace = Pace(endpoint.per_minute)
    timeout = openai.Timeout(endpoint.timeout, connect=min(CONNECT, endpoint.timeout))
    with asyncio.Runner() as runner:

        async def opened() -> Any:
            http = openai.DefaultAsyncHttpxClient(
                event_hooks={"request": [pace.before], "response": [pace.after]},
                timeout=timeout,
                trust_env=not endpoint.loopback,
            )
            return openai.AsyncOpenAI(
                base_url=endpoint.url,
                api_key=endpoint.key or "none",
                max_retries=endpoint.retries,
                timeout=timeout,
                http_client=http,
            )

        client = Client(endpoint, runner.run(opened()), runner)
        try:
            yield client
        finally:
            client.closed = True
            runner.run(client.openai.close())
