"""A vision encoder for families whose own is timm's, which is not among the test packages."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class StandInConfig(PreTrainedConfig):
    """Pictures of 16 pixels, patches of 8; `channels_first` gives [B, E, H, W], as timm does."""

    model_type = "stand_in_vision"

    def __init__(self, channels_first: bool = True, cls_token: bool = False, **kwargs: Any) -> None:
        self.channels_first, self.cls_token = channels_first, cls_token
        self.hidden_size, self.image_size = 16, 16
        self.vocab_size, self.vocab_offset, self.rms_norm_eps = 2, 94, 1e-6
        self.model_args = {"embed_dim": 16, "img_size": [16, 16]}
        super().__init__(**kwargs)


class StandIn(PreTrainedModel):
    """A convolution."""

    config_class = StandInConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: StandInConfig) -> None:
        super().__init__(config)
        self.embed = torch.nn.Conv2d(3, 16, 8, 8)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        found = self.embed(pixel_values).tanh()
        if not self.config.channels_first:
            found = found.flatten(2).transpose(1, 2)
            if self.config.cls_token:
                found = torch.cat([found.mean(dim=1, keepdim=True), found], dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=found, hidden_states=(found, found))


AutoConfig.register("stand_in_vision", StandInConfig)
AutoModel.register(StandInConfig, StandIn)
