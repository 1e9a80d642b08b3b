"""What differs between model families: one small file a family, and a generic default.

A new family that follows the common layout needs no file at all; one with a fact of its own
(a first position, a refusal) gets a module here with a `FAMILY` in it.
"""

import pkgutil
from functools import cache
from importlib import import_module

from vlmheads.adapters.family import Family

__all__ = ["Family", "families", "family_of", "list_families"]


@cache
def families() -> tuple[Family, ...]:
    """Every known family, by name."""
    modules = [info.name for info in pkgutil.iter_modules(__path__) if info.name != "family"]
    found = [import_module(f"{__name__}.{module}").FAMILY for module in modules]
    return tuple(sorted(found, key=lambda family: family.name))


def list_families() -> list[str]:
    """Names of the model families that can be attached to."""
    return [family.name for family in families() if not family.refusal]


def family_of(model_type: str) -> Family:
    """Return the family of a `config.model_type`; an unknown one gets the generic layout."""
    for family in families():
        if model_type in family.model_types:
            return family
    return Family(model_type, (model_type,), tested=False, note="generic layout")
