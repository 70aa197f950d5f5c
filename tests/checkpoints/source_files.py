"""Real files of every kind of source, written by torch and safetensors from the reference model's random weights."""

import json
import math
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from parity import TINY, reference_for
from safetensors.torch import save_file

SQUARE = replace(TINY, image_size=(32, 32))
BUFFERS = ("input_resolution", "context_length", "vocab_size")
State = dict[str, torch.Tensor]


def clip_state(config=SQUARE, seed: int = 1, dtype=torch.float32) -> State:
    """Return a plain CLIP state dict; the logit scale is CLIP's ln 100."""
    state = {
        name.removeprefix("base_model."): value for name, value in reference_for(config, seed).state_dict().items()
    }
    state["logit_scale"] = torch.tensor(4.6052)
    return OrderedDict((name, value.detach().clone().to(dtype)) for name, value in state.items())


def huggingface_state(clip: State) -> State:
    """Rename as transformers' CLIPModel does, q, k and v apart, projections as linear layers."""
    state = OrderedDict()
    for name, value in clip.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        inner = name.removeprefix("visual.")
        if ".in_proj_" in inner:
            block, kind = inner.removeprefix("transformer.resblocks.").split(".attn.in_proj_")
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                state[f"{tower}.encoder.layers.{block}.self_attn.{part}_proj.{kind}"] = piece.clone()
        elif inner.startswith("transformer."):
            new = inner.replace("transformer.resblocks", "encoder.layers").replace(
                "attn.out_proj", "self_attn.out_proj"
            )
            new = new.replace("ln_", "layer_norm").replace("mlp.c_fc", "mlp.fc1").replace("mlp.c_proj", "mlp.fc2")
            state[f"{tower}.{new}"] = value
        elif inner in ("proj", "text_projection"):
            state["visual_projection.weight" if inner == "proj" else "text_projection.weight"] = value.T.contiguous()
        else:
            state[_huggingface_rest(name)] = value
    state["text_model.embeddings.position_ids"] = torch.arange(len(clip["positional_embedding"]))[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(len(clip["visual.positional_embedding"]))[None]
    return state


def _huggingface_rest(name: str) -> str:
    return {
        "logit_scale": "logit_scale",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "visual.ln_post.weight": "vision_model.post_layernorm.weight",
        "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    }[name]


def _module(tree: dict) -> torch.nn.Module:
    module = torch.nn.Module()
    for name, value in tree.items():
        if isinstance(value, dict):
            module.add_module(name, _module(value))
        elif name in BUFFERS:
            module.register_buffer(name, value)
        else:
            module.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
    return module


def save_archive(path: Path, clip: State) -> None:
    """Save a TorchScript archive of nested modules with OpenAI's extra buffers."""
    tree: dict = {}
    extra = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(12),
        "vocab_size": torch.tensor(49408),
    }
    for name, value in {**clip, **extra}.items():
        *folders, leaf = name.split(".")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = value
    torch.jit.save(torch.jit.script(_module(tree)), str(path))


def save_openai(path: Path, clip: State) -> None:
    torch.save(clip, path)


def save_legacy(path: Path, clip: State) -> None:
    torch.save(clip, path, _use_new_zipfile_serialization=False)


def save_safetensors(path: Path, clip: State) -> None:
    save_file(clip, str(path))


def save_huggingface(path: Path, clip: State) -> None:
    torch.save(huggingface_state(clip), path)


def save_huggingface_folder(path: Path, clip: State, activation: str = "quick_gelu") -> None:
    """Save a folder of two safetensors shards with their index and config.json."""
    path.mkdir()
    state = huggingface_state(clip)
    names = list(state)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: state[name] for name in part}, str(path / file), metadata={"format": "pt"})
    places = {name: file for file, part in shards.items() for name in part}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    text = {"hidden_act": activation}
    patch = clip["visual.conv1.weight"].shape[-1]
    side = patch * math.isqrt(len(clip["visual.positional_embedding"]) - 1)
    vision = {"image_size": side, "patch_size": patch, "hidden_act": activation}
    (path / "config.json").write_text(json.dumps({"text_config": text, "vision_config": vision}))


def save_open_clip(path: Path, clip: State) -> None:
    state = {f"module.{name}": value for name, value in clip.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, path)


def save_open_clip_custom_text(path: Path, clip: State) -> None:
    shared = lambda name: name == "logit_scale" or name.startswith("visual.")  # noqa: E731
    torch.save({name if shared(name) else f"text.{name}": value for name, value in clip.items()}, path)


def unireid_state(clip: State, prefix: str = "") -> State:
    state = {name if name == "logit_scale" else f"base_model.{name}": value for name, value in clip.items()}
    return OrderedDict((prefix + name, value) for name, value in state.items())


def save_unireid(path: Path, clip: State, prefix: str = "module.") -> None:
    """Save what the authors' code saves: model, a real optimizer's state after a step, scheduler and numbers."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], lr=1e-5, eps=1e-3)
    parameter.grad = torch.ones(3)
    optimizer.step()
    torch.save(
        {
            "model": unireid_state(clip, prefix),
            "optimizer": optimizer.state_dict(),
            "scheduler": {"milestones": (20, 50), "gamma": 0.1, "last_epoch": 7, "_step_count": 8, "mode": "cosine"},
            "num_epoch": 60,
            "iteration": 0,
            "epoch": 7,
        },
        path,
    )


def save_irra(path: Path, clip: State) -> None:
    state = unireid_state(clip)
    del state["logit_scale"]
    heads = {"classifier.weight": torch.ones(5, 32), "cross_attn.in_proj_weight": torch.ones(96, 32)}
    torch.save({"model": {**state, **heads}, "epoch": 59}, path)


# Kind, file name, and how it is written.
SOURCES = {
    "openai archive": ("openai_clip", "ViT.pt", save_archive),
    "openai state dict": ("openai_clip", "clip.pth", save_openai),
    "openai state dict, legacy format": ("openai_clip", "old.pth", save_legacy),
    "openai state dict, safetensors": ("openai_clip", "clip.safetensors", save_safetensors),
    "hugging face": ("huggingface_clip", "pytorch_model.bin", save_huggingface),
    "hugging face, sharded": ("huggingface_clip", "folder", save_huggingface_folder),
    "open_clip": ("open_clip", "epoch_3.pt", save_open_clip),
    "open_clip, separate text tower": ("open_clip", "open_clip_pytorch_model.bin", save_open_clip_custom_text),
    "unireid": ("unireid", "average_best.pth", save_unireid),
    "irra": ("irra", "best.pth", save_irra),
}


def as_arrays(state: State) -> dict[str, np.ndarray]:
    """Return float32 arrays of a state dict."""
    return {name: value.float().numpy() for name, value in state.items()}
