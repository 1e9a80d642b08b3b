"""What a processor would make of images, one function a layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# (config, one seed an image) -> inputs of the model.
Images = Callable[[Any, list[int]], dict[str, Any]]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(config: Any, seeds: list[int]) -> dict[str, Any]:
    """One square picture an image, of the size that the vision config names."""
    size = getattr(config.vision_config, "image_size", 16)
    side = size[0] if isinstance(size, list | tuple) else size
    return {"pixel_values": torch.stack([noise(3, side, side, seed=seed) for seed in seeds])}


def square(side: int) -> Images:
    """Pictures of a size that the config does not name."""

    def make(config: Any, seeds: list[int]) -> dict[str, Any]:
        return {"pixel_values": torch.stack([noise(3, side, side, seed=seed) for seed in seeds])}

    return make


def stacked(config: Any, seeds: list[int]) -> dict[str, Any]:
    """One tile an image, in a row of tiles."""
    pixels = torch.stack([noise(1, 3, 16, 16, seed=seed) for seed in seeds])
    return {"pixel_values": pixels}


def tiles(config: Any, seeds: list[int]) -> dict[str, Any]:
    """An overview and two tiles an image."""
    pixels = torch.stack([noise(3, 3, 16, 16, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[16, 30]] * len(seeds))}


def grid(config: Any, seeds: list[int]) -> dict[str, Any]:
    """Flat patches of all images, and how many there are in time, height and width."""
    vision = config.vision_config
    depth = 3 * getattr(vision, "temporal_patch_size", 1) * vision.patch_size**2
    pixels = torch.cat([noise(16, depth, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]] * len(seeds))}


def patches(config: Any, seeds: list[int]) -> dict[str, Any]:
    """As `grid`, where a patch stands as a small picture."""
    vision = config.vision_config
    side = vision.patch_size
    pixels = torch.cat([noise(16, 3, side, side, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]] * len(seeds))}


def listed(config: Any, seeds: list[int]) -> dict[str, Any]:
    """One picture in a list of pictures of a row, with the mask of its pixels."""
    pixels = torch.stack([noise(1, 3, 32, 32, seed=seed) for seed in seeds])
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": torch.ones(len(seeds), 1, 32, 32).bool(),
    }


def sized(config: Any, seeds: list[int]) -> dict[str, Any]:
    """One picture an image, and its height and width."""
    pixels = torch.stack([noise(3, 32, 32, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[32, 32]] * len(seeds))}


def shapes(config: Any, seeds: list[int]) -> dict[str, Any]:
    """Flat patches image by image, their grid, and which of them are real."""
    pixels = torch.stack([noise(16, 3 * config.vision_config.patch_size**2, seed=s) for s in seeds])
    return {
        "pixel_values": pixels,
        "spatial_shapes": torch.tensor([[4, 4]] * len(seeds)),
        "pixel_attention_mask": torch.ones(len(seeds), 16).long(),
    }


def targets(config: Any, seeds: list[int]) -> dict[str, Any]:
    """A strip of patches of all images, and the grid of each."""
    side = config.vision_config.patch_size
    strip = torch.cat([noise(3, side, 16 * side, seed=seed) for seed in seeds], dim=-1)
    return {"pixel_values": strip[None], "target_sizes": torch.tensor([[4, 4]] * len(seeds))}


def local(config: Any, seeds: list[int]) -> dict[str, Any]:
    """An overview an image and one tile of it, apart."""
    vision = getattr(config.vision_config, "sam_config", config.vision_config)
    side = vision.image_size
    pixels = torch.stack([noise(3, side, side, seed=seed) for seed in seeds])
    parts = torch.stack([noise(3, side, side, seed=seed + 500) for seed in seeds])
    return {
        "pixel_values": pixels,
        "pixel_values_local": parts,
        "num_local_patches": [1] * len(seeds),
    }


def two_sizes(config: Any, seeds: list[int]) -> dict[str, Any]:
    """One picture an image at two resolutions."""
    side = config.high_res_vision_config.image_size
    return plain(config, seeds) | {
        "high_res_pixel_values": torch.stack([noise(3, side, side, seed=s + 500) for s in seeds])
    }


def positions(config: Any, seeds: list[int]) -> dict[str, Any]:
    """Flat patches image by image, and the column and row of each."""
    vision = config.vision_config
    cells = torch.stack([torch.arange(16) % 4, torch.arange(16) // 4], dim=-1)
    pixels = torch.stack([noise(16, 3 * vision.patch_size**2, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_position_ids": cells.repeat(len(seeds), 1, 1)}


def small(config: Any, seeds: list[int]) -> dict[str, Any]:
    """Pictures of 8 pixels a side, and their height and width."""
    pixels = torch.stack([noise(3, 8, 8, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[8, 8]] * len(seeds))}


def asked(config: Any, seeds: list[int]) -> dict[str, Any]:
    """One picture an image, and the question that the Q-Former reads."""
    return plain(config, seeds) | {"qformer_input_ids": torch.tensor([[5, 6, 7]] * len(seeds))}


def asked_video(config: Any, seeds: list[int]) -> dict[str, Any]:
    """Two frames an image, and the question that the Q-Former reads."""
    side = config.vision_config.image_size
    frames = torch.stack([noise(2, 3, side, side, seed=seed) for seed in seeds])
    return asked(config, seeds) | {"pixel_values": frames}


def flat(config: Any, seeds: list[int]) -> dict[str, Any]:
    """Four flat patches an image."""
    depth = 3 * config.patch_size**2
    return {"pixel_values": torch.stack([noise(4, depth, seed=seed) for seed in seeds])}


def pooled(config: Any, seeds: list[int]) -> dict[str, Any]:
    """Four patches an image, of which each token is one."""
    pixels = torch.cat([noise(1, 4, 3 * config.vision_config.patch_size**2, seed=s) for s in seeds])
    return {
        "pixel_values": pixels,
        "image_token_pooling": torch.arange(4 * len(seeds))[:, None],
        "image_grids": torch.tensor([[0, 0, 2, 2]] * len(seeds)),
        "image_num_crops": torch.tensor([1] * len(seeds)),
    }


def grid_hw(config: Any, seeds: list[int]) -> dict[str, Any]:
    """Flat patches of all images, and how many there are in height and width."""
    depth = 3 * config.vision_config.patch_size**2
    pixels = torch.cat([noise(16, depth, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_grid_hw": torch.tensor([[4, 4]] * len(seeds))}


def tile_list(config: Any, seeds: list[int]) -> dict[str, Any]:
    """One tile in a list of tiles of a row, and which of them are real."""
    side = config.vision_config.image_size
    pixels = torch.stack([noise(1, 3, side, side, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "pixel_attention_mask": torch.ones(len(seeds), 1).bool()}


def two_frames(config: Any, seeds: list[int]) -> dict[str, Any]:
    """As `grid`, with two frames in a patch."""
    depth = 3 * config.vision_config.patch_temporal * config.vision_config.patch_size**2
    pixels = torch.cat([noise(16, depth, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]] * len(seeds))}


def merged(config: Any, seeds: list[int]) -> dict[str, Any]:
    """As `grid`, where the inputs say how many patches are merged."""
    return grid(config, seeds) | {"image_merge_sizes": torch.tensor([2] * len(seeds))}


def merged_positions(config: Any, seeds: list[int]) -> dict[str, Any]:
    """As `positions`, of patches that were merged before."""
    cells = torch.stack([torch.arange(4) % 2, torch.arange(4) // 2], dim=-1)
    side = config.vision_config.model_patch_size
    pixels = torch.stack([noise(4, 3 * side**2, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_position_ids": cells.repeat(len(seeds), 1, 1)}


def blocks(config: Any, seeds: list[int]) -> dict[str, Any]:
    """Four merged patches an image, colour last."""
    side = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    pixels = torch.cat([noise(4, side, side, 3, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 2, 2]] * len(seeds))}


def pairs(config: Any, seeds: list[int]) -> dict[str, Any]:
    """Four patches an image, each of two frames."""
    vision = config.vision_config
    shape = (4, vision.temporal_patch_size, vision.patch_size, vision.patch_size, 3)
    return {"pixel_values": torch.cat([noise(*shape, seed=seed) for seed in seeds])}


def local_grid(config: Any, seeds: list[int]) -> dict[str, Any]:
    """As `local`, with the columns and rows of the tiles."""
    return local(config, seeds) | {"patches_grid": [[1, 1]] * len(seeds)}


def image_pixels(config: Any, seeds: list[int]) -> dict[str, Any]:
    """As `plain`, under the name that tells images from videos."""
    return {"pixel_values_images": plain(config, seeds)["pixel_values"]}
