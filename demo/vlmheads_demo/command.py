"""`vlmheads demo`: serve the page, to this machine only by default."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("embedded",),
    show_default=True,
    help="A packaged model, a folder with a saved model, or a hub id. Repeat it for several.",
)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--device", help="For example cpu or cuda:0; by default an accelerator if any.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535))
@click.option("--allow-models", is_flag=True, help="Let visitors load folders and hub ids.")
@click.option("--share", is_flag=True, help="Open a public address through Gradio's relay.")
def demo(
    models: tuple[str, ...],
    dtype: str,
    device: str | None,
    host: str,
    port: int,
    allow_models: bool,
    share: bool,
) -> None:
    """Serve a page that compares captions and what supports them."""
    import signal
    import threading

    from vlmheads.commands import show
    from vlmheads.errors import VlmHeadsError, install_hint
    from vlmheads_demo.state import ModelRegistry

    try:
        from vlmheads_demo.app import require_free, serve
    except ImportError as error:
        raise VlmHeadsError(
            f"{error.name} is not installed", todo=f"install it with {install_hint('demo')}"
        ) from error
    require_free(host, port)
    show.quiet_loading(models[0])
    registry = ModelRegistry(models, allow_others=allow_models, dtype=dtype, device=device)
    server = serve(registry, host=host, port=port or None, share=share)
    click.echo(f"The page is at {server.address} (stop it with Ctrl-C).")
    if server.public_address:
        click.echo(f"Anyone can reach it at {server.public_address}")
    # Clean up when terminated, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("stopped")
    finally:
        server.close()
