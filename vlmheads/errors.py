"""The one error type of vlmheads."""


class VlmHeadsError(ValueError):
    """What vlmheads refuses, by name: what was seen, what was expected and what to do.

    Args:
        seen: what was found, with the offending value in it.
        expected: what would have been accepted.
        todo: the next thing for the reader to do.
    """

    def __init__(self, seen: str, expected: str = "", todo: str = "") -> None:
        self.seen, self.expected, self.todo = seen, expected, todo
        parts = (seen, expected and f"expected {expected}", todo)
        super().__init__("; ".join(part for part in parts if part))
