"""Run by the tests in a separate process: a random CLIP of Hugging Face, run by MindNLP.

python make_clip.py FOLDER, with FOLDER/config.json and FOLDER/inputs.npz at hand; adds model.safetensors and
features.npz.
"""

import sys
from pathlib import Path

import mindnlp  # noqa: F401 - takes PyTorch's place, so it comes first
import mindtorch
import numpy as np
from safetensors.numpy import save_file
from transformers import CLIPConfig, CLIPModel


def random_weights(model: CLIPModel) -> dict[str, np.ndarray]:
    """Draw weights that keep the features near one: none of them zero, one or shared."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, value in model.state_dict().items():
        shape = tuple(value.shape)
        drawn = rng.standard_normal(shape) / np.sqrt(shape[-1] if len(shape) > 1 else 100)
        if "norm" in name and name.endswith("weight"):
            drawn += 1
        weights[name] = np.asarray(drawn, np.float32)
    return weights


def main(folder: Path) -> None:
    model = CLIPModel(CLIPConfig.from_pretrained(folder))
    save_file(random_weights(model), folder / "model.safetensors", {"format": "pt"})
    model = CLIPModel.from_pretrained(folder)
    inputs = np.load(folder / "inputs.npz")
    images = model.get_image_features(pixel_values=mindtorch.from_numpy(inputs["images"]))
    text = model.get_text_features(input_ids=mindtorch.from_numpy(inputs["token_ids"]))
    np.savez(folder / "features.npz", images=images.detach().numpy(), text=text.detach().numpy())


main(Path(sys.argv[1]))
