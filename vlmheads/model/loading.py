"""Load a vision-language model and its processor by name, folder or hub id."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
)

# transformers itself hides it without torchvision before 5.18.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging
from transformers.utils.import_utils import is_torchvision_available

from vlmheads.entries import FIX, called, installed, load_entry
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import examine
from vlmheads.model.saved import (
    check_architecture,
    check_files,
    check_weights,
)
from vlmheads.model.template import check_template
from vlmheads.printable import in_short

GROUP = "vlmheads.models"
EMBEDDED = "embedded"
NEEDS_CODE = "needs code of its own (auto_map), which is never run"
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
QUANTIZATIONS = ("bnb-4bit", "bnb-8bit")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def packaged_models() -> list[str]:
    """Names of the models that installed packages bring along."""
    return sorted(installed(GROUP))


def locate(name: str) -> str:
    """Return what `from_pretrained` takes for a model's name: a folder or a hub id.

    Raises:
        VlmHeadsError: neither a packaged model, nor a folder, nor what a hub id looks like.
    """
    if entry := installed(GROUP).get(name):
        find = load_entry(entry)
        try:
            return str(find())
        except VlmHeadsError:
            raise
        except (Exception, SystemExit) as error:  # another package may fail in any way
            raise VlmHeadsError(
                f"{called(entry)} fails: {type(error).__name__}: {in_short(error)}", todo=FIX
            ) from error
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise VlmHeadsError(f"folder {name} holds no config.json", "a saved model")
        return name
    local = name.startswith((".", "/", "~")) or os.sep not in name or name.count("/") != 1
    if local or Path(name).exists():
        raise VlmHeadsError(
            f"no model {name!r}",
            f"one of {', '.join(packaged_models())}, a folder with a saved model, or a hub id",
        )
    return name


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | None = None,
    quantization: str | None = None,
    attn: str | None = None,
) -> tuple[Any, Any]:
    """Load a model for evaluation, and its processor with padding on the left.

    Weights come from safetensors only, and code that comes with a model is never run. What is not
    one of the packaged models is checked before it is built; see `vlmheads.model.saved`.
    Images are processed by Pillow wherever the family's processor can, with or without torchvision,
    so that captions are the same.

    Args:
        name: a packaged model ("embedded"), a folder, or a hub id.
        dtype: "float32", "float16", "bfloat16", or "auto": as it was saved on an accelerator,
            float32 on a CPU.
        device: such as "cpu" or "cuda:0"; by default an accelerator where there is one.
        device_map: one of DEVICE_MAPS in place of a device: accelerate spreads the layers over all
            accelerators, and over the CPU's memory where they do not fit.
        quantization: "bnb-4bit" (NF4) or "bnb-8bit": bitsandbytes packs the weights while they are
            read. A checkpoint that was saved with packed weights needs nothing said.
        attn: one of ATTENTIONS; by default what transformers chooses.

    Raises:
        VlmHeadsError: the model is not to be had, is damaged or incomplete, takes no images, cannot
            be attached to, or has no chat template; an unknown dtype or device, or options that
            exclude each other or need a package that is not installed.
    """
    _check_options(device, device_map, quantization, attn)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind: Any = DTYPES.get(dtype)
    if kind is None:
        if dtype != "auto":
            raise VlmHeadsError(f"dtype {dtype!r}", f"auto, {', '.join(DTYPES)}")
        kind = torch.float32 if place == "cpu" else "auto"
    try:
        where = torch.empty(0, device=place).device
    except (RuntimeError, AssertionError) as error:
        raise VlmHeadsError(f"device {place!r} cannot be used", "such as cpu or cuda:0") from error
    source = locate(name)
    packaged = name in packaged_models()
    config, written = load_config(name, source)
    check_kind(config, written, name)
    if not packaged and (held := check_weights(source, name, written)):
        check_architecture(config, name, held)
    processor = _load_processor(name, source)
    if not packaged:
        check_template(processor, name)
    processor.tokenizer.padding_side = "left"
    options = {"dtype": kind, "use_safetensors": True, "output_loading_info": True}
    packed = _packed(name, config, quantization, kind)
    if packed is not None:
        options["quantization_config"] = packed
    if attn is not None:
        options["attn_implementation"] = attn
    placed = device_map is not None or quantization is not None or _is_packed(config)
    if placed:  # packed weights cannot be moved, and those that are spread must not be
        options["device_map"] = device_map or {"": where}
    with _errors_only():  # a missing weight is one line below, not a table
        model, info = _load(AutoModelForImageTextToText, name, source, **options)
    missing = sorted(info["missing_keys"])
    if missing:
        raise VlmHeadsError(
            f"the weights of {name} lack {len(missing)} of its parameters, such as {missing[0]}",
            "all of them, but for those that share the weights of another",
        )
    examine(model)
    return (model if placed else model.to(where)).eval(), processor


def _check_options(
    device: str | None, device_map: str | None, quantization: str | None, attn: str | None
) -> None:
    """Refuse options of loading that cannot be, before anything is read."""
    for what, value, known in (
        ("device_map", device_map, DEVICE_MAPS),
        ("quantization", quantization, QUANTIZATIONS),
        ("attn", attn, ATTENTIONS),
    ):
        if value is not None and value not in known:
            raise VlmHeadsError(f"{what} {value!r}", ", ".join(known))
    if device is not None and device_map is not None:
        raise VlmHeadsError(f"device {device} beside device_map {device_map}", "one of the two")
    if quantization is not None and find_spec("bitsandbytes") is None:
        raise VlmHeadsError(
            f"quantization {quantization} needs bitsandbytes, which is not installed",
            todo="pip install bitsandbytes",
        )


def _is_packed(config: Any) -> bool:
    return getattr(config, "quantization_config", None) is not None


def _packed(name: str, config: Any, quantization: str | None, kind: Any) -> Any:
    """Return what transformers takes for packing weights while it reads them; None for not."""
    if quantization is None:
        return None
    if _is_packed(config):
        method = config.quantization_config["quant_method"]
        raise VlmHeadsError(
            f"quantization {quantization} for {name}, whose weights are packed already ({method})",
            "weights as they were trained",
            "leave it out: the checkpoint is loaded as it is",
        )
    if quantization == "bnb-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = kind if isinstance(kind, torch.dtype) else torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
    )


def saved_dtype(name: str) -> torch.dtype:
    """Return the data type in which a model was saved; float32 where it does not say."""
    config, _ = load_config(name, locate(name))
    return getattr(config, "dtype", None) or torch.float32


def check_kind(config: Any, written: dict[str, Any], name: str) -> None:
    """Refuse a model that takes no images, or that transformers has no class for.

    Args:
        config: of transformers.
        written: what its file says.
        name: what the user calls the model.
    """
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return
    if "auto_map" in written:
        raise VlmHeadsError(f"{name} {NEEDS_CODE}", "a model of a class that transformers has")
    raise VlmHeadsError(
        f"{name} is a {config.model_type} model, which takes no images",
        "a model for image-text-to-text",
        "see `vlmheads families`",
    )


def load_config(name: str, source: str) -> tuple[Any, dict[str, Any]]:
    """Load a config, and return it with what its file says; files of others are checked first."""
    written = {} if name in packaged_models() else check_files(source, name)
    return _load(AutoConfig, name, source), written


def _load_processor(name: str, source: str) -> Any:
    """Load a processor that has Pillow's image processor, where the family has one."""
    try:
        processor = _load(AutoProcessor, name, source, backend="pil")
    except VlmHeadsError:  # a processor of videos knows no such backend, from 5.23 on
        processor = _load_with_videos(name, source)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise VlmHeadsError(
            f"{name} has a {type(processor).__name__} for a processor",
            "one for texts and images",
            "save the processor beside the model",
        )
    return processor


