"""MuonAdamW: Muon for hidden matrices and AdamW for the rest, as one optimiser."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from lit_gpt_kit.devices import cpu_instructions
from lit_gpt_kit.errors import InputError

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic in `orthogonalize`: steep at 0, and singular values end between 0.7 and 1.2."""
HIDDEN = "hidden"
"""The `part` of a parameter group that Muon takes."""


class MuonAdamW(Optimizer):
    """Muon where matrices multiply hidden states, AdamW for embeddings, head, gains and biases.

    Muon's step is the momentum with all its singular values made about 1 (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). It is torch.optim.Muon's to the letter, computed for
    all matrices of one shape at once.

    Two optimisers would need manual optimisation in Lightning, and each of them would count
    `global_step`; this is one, with a group of parameters for each part.

    A group belongs to Muon where its `part` is "hidden", as `decay_groups` and so every task of
    this package says. In groups without a `part`, Muon takes the matrices and AdamW the rest: keep
    embeddings and the head apart, in a group with `part` "embedding" or the like.

    Args:
        params: parameters or groups of them.
        lr: Muon's learning rate.
        weight_decay: Muon's decoupled weight decay.
        momentum: share of the old momentum that is kept; the step looks ahead (Nesterov).
        num_iterations: of Newton-Schulz; more are closer to singular values of 1.
        adamw_lr: AdamW's learning rate.
        adamw_weight_decay: AdamW's decoupled weight decay; falls on matrices alone in the groups
            that the tasks make.
        betas, eps: AdamW's.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        num_iterations: int = 5,
        adamw_lr: float = 3e-3,
        adamw_weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        at_least_0 = {"lr": lr, "weight_decay": weight_decay, "adamw_lr": adamw_lr,
                      "adamw_weight_decay": adamw_weight_decay, "eps": eps}  # fmt: skip
        for name, value in at_least_0.items():
            if not value >= 0.0:
                raise InputError(f"{name}={value} must be at least 0")
        shares = {"momentum": momentum, "betas[0]": betas[0], "betas[1]": betas[1]}
        for name, value in shares.items():
            if not 0.0 <= value < 1.0:
                raise InputError(f"{name}={value} must be at least 0 and below 1")
        if num_iterations < 1:
            raise InputError(f"num_iterations={num_iterations} must be at least 1")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "num_iterations": num_iterations,
            "betas": tuple(betas),
            "eps": eps,
        }
        # What AdamW's groups have where they do not say otherwise.
        rest = {"lr": adamw_lr, "weight_decay": adamw_weight_decay}
        groups = [part for group in _as_groups(params) for part in _by_algorithm(group)]
        super().__init__(
            [group if group["is_muon"] else {**rest, **group} for group in groups], defaults
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters; returns what the closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Set by whoever knows only on the device whether the step is to be taken; 1 is not.
        passed_over: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                step = self._step_muon if group["is_muon"] else self._step_adamw
                step(group, parameters, passed_over)
        return loss

    def _step_muon(
        self, group: dict[str, Any], parameters: list[Tensor], passed_over: Tensor | None
    ) -> None:
        lr, momentum = group["lr"], group["momentum"]
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, alike in by_shape.items():
            gradients = _gradients(alike)
            buffers = [self.state[parameter]["momentum_buffer"] for parameter in alike]
            if passed_over is not None:
                # Momentum that meets itself stays as it is.
                for gradient, buffer in zip(
                    map(_local, gradients), map(_local, buffers), strict=True
                ):
                    gradient.copy_(torch.where(passed_over > 0, buffer, gradient))
            torch._foreach_lerp_(buffers, gradients, 1 - momentum)
            ahead = torch._foreach_lerp(gradients, buffers, momentum)
            # Matrices that are spread over devices (DTensor) come together for this alone.
            whole = torch.stack([_whole(matrix) for matrix in ahead])
            matrices = whole.flatten(0, -3)  # a parameter may be a stack of them, as of experts
            ortho = orthogonalize(matrices, group["num_iterations"]).to(whole.dtype)
            updates = ortho.view_as(whole).unbind()
            kept: float | Tensor = 1 - lr * group["weight_decay"]
            if passed_over is not None:
                updates = torch._foreach_mul(updates, 1 - passed_over)
                kept = torch.where(passed_over > 0, 1.0, kept)
            if group["weight_decay"]:
                torch._foreach_mul_([_local(parameter) for parameter in alike], kept)
            steps = [_like(update, p) for update, p in zip(updates, alike, strict=True)]
            # A tall matrix has as many singular values as columns, and more rows to spread over.
            scale = math.sqrt(max(1.0, shape[-2] / shape[-1]))
            torch._foreach_add_(alike, steps, alpha=-lr * scale)

    def _step_adamw(
        self, group: dict[str, Any], parameters: list[Tensor], passed_over: Tensor | None
    ) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if "step" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            _gradients(parameters),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            found_inf=passed_over,
        )


def orthogonalize(
    matrices: Float[Tensor, "batch rows columns"], num_iterations: int = 5
) -> Float[Tensor, "batch rows columns"]:
    """Each matrix with its singular values made about 1: U S V^T becomes about U V^T.

    Newton-Schulz in bfloat16, which is enough (Jordan et al. 2024); in float32 on a processor that
    has no instructions for bfloat16, where that takes twenty times as long.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    is_slow = matrices.device.type == "cpu" and cpu_instructions() is None
    x = (matrices.mT if is_tall else matrices).to(torch.float32 if is_slow else torch.bfloat16)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _as_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    items = list(params)
    if not items:
        raise InputError("MuonAdamW got no parameters")
    if isinstance(items[0], dict):
        return items
    return [{"params": [item[1] if isinstance(item, tuple) else item for item in items]}]


def _by_algorithm(group: dict[str, Any]) -> list[dict[str, Any]]:
    """The group, or, where it does not say what it is, its matrices and the rest of it."""
    if "part" in group:
        return [{**group, "is_muon": group["part"] == HIDDEN}]
    parts: list[dict[str, Any]] = []
    for is_muon in (True, False):
        some = [p for p in group["params"] if (p.ndim >= 2) == is_muon]
        if some:
            parts.append({**group, "params": some, "is_muon": is_muon})
    return parts


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _whole(matrix: Tensor) -> Tensor:
    return matrix.full_tensor() if isinstance(matrix, DTensor) else matrix


def _local(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this device."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(update: Tensor, parameter: Tensor) -> Tensor:
    """The share of a whole update that falls to this device, where the parameter is spread."""
    if not isinstance(parameter, DTensor):
        return update
    mesh, placements = parameter.device_mesh, parameter.placements
    # Every rank has computed the same: each takes its share, and nothing is sent.
    return distribute_tensor(update, mesh, placements, src_data_rank=None)
