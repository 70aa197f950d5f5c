"""Adam with the authors' parameter groups, and their per-epoch learning rates, through torch.optim itself."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

# Base learning rate of epochs 1 to 60 with base 1e-5, target 0, 5 warm-up epochs from a factor of 0.1, then cosine.
PUBLISHED_LEARNING_RATES = (
    1.000000e-06,
    2.800000e-06,
    4.600000e-06,
    6.400000e-06,
    8.200000e-06,
    1.000000e-05,
    9.991846e-06,
    9.967409e-06,
    9.926769e-06,
    9.870060e-06,
    9.797465e-06,
    9.709222e-06,
    9.605618e-06,
    9.486992e-06,
    9.353730e-06,
    9.206268e-06,
    9.045085e-06,
    8.870708e-06,
    8.683706e-06,
    8.484688e-06,
    8.274304e-06,
    8.053239e-06,
    7.822216e-06,
    7.581987e-06,
    7.333337e-06,
    7.077075e-06,
    6.814039e-06,
    6.545085e-06,
    6.271092e-06,
    5.992952e-06,
    5.711574e-06,
    5.427875e-06,
    5.142780e-06,
    4.857220e-06,
    4.572125e-06,
    4.288426e-06,
    4.007048e-06,
    3.728908e-06,
    3.454915e-06,
    3.185961e-06,
    2.922925e-06,
    2.666663e-06,
    2.418013e-06,
    2.177784e-06,
    1.946761e-06,
    1.725696e-06,
    1.515312e-06,
    1.316294e-06,
    1.129292e-06,
    9.549150e-07,
    7.937323e-07,
    6.462696e-07,
    5.130079e-07,
    3.943817e-07,
    2.907782e-07,
    2.025351e-07,
    1.299404e-07,
    7.323082e-08,
    3.259132e-08,
    8.154480e-09,
)


def parameter_group(
    name: str, lr: float, bias_lr_factor: float, weight_decay: float, bias_weight_decay: float, cross_lr_factor: float
) -> tuple[float, float]:
    """Return (learning rate, weight decay) of a parameter by substrings of its name; a later rule wins."""
    group_lr, decay = lr, weight_decay
    if "cross" in name:
        group_lr = lr * cross_lr_factor
    if "bias" in name:
        group_lr, decay = lr * bias_lr_factor, bias_weight_decay
    if any(head in name for head in ("classifier", "mcm_head", "mlm_head")):
        group_lr = lr * cross_lr_factor
    return group_lr, decay


def make_adam(
    model: nn.Module,
    lr: float = 1e-5,
    bias_lr_factor: float = 2.0,
    weight_decay: float = 4e-5,
    bias_weight_decay: float = 0.0,
    cross_lr_factor: float = 5.0,
    eps: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Adam:
    """Build Adam with one group per parameter.

    Args:
        model: Model whose parameter names decide the groups.
        lr: Base learning rate.
        bias_lr_factor: Factor on the learning rate of names with "bias".
        weight_decay: L2 decay, added to the gradient.
        bias_weight_decay: L2 decay of names with "bias".
        cross_lr_factor: Factor on the learning rate of names with "cross" and of the classification heads.
        eps: Added to the bias-corrected root.
        betas: Decay rates of the two moments.

    Returns:
        The optimizer; each group also carries its parameter's "name".
    """
    groups = []
    for name, parameter in model.named_parameters():
        group_lr, decay = parameter_group(name, lr, bias_lr_factor, weight_decay, bias_weight_decay, cross_lr_factor)
        groups.append({"params": [parameter], "name": name, "lr": group_lr, "weight_decay": decay})
    return torch.optim.Adam(groups, lr=lr, betas=betas, eps=eps)


def schedule_factor(epoch: int, epochs: int, warmup_epochs: int, warmup_factor: float) -> float:
    """Return the factor f of 0-based epoch index k: linear warm-up from `warmup_factor`, then a half cosine."""
    if epoch < warmup_epochs:
        progress = epoch / warmup_epochs
        return warmup_factor * (1 - progress) + progress
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))


def make_schedule(
    optimizer: torch.optim.Optimizer,
    epochs: int = 60,
    warmup_epochs: int = 5,
    warmup_factor: float = 0.1,
    target_lr: float = 0.0,
) -> LambdaLR:
    """Attach the schedule to every group: base f in warm-up, then target + (base - target) f; step it once an epoch."""

    def group_factor(base: float):
        def factor(epoch: int) -> float:
            target = 0.0 if epoch < warmup_epochs else target_lr
            rate = target + (base - target) * schedule_factor(epoch, epochs, warmup_epochs, warmup_factor)
            return rate / base

        return factor

    return LambdaLR(optimizer, [group_factor(group["lr"]) for group in optimizer.param_groups])


def epoch_learning_rates(
    base_lr: float = 1e-5,
    epochs: int = 60,
    warmup_epochs: int = 5,
    warmup_factor: float = 0.1,
    target_lr: float = 0.0,
) -> list[float]:
    """Step torch's LambdaLR through a run and return the learning rate at which each epoch trains.

    Args:
        base_lr: Learning rate of the group.
        epochs: Number E of epochs.
        warmup_epochs: Epochs of linear warm-up.
        warmup_factor: Factor at the first epoch.
        target_lr: Learning rate that the cosine would reach at epoch E + 1.

    Returns:
        E floats, for epochs 1 to E.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base_lr)
    schedule = make_schedule(optimizer, epochs, warmup_epochs, warmup_factor, target_lr)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates
