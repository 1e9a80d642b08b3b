from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def processor() -> Any:
    from vlmheads_testbed.processing import build_processor

    return build_processor()


@pytest.fixture(scope="session")
def embedded() -> tuple[Any, Any]:
    """The packaged model and its processor, loaded the way that a user loads them."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from vlmheads_testbed import embedded_model

    folder = embedded_model()
    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    return model.eval(), AutoProcessor.from_pretrained(folder, local_files_only=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a small dataset and return its folder."""
    from vlmheads_testbed.coco import write_dataset

    def write(split: str = "test", number: int = 3, seed: int = 0, name: str = "data") -> Path:
        write_dataset(tmp_path / name, split, number, seed)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    """A small byte-pair tokenizer with ChatML's tokens and the image token, made on the spot."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    from vlmheads_testbed.scenes import scene, stream
    from vlmheads_testbed.smol.batches import conversations

    texts = []
    for index in range(150):
        turns = conversations(scene("train", 7, index), stream("train", 7, index, 1))
        texts += [f"{turn.prompt}\n{turn.answer}" for turn in turns]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    made.add_tokens(["<image>"], special_tokens=True)
    return made


@pytest.fixture
def tiny_decoder(chat_tokenizer: Any) -> Callable[[], Any]:
    """Make a stand-in for SmolLM2: the same parts and grouped heads, two narrow layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make() -> Any:
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=len(chat_tokenizer) - 1,  # without the image token, as in the base
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
        return LlamaForCausalLM(config)

    return make


@pytest.fixture
def tiny_tower() -> Callable[[], Any]:
    """Make a small vision tower for pictures of the scenes' size."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    def make() -> Any:
        torch.manual_seed(4)
        config = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=112,
            patch_size=14,
        )
        return CLIPVisionModel(config).requires_grad_(False).eval()

    return make
