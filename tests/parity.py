"""Helpers to compare our cells with the PyTorch reference: same weights, same batches, differences."""

from collections.abc import Iterable, Mapping

import mindspore as ms
import numpy as np
import torch
from mindspore import Parameter, Tensor, nn

from ms_unireid.config import ModelConfig, ObjectiveConfig
from ms_unireid.config_schema import Architecture, TowerSize
from reference import model as reference_model

# Beside MindSpore's threads torch's second one waits more than it works: tiny steps take a hundred times longer.
torch.set_num_threads(1)

TINY = ModelConfig(architecture="tiny", image_size=(32, 16), context_length=12)
FULL_SIZE = ModelConfig()
# With three of its twelve blocks: the first, the last, and one between.
FULL_WIDTH = ModelConfig(architecture=Architecture(TowerSize(768, 3, 12), TowerSize(512, 3, 8), 16, 512))

# Of the towers' operations, `runtime.fused_ops`.
FORMS = ("plain", "fast")

# Rows of Table 2 (and the baseline without fusion) under the reference's names.
ROWS = {
    "T": ObjectiveConfig(tasks=("text",), dynamic=False, interaction_weight=0),
    "S": ObjectiveConfig(tasks=("sketch",), dynamic=False, interaction_weight=0),
    "F": ObjectiveConfig(tasks=("fusion",), dynamic=False, interaction_weight=0),
    "Ls": ObjectiveConfig(dynamic=False, interaction_weight=0),
    "Dyn": ObjectiveConfig(interaction_weight=0),
    "Full": ObjectiveConfig(),
    "TS_nofusion": ObjectiveConfig(tasks=("text", "sketch"), dynamic=False, interaction_weight=0),
    "Ls_plus_Lc": ObjectiveConfig(dynamic=False),
}


def reference_sizes(config: ModelConfig) -> dict:
    """Return the reference's constructor arguments for one of our configs."""
    size = config.sizes
    return {
        "vision_width": size.vision.width,
        "vision_layers": size.vision.layers,
        "vision_heads": size.vision.heads,
        "patch_size": size.patch_size,
        "stride": size.patch_size if config.stride is None else config.stride,
        "image_size": config.image_size,
        "text_width": size.text.width,
        "text_layers": size.text.layers,
        "text_heads": size.text.heads,
        "context_length": config.context_length,
        "vocab_size": 49408,
        "embed_dim": size.embed_dim,
        "temperature": config.temperature,
    }


def reference_for(config: ModelConfig, seed: int) -> reference_model.UNIReID:
    """Build the reference of a config with random weights, none of them zero, one or shared."""
    return reference_model.random_model(seed, **reference_sizes(config))


def numpy_batch(config: ModelConfig, seed: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw photos, sketches (B, 3, H, W) float32 and token ids (B, L) int32 that suit a config."""
    images, sketches, token_ids = reference_model.random_batch(seed, batch, **reference_sizes(config))
    return images.numpy(), sketches.numpy(), token_ids.numpy().astype(np.int32)


def to_torch(arrays: Iterable[np.ndarray]) -> list[torch.Tensor]:
    """Turn a batch into torch tensors, indices as int64."""
    return [torch.from_numpy(a.astype(np.int64) if a.dtype == np.int32 else a.copy()) for a in arrays]


def to_ms(arrays: Iterable[np.ndarray]) -> list[Tensor]:
    """Turn arrays into MindSpore tensors."""
    return [Tensor(a.copy()) for a in arrays]


def parameters(net: nn.Cell | torch.nn.Module | Iterable[Parameter]) -> dict[str, np.ndarray]:
    """Copy the parameters of a cell, a module or a list of MindSpore parameters by name."""
    if isinstance(net, torch.nn.Module):
        return {name: value.detach().numpy().copy() for name, value in net.named_parameters()}
    return {p.name: p.asnumpy().copy() for p in (net.get_parameters() if isinstance(net, nn.Cell) else net)}


def load_values(net: nn.Cell, values: Mapping[str, np.ndarray]) -> None:
    """Overwrite all parameters of a cell; names and shapes must agree exactly."""
    own = {p.name: p for p in net.get_parameters()}
    assert own.keys() == values.keys(), own.keys() ^ values.keys()
    for name, parameter in own.items():
        assert tuple(parameter.shape) == values[name].shape, name
        parameter.set_data(Tensor(values[name].copy(), ms.float32))


def copy_weights(source: torch.nn.Module, target: nn.Cell) -> None:
    """Copy the reference's whole state into our cell; names and shapes must agree exactly."""
    load_values(target, {name: value.detach().numpy() for name, value in source.state_dict().items()})


def max_difference(ours: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
    """Return the largest absolute difference over all arrays; the names must agree."""
    assert ours.keys() == reference.keys(), ours.keys() ^ reference.keys()
    return max(float(np.abs(ours[name] - reference[name]).max()) for name in reference)


def gradient_difference(ours: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """Return the worst tensor's max|difference| / max|reference|, and its name.

    A tensor whose true gradient vanishes holds rounding noise only, so no tensor is measured against less than a
    millionth of the largest gradient.
    """
    assert ours.keys() == reference.keys(), ours.keys() ^ reference.keys()
    floor = 1e-6 * max(np.abs(g).max() for g in reference.values())
    return max(
        (float(np.abs(ours[name] - g).max() / max(np.abs(g).max(), floor)), name) for name, g in reference.items()
    )
