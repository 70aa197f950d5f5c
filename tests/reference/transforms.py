"""The evaluation transform of photos and sketches by its definition: PIL resizes, torch does the arithmetic."""

import numpy as np
import torch
from PIL import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def evaluation_transform(picture: Image.Image, size: tuple[int, int] = (384, 128)) -> np.ndarray:
    """Resize, scale to [0, 1] and normalise with CLIP's statistics.

    Args:
        picture: Picture of any mode and size; converted to RGB (alpha dropped, palette expanded).
        size: (height, width) in pixels, reached exactly whatever the aspect.

    Returns:
        float32 (3, height, width).
    """
    height, width = size
    resized = picture.convert("RGB").resize((width, height), Image.BILINEAR)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).to(torch.float32) / 255
    mean, std = (torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1) for values in (MEAN, STD))
    return ((pixels - mean) / std).contiguous().numpy()
