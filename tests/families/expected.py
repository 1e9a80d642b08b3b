"""What entries are refused for, check by check; everything else is expected to pass."""

from __future__ import annotations

_NAMED = dict.fromkeys(("neutral rows", "rows", "edit rows"), "attends another way unless")
_SPARSE = dict.fromkeys(("neutral stream", "text only", "beside"), "streams of different lengths")
_NO_MLP = {"edit mlp": "layers without a known MLP"}
_STREAMS = {"unembed": "more than a norm after its last layer"}

REFUSED: dict[str, dict[str, str]] = {
    "blip-2": _NO_MLP,
    "instructblip": _NO_MLP,
    "blip-2+t5": {"attach": "encoder-decoder"},
    "instructblipvideo": {"attach": "it takes videos alone"},
    "dots3_note": _NAMED | _SPARSE,
    "gemma3n": _STREAMS,
    "glm5_next": _NAMED | _SPARSE | _STREAMS,
    "hy_v4_vl": _NAMED | _SPARSE | _STREAMS,
    "inkling2": _STREAMS,
    "inkling2_loop": _STREAMS,
    "minimax_m3_vl": _NAMED | _SPARSE,
    "mistral_large4": _NAMED | _SPARSE,
    "qwen4_exp": _SPARSE | _STREAMS,
}


def unexpected(model_type: str, found: dict[str, str]) -> list[str]:
    """What came of the checks and was not to be expected, a line each."""
    refused = REFUSED.get(model_type, {})
    return [
        f"{check}: {text}"
        for check, text in found.items()
        if check != "model"
        and text != "pass"
        and not (text.startswith("refused") and refused.get(check, text + "?") in text)
    ] + [
        f"{check}: expected a refusal, came out as {found[check]}"
        for check in refused
        if found.get(check) == "pass"
    ]
