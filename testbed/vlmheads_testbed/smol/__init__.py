"""The second bench: a LLaVA whose language side is SmolLM2-135M-Instruct."""

from pathlib import Path

from vlmheads.errors import VlmHeadsError

__all__ = ["smol_model"]


def smol_model() -> Path:
    """Return the folder of the assembled model, for ``from_pretrained``; it fetches nothing.

    Raises:
        VlmHeadsError: this installation has no trained adapter, or the model was not fetched yet.
    """
    from vlmheads_testbed.smol.assembly import assembled_folder

    folder = assembled_folder()
    if not folder.is_dir():
        raise VlmHeadsError(
            "the model smol was not fetched yet",
            f"its folder {folder}",
            "Run once, with a connection: vlmheads testbed get smol.",
        )
    return folder
