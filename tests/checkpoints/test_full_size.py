"""The whole ViT-B/16: after a conversion its features are those that PyTorch computes from the original file."""

import pytest
import torch
from checkpoints.source_files import clip_state, save_archive, save_huggingface_folder, save_unireid

from ms_unireid.checkpoints.conversion import Options, convert
from ms_unireid.config import ModelConfig

pytestmark = pytest.mark.full_size


@pytest.mark.parametrize(
    ("save", "name", "image_size"),
    [
        (save_archive, "ViT-B-16.pt", (224, 224)),
        pytest.param(save_huggingface_folder, "folder", (224, 224), marks=pytest.mark.exhaustive),
        pytest.param(save_unireid, "x.pth", (384, 128), marks=pytest.mark.exhaustive),
    ],
)
def test_features_after_a_conversion(tmp_path, pynative, save, name, image_size):
    save(tmp_path / name, clip_state(ModelConfig(image_size=image_size), dtype=torch.float16))
    options = Options(image_size=(384, 128), source_image_size=image_size, verify=True)
    conversion = convert(tmp_path / name, tmp_path / "x.ckpt", options)
    assert conversion.config.model == ModelConfig() and len(conversion.source.entries) == 302
    found = conversion.verification
    assert max(found.image_difference, found.text_difference) < 1e-5
