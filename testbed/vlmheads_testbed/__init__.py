"""The test bench: a small real LLaVA and the scenes that it describes."""

from pathlib import Path

from vlmheads.errors import VlmHeadsError

__all__ = ["embedded_model"]


def embedded_model() -> Path:
    """Return the folder of the packaged model, for ``from_pretrained``; it needs no network.

    Raises:
        VlmHeadsError: when the weights are missing from this installation.
    """
    folder = Path(__file__).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise VlmHeadsError(
            f"no weights in {folder}",
            "the embedded model as it is packaged",
            "Install vlmheads again, or train it: python -m vlmheads_testbed.train OUT.",
        )
    return folder
