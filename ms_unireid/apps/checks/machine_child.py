"""The part of the doctor that runs in a child process, since a broken installation may kill it: devices, a few steps.

python -m ms_unireid.apps.checks.machine_child devices
python -m ms_unireid.apps.checks.machine_child steps CPU 0 fp32
"""

import contextlib
import json
import sys
from typing import Any

RESULT = "doctor: "
DEVICES = ("Ascend", "GPU", "CPU")
_STEPS, _PAIRS, _RATE = 4, 4, 1e-3


def devices() -> dict[str, int]:
    """Return the number of devices of each kind that MindSpore can use."""
    import mindspore as ms

    kinds = {name: getattr(ms.device_context, name.lower()) for name in DEVICES}
    return {name: kind.device_count() if kind.is_available() else 0 for name, kind in kinds.items()}


def steps(device: str, device_id: int, precision: str) -> dict[str, Any]:
    """Encode a batch, then take a few steps on it with a tiny model of fixed weights.

    Returns:
        `features`, the root mean square of the photos' features before training; `losses` of the steps; `memory` of an
        accelerator in bytes, None if not known.

    Raises:
        EnvironmentProblem: If packages or device cannot be used, or the device hides overflows from mixed precision.
    """
    from ms_unireid.config import Config, ModelConfig, RuntimeConfig, TrainConfig
    from ms_unireid.errors import EnvironmentProblem
    from ms_unireid.runtime import prepare

    runtime = RuntimeConfig(device=device, device_id=device_id, precision=precision, initial_loss_scale=1024.0)
    prepare(runtime)
    import numpy as np
    from mindspore import Tensor

    from ms_unireid.models.unireid import build_model
    from ms_unireid.training.train_step import TrainOneStepCell

    config = Config(
        model=ModelConfig(architecture="tiny", image_size=(32, 16), context_length=12),
        train=TrainConfig(eps=1e-8),
        runtime=runtime,
    )
    overflow = (Tensor(np.full(1, 6e4, np.float16)) * 2).asnumpy()
    if precision == "mixed" and not np.isinf(overflow).all():
        raise EnvironmentProblem(
            f"{overflow[0]} instead of infinity where float16 overflows; set runtime.precision=fp32"
        )
    rng = np.random.default_rng(7)
    photos, sketches = rng.standard_normal((2, _PAIRS, 3, *config.model.image_size)).astype(np.float32)
    captions = rng.integers(1, 49406, (_PAIRS, config.model.context_length)).astype(np.int32)
    captions[:, -1] = 49407
    model = build_model(config.model, runtime=runtime)
    step = TrainOneStepCell(model, config)
    features = model.encode_image(Tensor(photos)).asnumpy()
    step.set_train()
    losses = [float(step(photos, sketches, captions, _RATE).loss) for _ in range(_STEPS)]
    return {"features": float(np.sqrt(np.mean(features**2))), "losses": losses, "memory": _memory(device, device_id)}


def _memory(device: str, device_id: int) -> int | None:
    import mindspore as ms

    # MindSpore has no other call for this, and plans to remove it.
    with contextlib.suppress(AttributeError, RuntimeError, ValueError, TypeError):
        return None if device == "CPU" else int(ms.hal.get_device_properties(device_id, device).total_memory) or None
    return None


def main(arguments: list[str]) -> None:
    """Run the named part and print `RESULT` with its result or error as JSON."""
    try:
        if arguments[0] == "devices":
            result = devices()
        else:
            device, device_id, precision = arguments[1:]
            result = steps(device, int(device_id), precision)
    except Exception as error:  # the doctor reports any error
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
    print(f"{RESULT}{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
