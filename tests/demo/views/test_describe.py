from __future__ import annotations

from html import unescape

from vlmheads_demo.state import AppState, ModelRegistry
from vlmheads_demo.views.handlers import DescribeHandlers


def test_a_file_that_is_not_a_picture_gets_a_card(state):
    bad = state.uploads / "broken.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    image, scene, card = DescribeHandlers(state).accept_upload({"path": str(bad)}, "embedded")
    assert (image, scene) == (None, "")
    assert "broken.png" in card
    assert str(state.uploads) not in card


def test_a_loaded_model_is_added_to_both_tabs(state, models, tmp_path):
    guests = AppState(ModelRegistry(("embedded",), allow_others=True, device="cpu"), state.uploads)
    folder = str(models.get("embedded").captioner.model.name_or_path)
    describe, evaluate, note = DescribeHandlers(guests).load_model(folder, lambda share, desc: None)
    assert describe["value"] == folder
    assert folder in evaluate["choices"]
    assert "8 layers of 8 heads" in note
    *_, refused = DescribeHandlers(guests).load_model(str(tmp_path), lambda share, desc: None)
    assert "config.json" in refused
    assert str(tmp_path.parent) not in refused


def test_a_model_that_cannot_be_loaded_is_told_where_it_was_chosen(state):
    *_, card = DescribeHandlers(state).choose_model("embedded")
    assert card == ""
    *pickers, card = DescribeHandlers(state).choose_model("another")
    assert "'another' is not served here" in unescape(card)
    assert all("value" not in picker for picker in pickers)
