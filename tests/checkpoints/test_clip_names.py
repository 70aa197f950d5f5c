"""Names and shapes: the table equals the model, and every layout names each tensor once."""

from dataclasses import replace

import pytest
from parity import TINY, reference_for

from ms_unireid.checkpoints import clip_names as names
from ms_unireid.config import ModelConfig
from ms_unireid.config_schema import ARCHITECTURES
from ms_unireid.models.unireid import build_model


def our_shapes(config: ModelConfig, patches: int) -> dict[str, tuple[int, ...]]:
    return names.our_shapes(config.sizes, config.context_length, patches)


@pytest.mark.parametrize("config", [TINY, replace(TINY, architecture="small"), replace(TINY, stride=4)])
def test_the_table_is_the_models(config):
    model = {p.name: tuple(p.shape) for p in build_model(config).get_parameters()}
    assert our_shapes(config, model["base_model.visual.positional_embedding"][0] - 1) == model


def test_the_table_is_the_references():
    reference = {name: tuple(value.shape) for name, value in reference_for(TINY, 1).state_dict().items()}
    assert our_shapes(TINY, 8) == reference


def test_the_full_size_has_the_authors_count():
    shapes = our_shapes(ModelConfig(), 192)
    scalars = 0
    for shape in shapes.values():
        size = 1
        for side in shape:
            size *= side
        scalars += size
    assert (len(shapes), scalars) == (302, 149_617_665)


@pytest.mark.parametrize("recipe", [*names.LAYOUTS.values(), names.custom_text_recipe])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_layout_names_each_tensor_once(recipe, architecture):
    ours = names.our_shapes(ARCHITECTURES[architecture], 77, 1)
    targets = [source for name in ours for source in recipe(name).sources]
    assert len(targets) == len(set(targets)) >= len(ours)


def test_hugging_face_keeps_q_k_and_v_apart_and_in_order():
    found = names.huggingface_recipe("base_model.visual.transformer.resblocks.11.attn.in_proj_weight")
    attention = "vision_model.encoder.layers.11.self_attn"
    assert found.sources == tuple(f"{attention}.{part}_proj.weight" for part in "qkv") and not found.transposed
    assert names.huggingface_recipe("base_model.text_projection") == names.Recipe(("text_projection.weight",), True)
