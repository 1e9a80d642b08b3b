import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from vlmheads_eval.commands.evaluate import evaluate
from vlmheads_eval.predict.model import load_generator

from vlmheads.errors import VlmHeadsError


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small random LLaVA with the processor of the embedded model, as a saved folder."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava
    from vlmheads_testbed.processing import IMAGE, PATCH, build_processor
    from vlmheads_testbed.scenes import SIZE

    processor = build_processor()
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(SIZE // PATCH) ** 2,
    )
    network = Llava(config)
    # Sharp, so that what is said depends on the picture.
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(8)
    folder = tmp_path_factory.mktemp("model")
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def predict(model, tmp_path):
    def run(name, *options):
        result = CliRunner().invoke(
            evaluate,
            [
                *("predict", "--model", str(model), "--out", str(tmp_path / name)),
                *("--num", "6", "--max-new-tokens", "9", *map(str, options)),
            ],
        )
        assert result.exit_code == 0, result.output
        return (tmp_path / name / "predictions.jsonl").read_text("utf-8")

    return run


def texts(predictions):
    return [json.loads(line)["caption"] for line in predictions.splitlines()]


def test_greedy_answers_do_not_depend_on_the_batch_size(predict):
    assert predict("one", "--batch-size", 1) == predict("four", "--batch-size", 4)


def test_answers_depend_on_the_picture_unless_it_is_left_out(predict):
    assert len(set(texts(predict("seen")))) > 1
    assert len(set(texts(predict("unseen", "--control", "text-only")))) == 1


def test_random_heads_are_drawn_by_their_seed_as_many_a_layer(model):
    def gains(seed):
        generator = load_generator(
            str(model), ["vhr"], 4, control="random-heads", control_seed=seed
        )
        [plugin] = generator.captioner.plugins
        values = plugin.head_map.mean()
        return (values > values.median(dim=-1, keepdim=True).values).int().tolist()

    assert gains(0) == gains(0) != gains(1)
    assert {sum(layer) for layer in gains(0)} == {2}


def test_random_heads_change_what_is_said(predict):
    plugin = ("--plugin", "vhr:alpha=10")
    assert predict("plain") != predict("random", *plugin, "--control", "random-heads")


def test_random_heads_of_a_plugin_that_chooses_none_are_refused(model):
    with pytest.raises(VlmHeadsError, match="random heads for no plugin"):
        load_generator(str(model), [], 4, control="random-heads")


def test_a_run_knows_its_ground_truth_and_can_be_moved(predict, tmp_path):
    predict("run")
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    result = CliRunner().invoke(evaluate, ["score", "chair", str(moved)])
    assert result.exit_code == 0, result.output
    assert "6 captions" in result.output


def test_questions_of_a_batch_are_asked_each_of_its_picture(predict):
    lines = predict("pope", "--task", "pope", "--num", 40, "--batch-size", 7).splitlines()
    assert {json.loads(line)["split"] for line in lines} == {"random", "popular", "adversarial"}


def test_a_sweep_predicts_compares_and_reports_and_goes_on(model, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"models: ['{model}']\nnum: 5\nmax_new_tokens: 6\nruns:\n"
        "  - name: plain\n  - {name: blind, control: text-only}\n"
    )
    arguments = ["run", str(spec), "--out", str(tmp_path / "out")]
    first = CliRunner().invoke(evaluate, arguments)
    assert first.exit_code == 0, first.output
    home = tmp_path / "out" / model.name / "caption"
    assert (home / "report-pattern" / "report.html").is_file()
    before = (home / "plain" / "predictions.jsonl").stat().st_mtime_ns
    assert CliRunner().invoke(evaluate, arguments).exit_code == 0
    assert (home / "plain" / "predictions.jsonl").stat().st_mtime_ns == before


@pytest.fixture
def embedded():
    from vlmheads_testbed import embedded_model

    try:
        return embedded_model()
    except VlmHeadsError as error:
        pytest.skip(f"the embedded model is not packaged: {error}")


def test_the_embedded_model_says_the_same_in_any_batch_and_on_two_processes(embedded, tmp_path):
    common = ["predict", "--num", "10", "--max-new-tokens", "60"]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    launch += ["--main_process_port=0", "-m", "vlmheads_eval", *common]
    arguments = {
        "one": ["-m", "vlmheads_eval", *common, "--batch-size", "1"],
        "seven": ["-m", "vlmheads_eval", *common, "--batch-size", "7"],
        "two": launch,
    }
    found = []
    for name, options in arguments.items():
        out = tmp_path / name
        command = [sys.executable, *options, "--out", str(out)]
        finished = subprocess.run(command, capture_output=True, timeout=240, check=False)
        assert finished.returncode == 0, finished.stderr.decode()[-2000:]
        found.append((out / "predictions.jsonl").read_bytes())
    assert found[0] == found[1] == found[2]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from vlmheads_testbed.coco import write_dataset

    from vlmheads.images import read_image

    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, "test", 4)
    return [read_image(path) for path in sorted((folder / "images").iterdir())]


def answers(pictures, limit, model="embedded"):
    generator = load_generator(model, [], limit)
    return generator(pictures, ["Describe the image."] * len(pictures))


def test_answers_that_end_by_themselves_are_not_at_the_limit(embedded, pictures):
    found = answers(pictures, 200)
    assert not any(answer.at_limit for answer in found)
    assert len({answer.tokens for answer in found}) > 1
    assert all(answer.tokens < 200 and answer.text.endswith(".") for answer in found)


def test_only_the_answers_of_a_batch_that_the_token_limit_ends_are_at_it(embedded, pictures):
    lengths = [answer.tokens for answer in answers(pictures, 200)]
    # The longest answer still lacks its end token here, so the limit ends it.
    limit = max(lengths)
    found = answers(pictures, limit)
    assert [answer.at_limit for answer in found] == [length >= limit for length in lengths]
    assert [answer.tokens for answer in found] == lengths
    assert len({answer.at_limit for answer in found}) == 2


def test_an_answer_that_a_time_limit_ends_is_not_at_the_token_limit(embedded, pictures):
    generator = load_generator("embedded", [], 30)
    generator.captioner.model.generation_config.max_time = 1e-9
    found = generator(pictures, ["Describe the image."] * len(pictures))
    assert [(answer.tokens, answer.at_limit) for answer in found] == [(1, False)] * len(pictures)


def test_a_recorded_prediction_says_what_ended_it(embedded, tmp_path):
    for limit, ended in ((5, True), (200, False)):
        out = tmp_path / str(limit)
        options = ["predict", "--num", "2", "--max-new-tokens", str(limit), "--out", str(out)]
        assert CliRunner().invoke(evaluate, options).exit_code == 0
        lines = (out / "predictions.jsonl").read_text("utf-8").splitlines()
        assert [json.loads(line)["at_limit"] for line in lines] == [ended] * 2
