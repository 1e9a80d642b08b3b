"""The tab on which methods are evaluated on scenes of the test bench, and its figures."""

from __future__ import annotations

import gc
import json
from html import escape
from typing import Any

import gradio as gr

from vlmheads_demo.compat import visitor_id
from vlmheads_demo.middleware import error_message
from vlmheads_demo.services.evaluation import MAX_SCENES, StoppedError, evaluate_for
from vlmheads_demo.services.images import SPLITS
from vlmheads_demo.services.methods import recommended_method
from vlmheads_demo.state import AppState
from vlmheads_demo.views.captions import error_card
from vlmheads_demo.views.picker import method_picker, picked_method
from vlmheads_demo.views.theme import asset

PLACEHOLDER = (
    '<div class="vh-empty"><p><b>Does a method help, or does it only say less?</b></p>'
    "<p>Choose methods and a number of scenes. All runs caption the same scenes. The comparison "
    "shows invented objects against recall, next to plain captions that were cut short.</p></div>"
)


def add_evaluate_tab(state: AppState) -> gr.Dropdown:
    """Add the contents of the tab, and return the field that selects its model."""
    handlers = EvaluateHandlers(state)
    default = state.models.get(state.models.default)
    with gr.Row(equal_height=False, elem_classes="vh-evaluate"):
        with gr.Column(scale=4, min_width=300):
            chosen = [
                gr.HTML(
                    picked_method(picked),
                    html_template="${frame}",
                    frame=method_picker(f"evaluate-{number}", label, default, picked),
                    js_on_load=asset("picker.js"),
                    apply_default_css=False,
                )
                for number, (label, picked) in enumerate(
                    (
                        ("Method", recommended_method(default.captioner.model)),
                        ("Second method", None),
                    )
                )
            ]
            model = gr.Dropdown(state.models.names, value=state.models.default, label="Model")
            split = gr.Radio(
                SPLITS,
                value="counterfactual",
                label="Scenes",
                info="counterfactual: no object belongs in its scene",
            )
            scenes = gr.Slider(2, MAX_SCENES, value=40, step=1, label="Number of scenes")
            tokens = gr.Slider(8, 128, value=64, step=8, label="Maximum new tokens")
            seed = gr.Number(0, label="Scene seed", precision=0, minimum=0)
            with gr.Row():
                go = gr.Button("Evaluate", variant="primary", elem_id="vh-evaluate-go")
                stop = gr.Button("Stop", elem_id="vh-evaluate-stop")
        with gr.Column(scale=8, min_width=320):
            shown = gr.HTML(PLACEHOLDER, js_on_load=None, elem_id="vh-evaluation")
    go.click(
        handlers.run,
        [*chosen, model, split, scenes, tokens, seed],
        shown,
        concurrency_id="evaluation",
        concurrency_limit=1,
        trigger_mode="once",
        api_visibility="private",
    )
    stop.click(handlers.stop, None, None, queue=False, api_visibility="private")
    return model


class EvaluateHandlers:
    """The event handlers of the tab.

    Args:
        state: what all requests share.
    """

    def __init__(self, state: AppState) -> None:
        self.state = state

    def run(
        self,
        first: str,
        second: str,
        model: str,
        split: str,
        scenes: int,
        tokens: int,
        seed: int | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - where Gradio looks for it
    ) -> str:
        """Evaluate with a progress bar, and return figures and tables."""
        try:
            result = evaluate_for(
                self.state,
                visitor_id(request),
                methods=[[picked] for picked in map(json.loads, (first, second)) if picked],
                model=model,
                split=split,
                scenes=scenes,
                seed=seed or 0,
                max_new_tokens=tokens,
                progress=lambda name, done, total: progress(
                    (done, total), desc=name, unit="captions"
                ),
            )
        except StoppedError:
            return '<div class="vh-empty"><p>Stopped.</p></div>'
        except Exception as error:  # whatever it is, the visitor gets one sentence
            return error_card(error_message(error))
        shown = comparison_view(result)
        gc.collect()  # figures are cyclic garbage, see `services.export`
        return shown

    def stop(self, request: gr.Request) -> None:
        """Stop what this visitor has running."""
        self.state.jobs.stop(visitor_id(request))


def comparison_view(result: dict[str, Any]) -> str:
    """Return a comparison as figures and tables."""
    from vlmheads_eval.report.figures import frontier_plot
    from vlmheads_eval.report.tables import differences, footnote, table

    names = [run["name"] for run in result["runs"]]
    figures = "".join(
        f"<figure>{frontier_plot(result, name, title)}</figure>"
        for name, title in (("CHAIRs", "CHAIR_S"), ("unique_hallucination", "unique-object rate"))
    )
    return (
        '<section class="vh-result"><h2>Invented objects against recall</h2>'
        f'<p class="vh-small">The grey line is {escape(names[0])}, cut off after 1, 2, ... '
        "sentences: what saying less does by itself. The verdict compares a method with "
        f"{escape(names[0])} at the same recall, the one that recalls more cut to the other:</p>"
        f'<ul class="vh-verdicts">{_verdicts(result)}</ul>'
        f'<div class="vh-figures">{figures}</div></section>'
        f"{_table('Runs', table(result))}{_table('Against plain', differences(result))}"
        f'<p class="vh-small">{escape(footnote(result))} This is a test bench: a method that helps '
        "this small model may not help a large one.</p>"
    )


def _verdicts(result: dict[str, Any]) -> str:
    """Return a line for each method: its verdict, and what it is a verdict on."""
    lines = []
    for method in result["methods"]:
        change = method["at_recall"]["CHAIRs"]
        verdict = method["verdict"]
        if change["value"] is None:
            text = "its captions cannot be compared with shortened ones"
        else:
            value, low, high = (100 * change[key] for key in ("value", "low", "high"))
            side = "fewer" if value < 0 else "more"
            text = (
                f"at equal recall {abs(value):.1f} points {side} of its captions invent something "
                f"({low:+.1f} to {high:+.1f}), {_chance(verdict, low, high)}"
            )
        lines.append(f"<li><b>{escape(method['name'])}</b>: {escape(verdict)}; {text}.</li>")
    return "".join(lines)


def _chance(verdict: str, low: float, high: float) -> str:
    """Return whether a difference is more than chance, as the verdict has it."""
    from vlmheads_eval.statistics import BETTER, WORSE

    if verdict in (BETTER, WORSE):
        return "more than chance"
    if low <= 0 <= high:
        return "which may be chance"
    return "which the unique-object rate, or the correction for several methods, does not confirm"


def _table(title: str, rows: list[list[str]]) -> str:
    """Return rows as a table with one column per run, as there are more measures than runs."""
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
