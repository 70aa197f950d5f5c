"""Small files that PyTorch and safetensors wrote, and helpers to inspect and change them."""

import io
import zipfile

import numpy as np
import safetensors.torch
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("resolution", torch.tensor(224))
        self.sizes = [1, 2]

    def forward(self, x):
        return self.fc(x) * self.resolution


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Block(), Block()
        self.scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, x):
        return self.first(x).sum() + self.second(x).sum() * self.scale


def script() -> torch.jit.ScriptModule:
    """Return a half-precision TorchScript module with buffers."""
    torch.manual_seed(0)
    return torch.jit.script(Net().half())


def state() -> dict:
    """Return a training state: weights, optimizer moments, numbers and strings."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 3)).backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 7, "name": "run", "best": 0.5}


def zip_bytes(value) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def legacy_bytes(value) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def script_bytes() -> bytes:
    file = io.BytesIO()
    torch.jit.save(script(), file)
    return file.getvalue()


def safetensors_bytes() -> bytes:
    return safetensors.torch.save({name: value.clone() for name, value in Net().state_dict().items()}, {"format": "pt"})


CONTAINERS = {
    "zip": lambda: zip_bytes(state()),
    "legacy": lambda: legacy_bytes(state()),
    "script": script_bytes,
    "safetensors": safetensors_bytes,
}


def records(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of records, with right checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file.getvalue()


def with_pickle(content: bytes, pickled: bytes) -> bytes:
    """Return a PyTorch archive whose description is another one."""
    return archive_of({name: pickled if name.endswith("data.pkl") else data for name, data in records(content).items()})


def bits(tensor: torch.Tensor) -> bytes:
    """Return a tensor's elements in order, as bytes."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def is_mapped(array: np.ndarray) -> bool:
    """Tell whether an array's memory is that of a mapped file."""
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None
