"""A run as files: everything as JSON values, and PNGs of what the page draws, in one archive."""

from __future__ import annotations

import gc
import io
import json
import re
import zipfile
from typing import Any

from PIL import Image
from torch import Tensor

from vlmheads.grounding.candidates import Candidates
from vlmheads.plotting.drawing import as_png
from vlmheads.plotting.figures import bars_figure
from vlmheads.plotting.maps import head_map_figure, overlay_image
from vlmheads_demo.services.measurement import top_heads
from vlmheads_demo.services.result import CaptionResult, Result, comparison_rows

SCHEMA = 2
# Exported overlays have at least this many pixels on the shorter side, so that patches are visible.
MIN_SIDE = 448


def result_to_dict(result: Result) -> dict[str, Any]:
    """Return a run as plain values; docs/demo.md gives shapes and units."""
    measured = result.prompt_measured
    return {
        "schema": SCHEMA,
        "result": result.key,
        "model": result.model,
        "geometry": result.geometry.to_dict(),
        "prompt": result.prompt,
        "decoding": dict(result.decoding),
        "scene": result.scene or None,
        "objects": None if result.objects is None else list(result.objects),
        "picture": {
            "grid": None if measured.view.grid is None else list(measured.view.grid),
            "exact": measured.view.exact,
            "divergence": _rounded(measured.divergence),
            "text_dominance": _rounded(measured.dominance),
            "sinks": {"tau": measured.tau, "tokens": measured.sinks.nonzero().tolist()},
        },
        "captions": [_caption_to_dict(one) for one in result.captions],
        "comparison": comparison_rows(result),
    }


def _caption_to_dict(one: CaptionResult) -> dict[str, Any]:
    tokens = one.measured.tokens
    return {
        "name": one.name,
        "plugins": [dict(plugin) for plugin in one.plugins],
        "caption": one.caption.text,
        "ids": list(one.caption.ids),
        "tokens": len(one.caption.ids),
        "token_texts": [] if tokens is None else list(tokens.texts),
        "image_gains": []
        if tokens is None
        else [round(tokens.gain(number), 6) for number in range(len(tokens.ids))],
        "at_limit": one.caption.at_limit,
        "seconds": one.caption.seconds,
        "edited_heads": one.measured.edited.nonzero().tolist(),
        "threshold": one.measured.threshold,
        "words": [_word_to_dict(one, number) for number in range(len(one.measured.words))],
    }


def _word_to_dict(one: CaptionResult, number: int) -> dict[str, Any]:
    word = one.measured.words[number]
    top = top_heads(one.measured.heads[number])
    values = None if word.object is None else one.measured.attention(number)
    return {
        **word.to_dict(),
        "flagged": word.object is not None and word.score < one.measured.threshold,
        "correct": one.is_correct(number) if word.object is not None else None,
        "top_heads": [[layer, head, round(value, 4)] for layer, head, value in top],
        "overlay": None if values is None else _rounded(values),
    }


def token_to_dict(result: Result, caption: int, token: int) -> dict[str, Any]:
    """Return what the model would have said at a token, as plain values."""
    one = result.captions[caption]
    tokens = one.measured.tokens
    assert tokens is not None  # a selected token is there
    applied = one.caption.candidates if caption else None

    def listed(found: Candidates | None) -> list[list[Any]] | None:
        if found is None or token >= found.ids.shape[1]:
            return None
        pairs = zip(
            found.ids[0, token].tolist(), _rounded(found.probability[0, token]), strict=True
        )
        return [[tokens.names[candidate], chance] for candidate, chance in pairs]

    return {
        "token": tokens.texts[token],
        "image_gain": round(tokens.gain(token), 6),
        "with_image": listed(tokens.seeing),
        "without_image": listed(tokens.blind),
        "method": listed(applied),
    }


def _rounded(values: Tensor) -> Any:
    """Return a tensor as nested lists, rounded to six decimal places."""
    return [_rounded(part) for part in values] if values.ndim else round(float(values), 6)


def result_json(result: Result) -> bytes:
    """Return a run as a JSON file."""
    return (json.dumps(result_to_dict(result), indent=1, ensure_ascii=False) + "\n").encode()


def result_pictures(result: Result) -> dict[str, bytes]:
    """Return PNG files by name: picture, overlays of the object words, head maps, dominance."""
    measured = result.prompt_measured
    image = measured.view.image
    files = {"picture.png": _png(image)}
    scale = max(1, -(-MIN_SIDE // min(image.size)))
    large = image.resize((image.width * scale, image.height * scale))
    for number, one in enumerate(result.captions):
        prefix = f"{number}-{_file_name(one.name)}"
        edited = [(layer, head) for layer, head in one.measured.edited.nonzero().tolist()]
        title = f"{one.name}: edited heads" if edited else one.name
        figure = head_map_figure(
            measured.divergence, "VHD at the end of the prompt", title=title, chosen=edited
        )
        files[f"{prefix}/heads.png"] = as_png(figure)
        for index, word in enumerate(one.measured.words):
            values = None if word.object is None else one.measured.attention(index)
            if values is None or measured.view.grid is None:
                continue
            drawn = overlay_image(large, values.reshape(measured.view.grid))
            files[f"{prefix}/word-{index:02d}-{_file_name(word.text)}.png"] = _png(drawn)
    layers = [str(layer) for layer in range(result.geometry.layers)]
    dominance = bars_figure(
        layers,
        {"MDI": measured.dominance.tolist()},
        "MDI (ratio)",
        group="layer",
        reference=1,
        title="text dominance",
    )
    files["dominance.png"] = as_png(dominance)
    del figure, dominance
    # Figures are cyclic garbage. Until it is collected they keep their pixels, and a busy server
    # grows by several MB per export.
    gc.collect()
    return files


def archive(files: dict[str, bytes]) -> bytes:
    """Return files as a ZIP archive; the same files give the same bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return data.getvalue()


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", text).strip("-")[:60] or "caption"
