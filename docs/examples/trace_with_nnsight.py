"""Look into a model with nnsight while a plugin is attached to it."""

from nnsight import NNsight
from vlmheads_testbed.scenes import scene

from vlmheads import Captioner, attach

captioner = Captioner.from_pretrained("embedded", ())
model = captioner.model
inputs = captioner.prepare([scene("counterfactual", 0, 0).image])
traced = NNsight(model)

# vhr compares with a pass over the text alone, which is the first; the second is the model's.
with attach(model, "vhr:alpha=4"), traced.trace(**inputs) as tracer:
    for _ in tracer.iter[1]:
        heads = traced.model.language_model.layers[5].self_attn.o_proj.input.save()
    output = tracer.result.save()
assert heads.shape == (1, 73, 256)  # [B, S, H * D], with the gains of vhr in them
assert output.logits.shape == (1, 73, 278)
