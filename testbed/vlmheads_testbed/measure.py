from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlmheads_testbed.captions import likely_absent, question
from vlmheads_testbed.categories import drawable, word_categories
from vlmheads_testbed.scenes import Scene, scene, stream


@dataclass(frozen=True)
class Figures:
    """Shares over a set of scenes, by the scenes' own words (the official ones come from CHAIR).

    ``again`` is the share of captions that name a category twice.
    """

    recall: float
    chair_i: float
    chair_s: float
    words: float
    again: float
    accuracy: float
    yes: float


def named(caption: str) -> list[str]:
    """Find the categories that a caption names, in its order, repeats included."""
    known = word_categories()
    tokens = re.findall(r"\w+", caption.lower())
    found, at = [], 0
    while at < len(tokens):
        pair = " ".join(tokens[at : at + 2])
        span, word = (2, pair) if pair in known else (1, tokens[at])
        if word in known:
            found.append(known[word])
        at += span
    return found


def messages(text: str) -> list[dict[str, object]]:
    """Build a user turn with one image and a text, in the form of transformers' chat templates."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def answers(
    model: Any,
    processor: Any,
    scenes: list[Scene],
    prompts: list[str],
    batch: int = 128,
) -> list[str]:
    """Return what the model says to each prompt, greedy, in batches padded on the left."""
    said: list[str] = []
    for at in range(0, len(scenes), batch):
        texts = [
            processor.apply_chat_template(messages(prompt), add_generation_prompt=True)
            for prompt in prompts[at : at + batch]
        ]
        images = [one.image for one in scenes[at : at + batch]]
        inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
        inputs = inputs.to(model.device)
        with torch.inference_mode():
            ids = model.generate(**inputs)
        new = ids[:, inputs["input_ids"].shape[1] :]
        said += processor.batch_decode(new, skip_special_tokens=True)
    return said


def questions(scenes: list[Scene], split: str, seed: int) -> list[tuple[Scene, str, bool]]:
    """Ask two questions a scene: an object of it and an absent one, every other one likely."""
    asked = []
    for index, one in enumerate(scenes):
        random = stream(split, seed, index, 2)
        present = str(random.choice(sorted(one.names)))
        others = [name for name in drawable() if name not in one.names]
        absent = likely_absent(one, random) if index % 2 else str(random.choice(others))
        asked += [(one, question(present), True), (one, question(absent), False)]
    return asked


def figures(
    model: Any,
    processor: Any,
    split: str,
    number: int,
    seed: int = 0,
    prompt: str = "Describe the image.",
) -> Figures:
    """Caption ``number`` scenes of a split, ask two questions about each, and count."""
    scenes = [scene(split, seed, index) for index in range(number)]
    captions = answers(model, processor, scenes, [prompt] * number)
    said = [named(caption) for caption in captions]
    wrong = [[name for name in names if name not in one.names]
             for names, one in zip(said, scenes, strict=True)]  # fmt: skip
    hit = sum(len(one.names & set(names)) for names, one in zip(said, scenes, strict=True))
    asked = questions(scenes, split, seed)
    replies = answers(model, processor, [a[0] for a in asked], [a[1] for a in asked])
    yes = np.asarray([reply.startswith("Yes") for reply in replies])
    return Figures(
        recall=hit / sum(len(one.names) for one in scenes),
        chair_i=sum(map(len, wrong)) / max(1, sum(map(len, said))),
        chair_s=float(np.mean([bool(names) for names in wrong])),
        words=float(np.mean([len(caption.split()) for caption in captions])),
        again=float(np.mean([len(names) > len(set(names)) for names in said])),
        accuracy=float(np.mean(yes == np.asarray([truth for _, _, truth in asked]))),
        yes=float(yes.mean()),
    )


def head_divergence(
    model: Any,
    processor: Any,
    split: str,
    number: int,
    seed: int = 0,
    prompt: str = "Describe the image.",
) -> torch.Tensor:
    """Measure the mean VHD ``[layers, heads]`` at the last prompt position (VHR, equation 4).

    The norm of what deleting the image's tokens from the prompt changes in each head's output.
    """
    scenes = [scene(split, seed, index) for index in range(number)]
    text = processor.apply_chat_template(messages(prompt), add_generation_prompt=True)
    pictures = [one.image for one in scenes]
    inputs = processor(images=pictures, text=[text] * number, return_tensors="pt")
    inputs = inputs.to(model.device)
    seen = _head_outputs(model, **inputs)
    bare = inputs["input_ids"][:1]
    bare = bare[bare != model.config.image_token_id][None]
    unseen = _head_outputs(model, input_ids=bare)
    divergence: torch.Tensor = (seen - unseen).norm(dim=-1).mean(1)
    return divergence


def specialisation(divergence: torch.Tensor) -> list[float]:
    """Return largest over median VHD of each layer."""
    return [float(row.max() / row.quantile(0.5)) for row in divergence]


def _head_outputs(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """Return each head's output before the output projection, last position: ``[L, B, H, D]``."""
    outputs: list[torch.Tensor] = []
    attentions = [layer.self_attn for layer in model.get_decoder().layers]
    handles = [
        attention.o_proj.register_forward_pre_hook(
            lambda module, args, size=attention.head_dim: outputs.append(
                args[0][:, -1].unflatten(-1, (-1, size))
            )
        )
        for attention in attentions
    ]
    try:
        with torch.inference_mode():
            model(**inputs, logits_to_keep=1)  # none are looked at, and a vocabulary is wide
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(outputs)
