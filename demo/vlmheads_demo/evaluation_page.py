"""The tab on which methods are evaluated on scenes of the test bench."""

from __future__ import annotations

import gc
import json
from html import escape
from typing import Any

import gradio as gr

from vlmheads_demo import captions
from vlmheads_demo.desk import Desk
from vlmheads_demo.evaluating import MOST_SCENES, SPLITS, Stopped, Study, evaluate
from vlmheads_demo.messages import told
from vlmheads_demo.methods import methods, plugins_of
from vlmheads_demo.picker import picker
from vlmheads_demo.theme import asset

EMPTY = (
    '<div class="vh-empty"><p><b>Does it help, or does it only say less?</b></p>'
    "<p>Choose methods and a number of scenes. Each run captions the same scenes; the comparison "
    "shows what each invents against what it finds, beside the plain captions cut short.</p></div>"
)


def add_evaluation(desk: Desk) -> gr.Dropdown:
    """Add the tab to the page that is being built, and return where its model is chosen."""
    tab = EvaluationTab(desk)
    offered = methods(desk.shelf.get(desk.shelf.default).geometry)
    with gr.Row(equal_height=False, elem_classes="vh-evaluate"):
        with gr.Column(scale=4, min_width=300):
            chosen = [
                gr.HTML(
                    json.dumps({"name": name, "options": {}}) if name else "null",
                    html_template="${frame}",
                    frame=picker(f"study-{number}", label, offered, name),
                    js_on_load=asset("picker.js"),
                    apply_default_css=False,
                )
                for number, (label, name) in enumerate((("Method", "vhr"), ("Second method", "")))
            ]
            model = gr.Dropdown(desk.shelf.names, value=desk.shelf.default, label="Model")
            split = gr.Radio(
                SPLITS,
                value="counterfactual",
                label="Scenes",
                info="counterfactual: every object is from the wrong kind of scene",
            )
            scenes = gr.Slider(2, MOST_SCENES, value=40, step=1, label="Number of scenes")
            tokens = gr.Slider(8, 128, value=64, step=8, label="Most new tokens")
            seed = gr.Number(0, label="Seed of the scenes", precision=0, minimum=0)
            with gr.Row():
                go = gr.Button("Evaluate", variant="primary", elem_id="vh-evaluate-go")
                stop = gr.Button("Stop", elem_id="vh-evaluate-stop")
        with gr.Column(scale=8, min_width=320):
            shown = gr.HTML(EMPTY, js_on_load=None, elem_id="vh-evaluation")
    go.click(
        tab.run,
        [*chosen, model, split, scenes, tokens, seed],
        shown,
        concurrency_id="evaluation",
        concurrency_limit=1,
        trigger_mode="once",
        api_visibility="private",
    )
    stop.click(tab.stop, None, None, queue=False, api_visibility="private")
    return model


class EvaluationTab:
    """What happens on the tab.

    Args:
        desk: what all requests share.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def run(
        self,
        first: str,
        second: str,
        model: str,
        split: str,
        scenes: float,
        tokens: float,
        seed: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it there
    ) -> str:
        """Evaluate, with a progress bar, and return the figures and the table."""
        try:
            study = Study(
                self.desk.shelf.get(model),
                tuple(plugins_of([one]) for one in map(json.loads, (first, second)) if one),
                split,
                int(scenes),
                int(seed or 0),
                int(tokens),
            )
            with self.desk.runs.run(_visitor(request)) as stop:
                result = evaluate(
                    study,
                    running=self.desk.shelf.running,
                    stop=stop,
                    progress=lambda name, done, total: progress(
                        (done, total), desc=name, unit="captions"
                    ),
                )
        except Stopped:
            return '<div class="vh-empty"><p>Stopped.</p></div>'
        except Exception as error:  # whatever it is, the visitor gets a sentence
            return captions.refused(told(error))
        shown = evaluated(result)
        gc.collect()  # figures are knots of references, see `exporting`
        return shown

    def stop(self, request: gr.Request) -> None:
        """Stop what this visitor has running."""
        self.desk.runs.stop(_visitor(request))


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)


def evaluated(result: dict[str, Any]) -> str:
    """Return a comparison as figures and tables."""
    from vlmheads_eval.report.figures import frontier_plot
    from vlmheads_eval.report.tables import differences, footnote, table

    names = [run["name"] for run in result["runs"]]
    figures = "".join(
        f"<figure>{frontier_plot(result, name, title)}</figure>"
        for name, title in (("CHAIRs", "CHAIR_S"), ("unique_hallucination", "unique-object rate"))
    )
    return (
        '<section class="vh-result"><h2>Invention against recall</h2>'
        f'<p class="vh-small">Grey: the captions of {escape(names[0])} cut after 1, 2, ... '
        "sentences. Below the line, and to its right, is better than cutting.</p>"
        f'<div class="vh-figures">{figures}</div></section>'
        f"{_table('Runs', table(result))}{_table('Against plain', differences(result))}"
        f'<p class="vh-small">{escape(footnote(result))} A test bench: what helps this small model '
        "need not help a large one.</p>"
    )


def _table(title: str, rows: list[list[str]]) -> str:
    """Return rows as a table with a run a column, as there are more measures than runs."""
    if not rows:
        return ""
    first, *columns = rows
    head = "".join(f'<th scope="col">{escape(column[0])}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(measure)}</th>'
        + "".join(f"<td>{_cell(column[place])}</td>" for column in columns)
        + "</tr>"
        for place, measure in enumerate(first)
        if place
    )
    return (
        f'<section class="vh-result"><h2>{title}</h2>'
        f'<div class="vh-scroll" tabindex="0" role="region" aria-label="{title}"><table>'
        "<thead><tr>"
        f'<th scope="col"><span class="vh-hide">{escape(first[0])}</span></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _cell(text: str) -> str:
    figure, bracket, interval = text.partition(" [")
    return f"{escape(figure)} <small>[{escape(interval)}</small>" if bracket else escape(text)
