from __future__ import annotations

import re
from typing import Any

from vlmheads_testbed.captions import caption_texts
from vlmheads_testbed.categories import nouns
from vlmheads_testbed.questions import question_texts
from vlmheads_testbed.scenes import PATCH, SIZE

PAD, BEGIN, END, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL = (PAD, BEGIN, END, UNKNOWN, IMAGE)
#: Endings of regular plurals: tokens of their own, so that "dogs" begins with the token of "dog".
PLURALS = ("s", "es")

#: "<s>USER: <image>\\n... ASSISTANT: ... </s>", the wording of LLaVA-1.5; content is a text or
#: parts. The template writes the begin token, the tokenizer does not: there is one in all servers.
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{ ' ASSISTANT: ' }}"
    "{%- else -%}{{ ('' if loop.first else ' ') + message['role'] | upper + ': ' }}{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\\n' }}"
    "{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{{ '</s>' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ ' ASSISTANT:' }}{%- endif -%}"
)


def build_tokenizer() -> Any:
    """Build a tokenizer of whole words of the scenes; any other word becomes ``<unk>``.

    A word carries the space before it, so that decoding joins punctuation to the word it follows.
    A thing is one token, "hot dog" too, and a regular plural that token and its ending.
    Padding is on the left, as generation wants it.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
    )
    from transformers import PreTrainedTokenizerFast

    pattern = _pattern()
    words = sorted(
        {token for text in _texts() for token in re.findall(pattern, _marked(text))}
        | {_marked(noun) for noun in _things()}
        | set(PLURALS)
    )
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Prepend("▁"),
            normalizers.Replace(" ", "▁"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # The spaces around a special token belong to it, else they would count as unknown words.
    tokenizer.add_special_tokens(
        [AddedToken(token, lstrip=True, rstrip=True, special=True) for token in SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> Any:
    """Build the LLaVA processor of the embedded model: 112-pixel squares, 64 image tokens."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" drops again
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )


def noun_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that stand for things."""
    return sorted(tokenizer.convert_tokens_to_ids([_marked(noun) for noun in _things()]))


def _things() -> set[str]:
    """Singulars, and plurals that are no singular with an ending."""
    return {
        word
        for one, many in nouns()
        for word in (one, many)
        if word == one or word not in {one + ending for ending in PLURALS}
    }


def _pattern() -> str:
    """Return a regular expression of tokens: things, endings, punctuation, and any other words."""
    things = "|".join(sorted(map(re.escape, map(_marked, _things())), key=len, reverse=True))
    endings = "|".join(sorted(PLURALS, key=len, reverse=True))
    stop = "(?=[▁.,:?]|$)"
    return rf"(?:{things})(?=(?:{endings})?(?:[▁.,:?]|$))|(?:{endings}){stop}|[.,:?]|▁?[^▁.,:?]+|▁"


def _marked(text: str) -> str:
    return "▁" + "▁".join(text.split())


def _texts() -> list[str]:
    return [*caption_texts(), *question_texts()]
