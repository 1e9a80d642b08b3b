"""What entries are refused for, check by check; everything else is expected to pass."""

from __future__ import annotations

_OTHERWISE = "attends another way unless"
_CACHE = ("neutral cache", "edit cache")
_NAMED = dict.fromkeys(("neutral rows", "rows", "edit rows", "hiding", *_CACHE), _OTHERWISE)
_SPARSE = dict.fromkeys(("neutral stream", "text only", "beside"), "streams of different lengths")
_NO_MLP = {"edit mlp": "layers without a known MLP"}
_STREAMS = {"unembed": "more than a norm after its last layer"}
_VISION = ("neutral vision", "edit vision", "vision")
_NO_TOWER = dict.fromkeys(_VISION, "no transformer blocks")
_TOWERS = dict.fromkeys(_VISION, "several towers")
# Latent attention, and layers that cache more than keys and values.
_OTHER = {"edit cache": "of other tensors than the keys and values"}
_SHARED = dict.fromkeys(_CACHE, "share the keys and values of another layer")

REFUSED: dict[str, dict[str, str]] = {
    "apertus1p5": _NO_TOWER,
    "blip-2": _NO_MLP,
    "chameleon": _NO_TOWER,
    "deepseek_ocr2": _TOWERS,
    "deepseek_vl_hybrid": _TOWERS,
    "emu3": _NO_TOWER,
    "fast_vlm": _NO_TOWER,
    "fuyu": _NO_TOWER,
    "gemma4+shared": _SHARED,
    "gemma4_unified": _NO_TOWER,
    "inkling_mm_model": _NO_TOWER | _OTHER,
    "instructblip": _NO_MLP,
    "blip-2+t5": {"attach": "encoder-decoder"},
    "instructblipvideo": {"attach": "it takes videos alone"},
    "internvl+deepseek_v3": _OTHER,
    "kimi_k25": _OTHER,
    "lfm3_vl": _NO_TOWER,  # the tiny one is all convolutions
    "mistral3+mistral4": _OTHER,
    "perception_lm": _NO_TOWER,
    "unlimited_ocr": _TOWERS | _OTHER,
    "dots3_note": _NAMED | _SPARSE,
    "gemma3n": _STREAMS | _SHARED | _NO_TOWER,
    "glm5_next": _NAMED | _SPARSE | _STREAMS,
    "hy_v4_vl": _NAMED | _SPARSE | _STREAMS,
    "inkling2": _STREAMS | _OTHER,
    "inkling2_loop": _STREAMS | _OTHER,
    "minimax_m3_vl": _NAMED | _SPARSE,
    "mistral_large4": _NAMED | _SPARSE,
    "qwen4_exp": _SPARSE | _STREAMS | _OTHER,
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
