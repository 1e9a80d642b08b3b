"""What differs between model families: one table, and a generic default.

A new family that follows the common layout is served without a row; its row gives it the name that
people search for, and whatever fact of its own it has (a first position, a refusal).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Facts about one family of vision-language models.

    Args:
        name: what people search for, and `vlmheads families` calls it.
        model_types: the `config.model_type` values that belong to it.
        first_position: the position id of a prompt's first token.
        answer_type: the token type of what the model generates, where it tells token types apart.
        inner: the attribute of the language model that its generate() hands embeddings to; empty
            where the model runs its own forward.
        streams_first: whether layers return [streams, B, S, E] rather than [B, S, streams, E].
        refusal: why the family cannot be attached to; empty where it can.
        checkpoints: real checkpoints on which `vlmheads verify` passed; the sweep's tiny random
            models are in coverage.json.
        note: one line for people.
    """

    name: str
    model_types: tuple[str, ...]
    first_position: int = 0
    answer_type: int = 0
    inner: str = ""
    streams_first: bool = False
    refusal: str = ""
    checkpoints: tuple[str, ...] = ()
    note: str = ""


# Reasons that several families share.
ENCODER_DECODER = "it is an encoder-decoder model: the image is in the encoder, not in the prompt"
_CROSS_ATTENTION = (
    "it reads images through cross-attention layers, so its prompt holds no image tokens"
)
_INNER = "no prompt lookup; captions need a processor with a chat template"
# Notes that several families share.
_STREAMS = "several residual streams: layers cannot be read through the head"
_NAMED = "sparse attention that goes by a name: no plugin edits its rows, no text-only stream"

