"""`vlmheads verify`: the contract, on the user's own model and machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from vlmheads.errors import VlmHeadsError

if TYPE_CHECKING:
    from vlmheads.verify.checks import Finding
    from vlmheads.verify.subject import Subject


@click.command()
@click.argument("model")
@click.option("--device", help="Such as cpu or cuda:0; an accelerator where there is one.")
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    help="float32, float16, bfloat16, or auto: as saved, float32 on a CPU.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(model: str, device: str | None, dtype: str, as_json: bool) -> None:
    """Check what vlmheads promises of a model, on this machine.

    MODEL is a packaged model, a folder with a saved model, or a hub id. It writes a few tokens
    about two drawn pictures, plain and under one plugin for each kind of hook. Idle plugins and
    detached ones must leave every bit as it was, attention rows computed by hand must be the
    model's own, and rows of a padded batch must be what they are alone. The cost in time and memory
    is measured, too.

    Logits are compared by the RMS of their difference over their standard deviation. In half
    precision a model's own rounding allows more of it; --dtype float32 is the sharper check.

    The report can be pasted into an issue. The exit code is 0 if every row passes, 1 if one fails,
    and 2 if the model is refused or does not run.
    """
    from vlmheads.commands import show
    from vlmheads.printable import json_text, printable
    from vlmheads.verify.checks import FAIL, examine_subject

    show.quiet_loading(model)
    subject = _started(model, dtype, device)
    about = _about(model, subject)
    if not as_json:
        click.echo(printable("\n".join(f"{name}: {text}" for name, text in about.items())) + "\n")
    rows: list[Finding] = []
    for row in examine_subject(subject):
        rows.append(row)
        if not as_json:
            click.echo(printable(f"{row.state}  {row.name:<26} {row.detail}"))
    failed = sum(row.state == FAIL for row in rows)
    if as_json:
        found = {"about": about, "rows": [row.to_dict() for row in rows], "ok": not failed}
        click.echo(json_text(found, indent=1))
    else:
        click.echo(f"\n{failed} failed" if failed else "\nall passed")
    sys.exit(1 if failed else 0)


def _started(name: str, dtype: str, device: str | None) -> Subject:
    """Load a model and let it generate once without plugins.

    Raises:
        VlmHeadsError: what `load_model` refuses; a model that cannot be built or does not run, with
            the first line of what transformers says.
    """
    from vlmheads.model.loading import load_model
    from vlmheads.verify.checks import TOLERANCE, first_line
    from vlmheads.verify.subject import ROWS, Subject, prepare

    doing = "loaded"
    try:
        model, processor = load_model(name, dtype=dtype, device=device)
        doing = "given pictures by its processor"
        inputs = prepare(model, processor)
        doing = "run without plugins"
        subject = Subject(model, inputs)
        subject.plain(ROWS[0])
    except VlmHeadsError:
        raise
    except Exception as error:  # from transformers or a kernel below it anything may come
        raise VlmHeadsError(
            f"{name} cannot be {doing} ({first_line(error)})",
            "a model that generates on its own",
            "the trouble is below vlmheads: look it up under transformers",
        ) from error
    if model.dtype not in TOLERANCE:
        raise VlmHeadsError(f"{name} in {model.dtype}", "float32, float16 or bfloat16")
    return subject


def _about(name: str, subject: Subject) -> dict[str, str]:
    """Say what was checked, with what and on what."""
    import platform

    import torch
    import transformers

    import vlmheads
    from vlmheads.runtime.compat import attention_implementation
    from vlmheads.verify.subject import ROWS

    model, anatomy = subject.model, subject.anatomy
    device: Any = model.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    ids = [subject.inputs[row]["input_ids"] for row in ROWS]
    lengths = " and ".join(
        f"{part.shape[1]} ({int(anatomy.is_visual(part).sum())} of an image)" for part in ids
    )
    return {
        "model": f"{name} ({type(model).__name__}, {anatomy.geometry})",
        "dtype": f"{str(model.dtype).removeprefix('torch.')}, "
        f"attention {attention_implementation(anatomy.decoder)}",
        "device": f"{device} ({machine}, {torch.get_num_threads()} threads)",
        "versions": f"vlmheads {vlmheads.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}",
        "tokens": f"{lengths}, then {subject.tokens} new ones",
    }
