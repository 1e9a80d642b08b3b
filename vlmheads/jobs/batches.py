"""From images in files to batches in memory: by size, within a budget of tokens, read ahead."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from vlmheads.errors import VlmHeadsError
from vlmheads.images import decode_image, image_size, quiet_reading
from vlmheads.jobs.inputs import Item, utf8_name

# So many batches are sorted by size at a time, and so many are read while one is described.
WINDOW, AHEAD = 8, 2

T = TypeVar("T")
R = TypeVar("R")
Cost = Callable[[tuple[int, int]], int]
Decode = Callable[[bytes, str], Any]


@dataclass(frozen=True)
class Picture:
    """One image as it was read.

    Args:
        item: which one.
        source: size and checksum of its file, and when that was changed; None for no file.
        image: what `decode` made of its file; None where it cannot be read.
        error: why.
    """

    item: Item
    source: dict[str, Any] | None
    image: Any = None
    error: VlmHeadsError | None = None


def batches(
    items: Iterable[Item],
    batch_size: int,
    *,
    workers: int = 4,
    by_size: bool = True,
    budget: int | None = None,
    cost: Cost | None = None,
    decode: Decode = decode_image,
) -> Generator[list[Picture]]:
    """Yield batches of images, reading further ones in threads meanwhile.

    Of each WINDOW * batch_size images the largest come first, so that images of a batch are about
    as large as each other. A batch ends at `batch_size` images, or where its largest image's tokens
    times its number of images would go beyond the budget; an image beyond it alone has a batch of
    its own.

    Args:
        items: what to read.
        batch_size: images per batch at most.
        workers: threads.
        by_size: whether to sort; without, batches are in order of input.
        budget: tokens per batch at most.
        cost: the tokens that an image of a width and height takes, its answer included.
        decode: from the bytes of a file, and its name, to what is described.
    """
    with ThreadPoolExecutor(workers) as pool, quiet_reading():
        under_way: deque[list[Future[Picture]]] = deque()
        try:
            for batch in _planned(iter(items), batch_size, pool, by_size, budget, cost):
                under_way.append([pool.submit(read, item, decode) for item in batch])
                if len(under_way) > AHEAD:
                    yield [future.result() for future in under_way.popleft()]
            while under_way:
                yield [future.result() for future in under_way.popleft()]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _planned(
    items: Iterator[Item],
    batch_size: int,
    pool: ThreadPoolExecutor,
    by_size: bool,
    budget: int | None,
    cost: Cost | None,
) -> Iterator[list[Item]]:
    if not by_size:
        while chunk := list(islice(items, batch_size)):
            yield chunk
        return
    while chunk := list(islice(items, batch_size * WINDOW)):
        sizes = list(pool.map(_size, chunk))
        if budget is None or cost is None:
            costs = [width * height for width, height in sizes]
        else:
            costs = [cost(size) if min(size) else 0 for size in sizes]
        batch: list[Item] = []
        largest = 0
        for index in sorted(range(len(chunk)), key=lambda index: -costs[index]):
            over = budget is not None and (len(batch) + 1) * largest > budget
            if batch and (len(batch) == batch_size or over):
                yield batch
                batch = []
            largest = largest if batch else costs[index]
            batch.append(chunk[index])
        yield batch


def _size(item: Item) -> tuple[int, int]:
    found = item.content if item.path is None else item.path
    return (0, 0) if item.problem is not None or found is None else image_size(found)


def read(item: Item, decode: Decode = decode_image) -> Picture:
    """Read one image; what is wrong with it is kept instead of raised."""
    source = None
    try:
        content = item.read()
        source = source_of(item, content)
        name = item.key if item.path is None else utf8_name(str(item.path))
        return Picture(item, source, decode(content, name))
    except VlmHeadsError as error:
        return Picture(item, source, error=error)
    except OSError as error:  # it went away meanwhile
        gone = VlmHeadsError(
            f"{utf8_name(str(item.path))} cannot be read ({error.strerror})", "an image file"
        )
        return Picture(item, None, error=gone)


def source_of(item: Item, content: bytes) -> dict[str, Any]:
    """Return what tells a replaced image: bytes, checksum, and nanoseconds since 1970 of a file."""
    modified = None if item.path is None else item.path.stat().st_mtime_ns
    return {"bytes": len(content), "modified": modified, "crc32": f"{zlib.crc32(content):08x}"}


def in_halves(describe: Callable[[Sequence[T]], Iterable[R]], batch: Sequence[T]) -> list[R]:
    """Describe a batch, in halves if it does not fit into memory."""
    if not batch:
        return []
    try:
        return list(describe(batch))
    except (MemoryError, RuntimeError) as error:
        if len(batch) == 1 or not _out_of_memory(error):
            raise
    half = len(batch) // 2
    return in_halves(describe, batch[:half]) + in_halves(describe, batch[half:])


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()