def _load_with_videos(name: str, source: str) -> Any:
    """Load a processor as transformers would, and put Pillow's image processor into it."""
    try:
        processor = _load(AutoProcessor, name, source)
    except VlmHeadsError as error:
        if is_torchvision_available() or "torchvision" not in str(error.__cause__).lower():
            raise
        raise VlmHeadsError(
            f"the processor of {name} needs torchvision, which is not installed",
            todo=f"pip install torchvision torch=={torch.__version__.split('+')[0]}",
        ) from error
    if hasattr(processor, "image_processor"):
        processor.image_processor = _load(AutoImageProcessor, name, source, backend="pil")
    return processor


@contextmanager
def _errors_only() -> Iterator[None]:
    """Leave out the notes of transformers."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _load(auto: Any, name: str, source: str, **options: Any) -> Any:
    """Run a from_pretrained without code from elsewhere, with its many errors in one line."""
    try:
        return auto.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # a folder from anywhere can make transformers raise anything
        reason = in_short(error)
        if "trust_remote_code" in str(error):
            reason = f"it {NEEDS_CODE}"
        todo = (
            ""
            if Path(source).is_dir()
            else ("check the connection and the id, or name a folder with a saved model")
        )
        raise VlmHeadsError(f"{name} cannot be loaded ({reason})", todo=todo) from error
