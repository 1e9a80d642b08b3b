"""Is a family of models that vlmheads has not met served as it is? A tiny random model answers."""

import torch
from transformers import AutoModelForImageTextToText, AyaVisionConfig

import vlmheads

IMAGE = 60


def tiny_model():
    """Build a model of the family from a config alone: 2 layers, 4 heads, random weights."""
    text = {"model_type": "cohere2", "hidden_size": 32, "intermediate_size": 48, "vocab_size": 64}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24}
    vision |= {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = AyaVisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
    )
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config).eval()


def prompt():
    """Return two words, an image of 4 x 4 patches joined to 2 x 2 tokens, and three words."""
    ids = torch.tensor([[5, 6, IMAGE, IMAGE, IMAGE, IMAGE, 7, 8, 9]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    }


@torch.no_grad()
def check(model, inputs):
    """Hold the model to the two promises that matter most, and return how far VHR moves it."""
    plain = model(**inputs).logits
    with vlmheads.attach(model, "vhr:alpha=1.0"):  # a neutral plugin changes no bit
        assert torch.equal(model(**inputs).logits, plain)
    with vlmheads.attach(model, "vhr:alpha=2.0"):
        moved = model(**inputs).logits
    assert torch.equal(model(**inputs).logits, plain)  # and nothing is left behind
    return float((moved - plain).abs().max())
