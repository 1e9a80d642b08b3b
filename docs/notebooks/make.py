"""Write the notebooks of this folder, executed.

python docs/notebooks/make.py [NAME ...]

Cells run in this process, one after the other, and what they print and return is put beneath them.
Notebooks are read as any other; nothing of Jupyter is needed to make them.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# A text is a cell of Markdown; a text that begins with ">>>" and a line break is one of code.
CODE = ">>>\n"
NOTEBOOKS: dict[str, tuple[str, ...]] = {
    "quick-start": (
        "# Quick start, as a notebook\n\nThe embedded model is a test bench: it knows small drawn "
        "scenes and nothing else, and it invents objects that usually belong in a scene. "
        "Any model that `AutoModelForImageTextToText` loads can take its place.",
        CODE + "import vlmheads\nfrom vlmheads_testbed.scenes import scene\n\n"
        'captioner = vlmheads.Captioner.from_pretrained("embedded", ())\n'
        'image = scene("counterfactual", 0, 47).image\n'
        "image.resize((224, 224))",
        "An airport with carrots, a pizza and skis. The plain model also names what airports "
        "usually have. Dashed words are weakly supported by the picture:",
        CODE + "plain = captioner(image, words=True)[0]\nvlmheads.show(plain)",
        "`vcd` with the strength that was chosen for this model contrasts the picture with a "
        "noised one. It is attached while the caption is written, and leaves nothing behind.",
        CODE + 'helped = captioner(image, plugins="vcd:alpha=0.25", words=True)[0]\n'
        "vlmheads.show(helped)",
        "What the picture adds to each token, and what the model would have said without it:",
        CODE + "import torch\n\nfrom vlmheads.grounding import grounding\n\n"
        "found = grounding(\n    captioner.model, captioner.prepare(image), "
        "torch.tensor([plain.ids]), candidates=3\n)\nseeing, blind = found.candidates\n"
        "word = next(word for word in plain.words if word.object == 'airplane')\n"
        "for title, stream in (('with the picture', seeing), ('without it', blind)):\n"
        "    ids = stream.ids[0, word.first]\n"
        "    names = captioner.processor.batch_decode(ids[:, None])\n"
        "    chances = stream.probability[0, word.first].tolist()\n"
        "    print(title, [f'{n} {p:.2f}' for n, p in zip(names, chances, strict=True)])",
        CODE + "vlmheads.show(found)",
    ),
    "compare-two-methods": (
        "# Two methods on twenty pictures\n\nA method may say less or more than the plain model, "
        "and a caption that says less invents less. Runs are therefore compared at equal recall, "
        "paired by image, with intervals. Twenty pictures show how it is done; they reveal only "
        "large differences.",
        CODE + "import json\nfrom pathlib import Path\n\nimport vlmheads\n"
        "from vlmheads_eval.report.notebook import compare_runs\n"
        "from vlmheads_testbed.scenes import scene\n\n"
        'captioner = vlmheads.Captioner.from_pretrained("embedded", ())\n'
        'scenes = [scene("test", 0, number) for number in range(20)]\n'
        "images = [one.image for one in scenes]",
        "Captions of the plain model and of two methods, and the objects that are there:",
        CODE + 'Path("truth.json").write_text(\n    json.dumps({n: sorted(one.names) '
        "for n, one in enumerate(scenes)})\n)\n"
        'methods = {"plain": (), "vcd": "vcd:alpha=0.25", "vhr": "vhr"}\n'
        "for name, plugins in methods.items():\n"
        "    captions = captioner(images, plugins=plugins, batch_size=20)\n"
        '    lines = [{"image_id": n, "caption": c.text} for n, c in enumerate(captions)]\n'
        '    Path(f"{name}.jsonl").write_text("\\n".join(map(json.dumps, lines)))\n'
        "    print(f'{name}: {captions[0].text}')",
        "The first run is the baseline:",
        CODE + 'comparison = compare_runs(\n    [f"{name}.jsonl" for name in methods], '
        'ground_truth=["truth.json"]\n)\nvlmheads.show(comparison)',
        "The same for your own pictures: `vlmheads eval predict`, then `vlmheads eval compare`, or "
        "`compare_runs` on the run folders.",
    ),
}


def run_cell(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Run code, and return what it prints and the value of its last expression as outputs."""
    tree = ast.parse(source)
    last = tree.body[-1] if isinstance(tree.body[-1], ast.Expr) else None
    tree.body = tree.body[:-1] if last else tree.body
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    found: list[dict[str, Any]] = []
    if printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
    if value is not None:
        data = {"text/plain": f"<{type(value).__name__}>"}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_()
        elif hasattr(value, "_repr_png_"):
            data["image/png"] = base64.b64encode(value._repr_png_()).decode()
        found.append(
            {"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": None}
        )
    return found


def notebook(name: str) -> dict[str, Any]:
    """Return a notebook with its code executed, in an empty folder."""
    cells: list[dict[str, Any]] = []
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, text in enumerate(NOTEBOOKS[name]):
            identity = {"id": f"cell-{number}", "metadata": {}}
            if not text.startswith(CODE):
                cells.append({"cell_type": "markdown", "source": text, **identity})
                continue
            count += 1
            source = text.removeprefix(CODE)
            outputs = run_cell(source, names)
            for output in outputs:
                if "execution_count" in output:
                    output["execution_count"] = count
            cells.append(
                {"cell_type": "code", "source": source, "execution_count": count,
                 "outputs": outputs, **identity}
            )  # fmt: skip
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for chosen in sys.argv[1:] or NOTEBOOKS:
        text = json.dumps(notebook(chosen), indent=1, ensure_ascii=False) + "\n"
        (HERE / f"{chosen}.ipynb").write_text(text, "utf-8")
