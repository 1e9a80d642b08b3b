"""A run as files: one JSON with everything, and PNGs of what is drawn, in one archive."""

from __future__ import annotations

import base64
import gc
import io
import json
import re
import zipfile
from html import escape

from vlmheads.plotting.drawing import as_png
from vlmheads.plotting.figures import bars_figure
from vlmheads.plotting.maps import head_map_figure, overlay_image
from vlmheads_demo.answers import answer
from vlmheads_demo.services.measurement import attention_of
from vlmheads_demo.services.result import Result

# Pictures of words are drawn this large at least, so that patches can be told apart.
LEAST_SIDE = 448


def as_json(result: Result) -> bytes:
    """Return everything that the page shows of a run."""
    return (json.dumps(answer(result), indent=1, ensure_ascii=False) + "\n").encode()


def as_pictures(result: Result) -> dict[str, bytes]:
    """Return PNG files by name: the picture, each object word's overlay, head maps, dominance."""
    files = {"picture.png": _png(result.picture.seen.image)}
    for number, said in enumerate(result.captions):
        prefix = f"{number}-{_plain(said.name)}"
        chosen = [(layer, head) for layer, head in said.support.touched.nonzero().tolist()]
        title = f"{said.name}: heads acted on" if chosen else said.name
        figure = head_map_figure(
            result.picture.divergence, "VHD at the prompt's end", title=title, chosen=chosen
        )
        files[f"{prefix}/heads.png"] = as_png(figure)
        for index, word in enumerate(said.support.words):
            values = None if word.object is None else attention_of(said.support, index)
            if values is None or result.picture.seen.grid is None:
                continue
            image = result.picture.seen.image
            scale = max(1, -(-LEAST_SIDE // min(image.size)))
            large = image.resize((image.width * scale, image.height * scale))
            drawn = overlay_image(large, values.reshape(result.picture.seen.grid))
            files[f"{prefix}/word-{index:02d}-{_plain(word.text)}.png"] = _png(drawn)
    layers = [str(layer) for layer in range(result.geometry.layers)]
    dominance = bars_figure(
        layers,
        {"MDI": result.picture.dominance.tolist()},
        "MDI (times)",
        group="layer",
        reference=1,
        title="text dominance",
    )
    files["dominance.png"] = as_png(dominance)
    del figure, dominance
    # Figures are knots of references: without this they and their pixels wait for the collector,
    # and a busy server grows by some MB an export.
    gc.collect()
    return files


def archive(files: dict[str, bytes]) -> bytes:
    """Return files as a ZIP archive; the same files give the same bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return data.getvalue()


def offer(result: Result) -> str:
    """Return the button that makes the files."""
    about = escape(json.dumps({"result": result.key}))
    return (
        f'<button type="button" class="vh-button" data-select="{about}">'
        "Export JSON and PNGs</button>"
    )


def links(result: Result) -> str:
    """Return links that hold the files themselves, so that the server keeps none."""
    found = (
        ("vlmheads.json", "application/json", as_json(result)),
        ("vlmheads.zip", "application/zip", archive(as_pictures(result))),
    )
    items = "".join(
        f'<a class="vh-button" download="{name}" '
        f'href="data:{kind};base64,{base64.b64encode(content).decode()}">'
        f"{name} ({len(content) / 1024:.0f} KB)</a>"
        for name, kind, content in found
    )
    return f'<p class="vh-links" role="status">Ready: {items}</p>'


def _png(image: object) -> bytes:
    data = io.BytesIO()
    image.save(data, format="PNG")  # type: ignore[attr-defined]
    return data.getvalue()


def _plain(text: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", text).strip("-")[:60] or "caption"
