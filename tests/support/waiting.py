"""What would make a GPU wait for the host, found out on a CPU.

Reading a value on the host, and anything whose shape depends on values, waits until the device has
done all that it was given; so does a tensor made of Python numbers, which is copied there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_READ = {
    *("_local_scalar_dense", "nonzero", "nonzero_static", "masked_select", "equal", "is_nonzero"),
    *("unique_dim", "_unique2", "unique_consecutive", "bincount", "argwhere"),
}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Calls that leave no operator behind on a CPU, or one like any other.
_MOVED = {"tolist", "cpu", "numpy", "tensor", "as_tensor", "new_tensor", "from_numpy"}
_TORCH = Path(torch.__file__).parent.as_posix()


class _Operators(TorchDispatchMode):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in _INDEXED and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        )
        counted = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in _READ or masks or counted:
            self.tell(f"{name} of a boolean mask" if masks else name)
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        given = [*args[1:], *(kwargs or {}).values()]
        home = name == "to" and any(
            str(value) == "cpu" for value in given if isinstance(value, str | torch.device)
        )
        if name in _MOVED or (home and args[0].device.type != "cpu"):
            self.tell(name)
        return func(*args, **(kwargs or {}))


def _culprit() -> str:
    """The innermost line that is not torch's own, nor of this file."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, __file__)) and "<" not in file:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "nowhere"


@contextmanager
def watched(model: Any, after: int = 1) -> Iterator[list[str]]:
    """Collect what waits in forward passes of a model, hooks included, and where it stands.

    What transformers does itself does not count: it asks whether a batch has padding.

    Args:
        model: with everything attached that is to be watched.
        after: how many forward passes of a generation to let pass: the prefill.
    """
    found: list[str] = []
    passes, depth, inside = 0, 0, ExitStack()

    def tell(what: str) -> None:
        place = _culprit()
        if "/transformers/" not in place:
            found.append(f"{what} at {place}")

    def enter(*_: Any) -> None:
        nonlocal passes, depth
        depth += 1
        if depth > 1:  # a pass of its own that a plugin runs before the prefill
            return
        passes += 1
        if passes > after:
            inside.enter_context(_Operators(tell))
            inside.enter_context(_Calls(tell))

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        inside.close()

    hooks = [
        model.register_forward_pre_hook(enter, prepend=True),
        model.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
