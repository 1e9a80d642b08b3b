"""What a search tries: the settings that every plugin declares for it, and their compositions."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads.entries import installed
from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin
from vlmheads.registry import get_plugin, list_plugins, resolve
from vlmheads_eval.learn.methods import METHODS
from vlmheads_eval.tune.settings import ALL

LEARNED = "learned"  # The folder of what is learned, in OUT.
ATTRIBUTION, GAINS = "attribution", "gains"
# Shares of the heads that a method is to single out by a map, where it takes their number.
SHARES = (0.01, 0.02, 0.04)
FILE_KINDS = ("head_map", "learned")
WITH = "with"


@dataclass(frozen=True)
class Candidate:
    """One setting to try.

    Args:
        name: as shown in tables.
        plugins: as a preset holds them, {"name": ..., "options": ...}, in the order in which they
            act; what is learned is named by its file, relative to OUT.
        needs: what has to be learned for it.
    """

    name: str
    plugins: tuple[Mapping[str, Any], ...]
    needs: tuple[str, ...] = ()

    def make(self, out: Path) -> tuple[Plugin, ...]:
        """Return the plugins, with what was learned from the files in OUT.

        Raises:
            VlmHeadsError: a value that a plugin refuses, or a file that is not there.
        """
        made = []
        for one in self.plugins:
            kind = get_plugin(one["name"])
            files = {f.name for f in dataclasses.fields(kind) if _kind(f) in FILE_KINDS}
            options = {
                key: str(out / value) if key in files and isinstance(value, str) else value
                for key, value in one["options"].items()
            }
            made.append(kind.from_dict(options))
        return tuple(made)


def file_of(need: str) -> str:
    """Return the file of something learned, relative to OUT."""
    return f"{LEARNED}/{need}.safetensors"


def check_methods(methods: Sequence[str]) -> None:
    """Refuse an unknown plugin, and one that is named and declares nothing to search."""
    for method in methods if list(methods) != [ALL] else ():
        if not get_plugin(method).search:
            raise VlmHeadsError(
                f"{method}, which declares nothing to search",
                "plugins with `search`, the few settings that are worth a try",
            )


def find_candidates(
    methods: Sequence[str], geometry: Geometry, tokenizer: Any
) -> tuple[list[Candidate], dict[str, str]]:
    """Return the candidates of plugins, and why settings of them are left out, by name.

    Plugins of other packages take part like ours. What a plugin needs of the model itself (a head
    map, something that `vlmheads learn` makes, a text in its tokens) is filled in where it is
    refused without.

    Args:
        methods: names of plugins, or "all" alone.
        geometry: of the model.
        tokenizer: of the model, for options that are a text in tokens.

    Raises:
        VlmHeadsError: an unknown plugin, one that is named and declares nothing to search, or no
            candidate at all.
    """
    check_methods(methods)
    every = list(methods) == [ALL]
    found: dict[str, Candidate] = {}
    left_out: dict[str, str] = {}
    for method in list_plugins() if every else dict.fromkeys(methods):
        kind = get_plugin(method)
        if not kind.search:
            left_out[method] = "it declares nothing to search"
        for setting in kind.search:
            try:
                made = list(_candidates(method, setting, geometry, tokenizer))
            except (VlmHeadsError, TypeError) as error:  # TypeError: a value that JSON has not.
                left_out[_name(method, setting)] = " ".join(str(error).split())
                continue
            found |= {one.name: one for one in made}
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise VlmHeadsError(f"no setting that this model takes ({reasons})", "other --methods")
    return list(found.values()), left_out


def packages_of(candidates: Sequence[Candidate]) -> dict[str, str]:
    """Return the packages that the plugins of candidates come from, with their versions."""
    entries = installed()
    names = {entry["name"] for one in candidates for entry in one.plugins}
    packages = [entries[name].dist for name in sorted(names) if name in entries]
    return {one.name: one.version for one in packages if one is not None}


def _candidates(
    method: str, setting: Mapping[str, Any], geometry: Geometry, tokenizer: Any
) -> Iterator[Candidate]:
    """Yield the candidates of one declared setting: one per number of heads that it may take."""
    options = {key: value for key, value in setting.items() if key != WITH}
    partners = [_entry(one) for one in resolve(setting.get(WITH, ()))]
    entries = [{"name": method, "options": options}, *partners]
    filled = [_filled(one, geometry, tokenizer) for one in entries]
    needs = tuple(dict.fromkeys(need for _, found in filled for need in found))
    plugins = [entry for entry, _ in filled]
    json.dumps(plugins)  # A preset has to hold them.
    name = _name(method, setting)
    kind = get_plugin(method)
    counted = "count" in {f.name for f in dataclasses.fields(kind)} - set(options)
    if counted and ATTRIBUTION in filled[0][1]:
        heads = geometry.heads * len(geometry.attention_layers)
        for count in dict.fromkeys(max(1, round(share * heads)) for share in SHARES):
            first = {**plugins[0], "options": {**plugins[0]["options"], "count": count}}
            yield Candidate(f"{name}, count={count}", (first, *plugins[1:]), needs)
        return
    yield Candidate(name, tuple(plugins), needs)


def _entry(plugin: Plugin) -> dict[str, Any]:
    """Return a plugin as a preset holds it: what differs from its defaults."""
    defaults = {f.name: f.default for f in dataclasses.fields(plugin)}
    values = plugin.to_dict()
    options = {key: values[key] for key in values if getattr(plugin, key) != defaults[key]}
    return {"name": plugin.name, "options": options}


def _filled(
    entry: Mapping[str, Any], geometry: Geometry, tokenizer: Any
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return an entry with what its plugin is refused without, and what of it has to be learned.

    Raises:
        VlmHeadsError: the model does not fit, and nothing that can be learned makes it.
    """
    kind, options = get_plugin(entry["name"]), dict(entry["options"])
    try:
        kind.from_dict(options).fit(geometry)
    except VlmHeadsError:
        missing = [f for f in dataclasses.fields(kind) if f.name not in options]
        needs = {f.name: need for f in missing if (need := _need(f))}
        said = {f.name: text for f in missing if (text := f.metadata.get("text"))}
        if not needs and not said:
            raise
        filled = {key: file_of(need) for key, need in needs.items()} | {
            key: tokenizer(text, add_special_tokens=False).input_ids for key, text in said.items()
        }
        return {"name": entry["name"], "options": options | filled}, tuple(needs.values())
    return {"name": entry["name"], "options": options}, ()


def _need(field: "dataclasses.Field[Any]") -> str:
    """Return what can be learned for an option; "" for nothing."""
    measures = field.metadata.get("measures", ())
    if _kind(field) == "head_map":
        if GAIN_MEASURE in measures:
            return GAINS
        return ATTRIBUTION if not measures or ATTRIBUTION in measures else ""
    if _kind(field) == "learned" and field.metadata.get("method") in METHODS:
        return str(field.metadata["method"])
    return ""


GAIN_MEASURE = "gain"


def _kind(field: "dataclasses.Field[Any]") -> Any:
    return field.metadata.get("kind")


def _name(method: str, setting: Mapping[str, Any]) -> str:
    """Return the name of a setting, such as "vaf enhance=1.08 + devils:alpha=0.28"."""
    options = ", ".join(f"{k}={_shown(v)}" for k, v in setting.items() if k != WITH)
    partners = setting.get(WITH, ())
    listed = (partners,) if isinstance(partners, str | Plugin) else tuple(partners)
    named = [one if isinstance(one, str) else one.name for one in listed]
    return " + ".join([f"{method} {options}".strip(), *named])


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