FAMILIES: tuple[Family, ...] = (
    Family("Apertus 1.5", ("apertus1p5",)),
    Family("Aria", ("aria",)),
    Family("Aya Vision", ("aya_vision",), note="sliding windows; no positions in full layers"),
    Family("BLIP", ("blip",), refusal=_CROSS_ATTENTION),
    Family("BLIP-2", ("blip-2",), inner="language_model", note=f"with OPT, not T5; {_INNER}"),
    Family("Chameleon", ("chameleon",)),
    Family("Cohere Command A Vision", ("cohere2_vision",)),
    Family("Cohere North Micro Vision", ("cohere_compass",)),
    Family("Cosmos 3", ("cosmos3_edge", "cosmos3_omni")),
    Family("DeepSeek-OCR 2", ("deepseek_ocr2",)),
    Family("DeepSeek-VL", ("deepseek_vl", "deepseek_vl_hybrid")),
    Family(
        "DiffusionGemma",
        ("diffusion_gemma",),
        refusal="it fills blocks by diffusion, not token by token",
    ),
    Family("dots3-note", ("dots3_note",), note=_NAMED),
    Family("Emu3", ("emu3",)),
    Family("ERNIE 4.5 VL", ("ernie4_5_vl_moe",)),
    Family("Evolla", ("evolla",), refusal="it reads proteins, not images"),
    Family("EXAONE 4.5", ("exaone4_5",)),
    Family("FastVLM", ("fast_vlm",)),
    Family("Florence-2", ("florence2",), refusal=ENCODER_DECODER),
    Family("Fuyu", ("fuyu",)),
    Family("Gemma 3", ("gemma3",), note="sliding windows; image tokens attend in both directions"),
    Family("Gemma 3n", ("gemma3n",), streams_first=True, note=_STREAMS),
    Family(
        "Gemma 4",
        ("gemma4", "gemma4_unified"),
        note="E2B and E4B share keys and values between layers",
    ),
    Family("GIT", ("git",), refusal="its prompt holds no image tokens"),
    Family("GLM-4.1V", ("glm4v",)),
    Family("GLM-4.5V", ("glm4v_moe",)),
    Family("GLM-4.6V", ("glm46v", "glmga")),
    Family("GLM-5.3-Flash", ("glm5_next",), note=f"{_NAMED}; {_STREAMS}"),
    Family("GLM-OCR", ("glm_ocr",)),
    Family("GOT-OCR 2", ("got_ocr2",)),
    Family("Granite 4 Vision", ("granite4_vision",)),
    Family("Granite-Docling", ("granite_docling",)),
    Family("Hunyuan 4", ("hy_v4_vl",), note=f"{_NAMED}; {_STREAMS}"),
    Family("HunyuanOCR", ("hunyuan_vl",)),
    Family("HyperCLOVA X SEED Think", ("hyperclovax_vision_v2",)),
    Family("IDEFICS", ("idefics",), refusal=_CROSS_ATTENTION),
    Family("Idefics2", ("idefics2",)),
    Family("Idefics3", ("idefics3",), note="tiles with marker tokens"),
    Family("Inkling", ("inkling_mm_model",)),
    Family("Inkling 2", ("inkling2", "inkling2_loop"), note=_STREAMS),
    Family(
        "InstructBLIP",
        ("instructblip",),
        inner="language_model",
        note=f"with Vicuna, not T5; {_INNER}",
    ),
    Family("InstructBLIP-Video", ("instructblipvideo",), refusal="it takes videos alone"),
    Family("InternVL3, InternVL3.5", ("internvl",), note="also on gpt-oss, with attention sinks"),
    Family("Janus", ("janus",)),
    Family("Kimi K2.5", ("kimi_k25",), note="MLA: values are smaller than queries"),
    Family(
        "Kosmos-2, Kosmos-2.5",
        ("kosmos-2", "kosmos-2.5"),
        refusal="it marks its image by a mask, not by tokens of its own",
    ),
    Family("LFM2-VL", ("lfm2_vl",), note="convolution layers have no heads"),
    Family("LFM3-VL", ("lfm3_vl",), note="convolution layers have no heads"),
    Family("LightOnOCR", ("lighton_ocr",)),
    Family("Llama 3.2 Vision, Mllama", ("mllama",), refusal=_CROSS_ATTENTION),
    Family(
        "Llama 4",
        ("llama4",),
        refusal="transformers (5.24) cannot run it: its forward asks a text model for images",
    ),
    Family(
        "LLaVA 1.5",
        ("llava",),
        checkpoints=("embedded", "smol"),
        note="also Pixtral 12B; one fixed number of tokens per image",
    ),
    Family("LLaVA-NeXT", ("llava_next",), note="tiles, and a learned newline among image tokens"),
    Family("LLaVA-NeXT-Video", ("llava_next_video",)),
    Family("LLaVA-OneVision", ("llava_onevision",), note="tiles; video tokens count as image"),
    Family("MiniCPM-OCR", ("minicpm_ocr",)),
    Family("MiniCPM-V 4.6, 4.7", ("minicpmv4_6", "minicpmv4_7")),
    Family("MiniMax-M3", ("minimax_m3_vl",), note=_NAMED),
    Family(
        "Mistral 4",
        ("mistral4",),
        refusal="it is a text model",
    ),
    Family("Mistral Large 4", ("mistral_large4",), note=_NAMED),
    Family(
        "Mistral Small, Ministral 3, Pixtral",
        ("mistral3",),
        note="row breaks between runs of image tokens",
    ),
    Family("Molmo 2", ("molmo2",)),
    Family("Muse Glimmer", ("muse_glimmer",)),
    Family("Muse Spark", ("muse_spark",), note="heads are normed and gated before they mix"),
    Family("Nemotron 3 Nano Omni", ("nemotron_h_omni",)),
    Family("Ovis 2", ("ovis2",), note="markers around an image are embedded by its encoder"),
    Family("PaddleOCR-VL", ("paddleocr_vl",)),
    Family(
        "PaliGemma, PaliGemma 2",
        ("paligemma",),
        first_position=1,
        answer_type=1,
        note="the prompt attends in both directions; positions count from 1",
    ),
    Family("PerceptionLM", ("perception_lm",)),
    Family("Pi0", ("pi0",), refusal="it makes actions, not text"),
    Family("Pix2Struct", ("pix2struct",), refusal=ENCODER_DECODER),
    Family("PP-Chart2Table", ("pp_chart2table",)),
    Family("PP-FormulaNet", ("pp_formulanet",), refusal=ENCODER_DECODER),
    Family("Qianfan-OCR", ("qianfan_ocr",)),
    Family("Qwen2-VL", ("qwen2_vl",), note="three-dimensional positions (M-RoPE)"),
    Family("Qwen2.5-Omni", ("qwen2_5_omni_thinker",)),
    Family("Qwen2.5-VL", ("qwen2_5_vl",), note="three-dimensional positions (M-RoPE)"),
    Family("Qwen3-Omni", ("qwen3_omni_moe_thinker",)),
    Family(
        "Qwen3-VL",
        ("qwen3_vl", "qwen3_vl_moe"),
        note="M-RoPE; image features also enter the first decoder layers",
    ),
    Family(
        "Qwen3.5, Qwen3.6", ("qwen3_5", "qwen3_5_moe"), note="linear-attention layers have no heads"
    ),
    Family("Qwen4-Exp", ("qwen4_exp",), note=f"no text-only stream; {_STREAMS}"),
    Family("ShieldGemma 2", ("shieldgemma2",)),
    Family("SmolVLM", ("smolvlm",), note="tiles with marker tokens"),
    Family("Step-3.7-Flash", ("step3p7",)),
    Family("T5Gemma 2", ("t5gemma2",), refusal=ENCODER_DECODER),
    Family("UDOP", ("udop",), refusal=ENCODER_DECODER),
    Family("Unlimited-OCR", ("unlimited_ocr",)),
    Family("Video-LLaVA", ("video_llava",)),
    Family("VideoLLaMA 3", ("video_llama_3",)),
    Family("VipLlava", ("vipllava",), note="features of several vision layers"),
    Family("VisionEncoderDecoder", ("vision-encoder-decoder",), refusal=ENCODER_DECODER),
)


def families() -> tuple[Family, ...]:
    """Every known family, by name."""
    return tuple(sorted(FAMILIES, key=lambda family: family.name.lower()))


def list_families() -> list[str]:
    """Names of the model families that can be attached to."""
    return [family.name for family in families() if not family.refusal]


def family_of(model_type: str) -> Family:
    """Return the family of a `config.model_type`; an unknown one gets the generic layout."""
    for family in families():
        if model_type in family.model_types:
            return family
    return Family(model_type, (model_type,), note="generic layout")
