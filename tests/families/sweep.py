"""The whole sweep: every entry of transformers' mapping, held to every check.

Not collected by pytest on its own: `make test-families` runs it.
"""

from __future__ import annotations

import pytest
from build import entries
from expected import unexpected
from report import judge
from table import ROWS

# A variant is of an entry that this transformers has.
TYPES = sorted({*entries(), *(name for name in ROWS if name.partition("+")[0] in entries())})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", TYPES)
def test_a_family_keeps_every_promise(model_type: str) -> None:
    found = judge(model_type)
    if found["model"].startswith("none"):
        pytest.skip(found["model"])
    assert not (wrong := unexpected(model_type, found)), "\n".join(wrong)
