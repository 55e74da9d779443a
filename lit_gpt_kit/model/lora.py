"""LoRA: a finished network learns through small matrices beside its frozen ones.

Applied from outside; the network never knows. A linear layer W x becomes W x + scaling B A x, where
A has `rank` rows and B as many columns; both can be folded into W again. Source: Hu et al. 2021.
"""

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.linear import Linear  # nn.Linear may be another class: linear_kinds.py

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.attention import CausalSelfAttention
from lit_gpt_kit.model.dropout import Dropout
from lit_gpt_kit.model.experts import MixtureOfExperts
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.head import Head, softcap
from lit_gpt_kit.model.linear_kinds import adopt_linear_kind
from lit_gpt_kit.patterns import matches, short_names


@dataclass(frozen=True)
class LoRAConfig:
    """What is trained beside which layers."""

    rank: int = 8
    """Rows of A and columns of B: how much can be learned, and what it costs."""
    alpha: float = 16.0
    """Size of what is learned: B A x counts alpha / rank times."""
    dropout: float = 0.0
    """Share of the inputs of A that are left out in training."""
    targets: Sequence[str] = ("blocks",)
    """Patterns of the layers' names, or of words of them: `attention.q`, `mlp`, `blocks.[0-3]`;
    `attention.qkv` is all of q, k and v. By default all layers in the blocks."""
    use_dora: bool = False
    """Train the length of each row of the weights apart from its direction (Liu et al. 2024)."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank), which keeps large ranks useful (Kalajdzievski 2023)."""

    def __post_init__(self) -> None:
        targets = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        object.__setattr__(self, "targets", targets)  # YAML and checkpoints know lists alone
        if self.rank < 1:
            raise InputError(f"rank={self.rank} of LoRA must be at least 1")
        if not self.alpha > 0:
            raise InputError(f"alpha={self.alpha} of LoRA must be above 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout={self.dropout} of LoRA must be at least 0 and below 1")
        if not targets:
            raise InputError("targets of LoRA are empty; name layers, such as 'attention'")

    @property
    def scaling(self) -> float:
        """How much B A x counts."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


class LoRALinear(nn.Module):
    """A frozen linear layer with trained matrices beside it, in float32.

    A fused layer has several parts, one behind the other, each with its own A and B.

    DoRA's dropout falls on A's input alone; that of PEFT falls on the frozen weights' too, which
    takes twice their time.

    Args:
        base: the layer; another kind may take its place later, such as a quantised one.
        parts: name -> number of rows of every part.
        targets: the parts that get matrices.
        config: rank, scaling and the rest.
    """

    def __init__(
        self,
        base: nn.Linear,
        parts: Mapping[str, int],
        targets: Collection[str],
        config: LoRAConfig,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.parts = dict(parts)
        self.targets = [name for name in parts if name in targets]
        self.config = config
        self.out_features = base.out_features
        self.cap = base.cap if isinstance(base, Head) else None
        if isinstance(base, Head):
            base.cap = None  # what is learned is added before scores are capped
        device, rank = base.weight.device, config.rank
        # One product for all parts: their A lie one behind the other.
        shape = len(self.targets) * rank, base.in_features
        self.a = nn.Parameter(torch.empty(shape, dtype=torch.float32, device=device))
        self.b = nn.ParameterDict(
            {
                name: torch.empty(parts[name], rank, dtype=torch.float32, device=device)
                for name in self.targets
            }
        )
        self.dropout = Dropout(config.dropout) if config.dropout else nn.Identity()
        self.magnitude = nn.ParameterDict()
        self.base_dtype: torch.dtype | None = None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin as the frozen layer: A as PEFT draws it, B zero, DoRA's lengths the weights'."""
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        for b in self.b.values():
            nn.init.zeros_(b)
        if self.config.use_dora:
            lengths = self.row_lengths()
            self.magnitude.update({name: lengths[name].clone() for name in self.targets})

    def round_base(self, dtype: torch.dtype) -> None:
        """Keep the frozen layer in a smaller type, which everything is then multiplied in."""
        self.base.to(dtype)
        self.base_dtype = dtype

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """The layer's output and what was learned."""
        flat = x.reshape(-1, x.shape[-1])
        if self.base_dtype is not None:
            flat = flat.to(self.base_dtype)
        down = F.linear(self.dropout(flat), self.a.to(flat.dtype))
        out = self.base(flat)
        # The product adds itself: what was learned never takes an output's memory of its own.
        out = torch.addmm(out, down, self._up().t().to(out.dtype), alpha=self.config.scaling)
        if self.config.use_dora:
            scale = self._scale().to(out.dtype)
            bias = self.base.bias
            out = out * scale if bias is None else out * scale + bias.to(out.dtype) * (1 - scale)
        if self.cap is not None:
            out = softcap(out, self.cap)
        if self.base_dtype is not None and not torch.is_autocast_enabled(x.device.type):
            out = out.to(x.dtype)
        return out.view(*x.shape[:-1], -1)

    def part(self, name: str) -> tuple[Tensor, Tensor]:
        """A and B of a part, to read or to write to."""
        start = self.targets.index(name) * self.config.rank
        return self.a[start : start + self.config.rank], self.b[name]

    @torch.no_grad()
    def row_lengths(self) -> dict[str, Float[Tensor, " rows"]]:
        """How long the frozen rows of each part are."""
        return self._split(self._float_weight().norm(dim=1))

    @torch.no_grad()
    def merged(self, dtype: torch.dtype | None = None) -> nn.Linear:
        """A plain layer with what was learned folded into its weights.

        Args:
            dtype: of its weights; that of the frozen ones by default.

        Raises:
            InputError: the frozen weights are quantised.
        """
        weight = self._float_weight() + self._update()
        if self.config.use_dora:
            weight = weight * self._scale()[:, None]
        shared = {id(tensor): tensor for tensor in self.base.parameters()}
        layer = copy.deepcopy(self.base, shared)
        layer.weight = nn.Parameter(weight.to(self.base.weight.dtype if dtype is None else dtype))
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.to(layer.weight.dtype))
        if isinstance(layer, Head):
            layer.cap = self.cap
        return layer

    def _up(self) -> Float[Tensor, "out ranks"]:
        """All B in one matrix, each in the rows of its part and the columns of its A."""
        none = self.a.new_zeros
        blocks: list[Tensor] = [
            self.b[name] if name in self.b else none(rows, 0) for name, rows in self.parts.items()
        ]
        up: Tensor = torch.block_diag(*blocks) if len(blocks) > 1 else blocks[0]  # type: ignore[no-untyped-call]
        return up

    def _update(self) -> Float[Tensor, "out in"]:
        return self.config.scaling * (self._up().float() @ self.a.float())

    def _scale(self) -> Float[Tensor, " out"]:
        """DoRA's trained lengths over those that the rows have, which gradients do not pass.

        Source: Liu et al. 2024, eq. 5 and section 4.3.
        """
        with torch.no_grad():
            lengths = self._split((self._float_weight() + self._update()).norm(dim=1))
        return torch.cat(
            [
                self.magnitude[name] / lengths[name]
                if name in self.magnitude
                else torch.ones_like(lengths[name])
                for name in self.parts
            ]
        )

    def _split(self, rows: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.parts, torch.split(rows, list(self.parts.values())), strict=True))

    def _float_weight(self) -> Float[Tensor, "out in"]:
        weight = self.base.weight
        if not weight.is_floating_point():
            raise InputError(
                f"the frozen weights are quantised ({type(self.base).__name__}), so they cannot be "
                "computed with: train without use_dora, and merge into the model as it was before"
            )
        return weight.float()


def apply_lora(model: GPT, config: LoRAConfig) -> GPT:
    """Freeze a network and put trained matrices beside the layers that `config.targets` name.

    Where a precision plugin asks for quantised layers, the frozen ones become such (QLoRA, Dettmers
    et al. 2023).

    Args:
        model: changed in place.
        config: what to train.

    Raises:
        InputError: a pattern matches no layer; names those that there are.
    """
    if lora_layers(model):
        raise InputError("the network has LoRA already; merge it first")
    layers = layer_parts(model)
    there_are = {full: name for name, parts in layers.items() for full in parts}
    chosen: set[str] = set()
    for pattern in config.targets:
        found = {
            part
            for part, name in there_are.items()
            if matches(part, pattern) or matches(name, pattern)
        }
        if not found:
            raise InputError(_no_match(pattern, model, list(there_are)))
        chosen |= found
    model.requires_grad_(False)
    adopt_linear_kind(model)
    for name, parts in layers.items():
        if chosen & parts.keys():
            layer = model.get_submodule(name)
            assert isinstance(layer, Linear)
            short = {full.rpartition(".")[2]: rows for full, rows in parts.items()}
            targets = {full.rpartition(".")[2] for full in parts.keys() & chosen}
            model.set_submodule(name, LoRALinear(layer, short, targets, config))
    return model


def merge_lora(model: GPT) -> GPT:
    """Fold what was learned into the weights, in float32, and put plain layers back.

    All weights can be trained again. A network without LoRA is left as it is.

    Args:
        model: changed in place.

    Raises:
        InputError: frozen weights are quantised.
    """
    layers = lora_layers(model)
    for name, layer in layers.items():
        model.set_submodule(name, layer.merged())
    return model.requires_grad_(True) if layers else model


def load_trained(model: GPT, tensors: Mapping[str, Tensor]) -> None:
    """Put what was trained, and nothing else, in its place; what is frozen stays untouched.

    Raises:
        InputError: a trained tensor is missing, one is left over, or of another shape.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    try:
        unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
    except RuntimeError as error:  # shapes
        raise InputError(str(error).splitlines()[1].strip()) from None
    odd = [*unknown, *sorted(trained - tensors.keys())]
    if odd:
        raise InputError(
            f"{odd[0]} is {'no weight of this network' if unknown else 'missing'}, and "
            f"{len(odd) - 1} more do not fit"
        )


def layer_parts(model: GPT) -> dict[str, dict[str, int]]:
    """The linear layers by name, with the full names of their parts and their numbers of rows."""
    layers: dict[str, dict[str, int]] = {}
    for name, module in model.named_modules():
        # A router decides who works, which no adapter of another library touches.
        is_router = name.endswith(".router")
        is_tied = module is model.lm_head and model.config.tie_embeddings
        if not isinstance(module, Linear) or is_router or is_tied:
            continue
        parent = name.rpartition(".")[0]
        attention = model.get_submodule(parent)
        if isinstance(attention, CausalSelfAttention) and module is attention.qkv:
            rows = zip("qkv", attention.splits, strict=True)
            layers[name] = {f"{parent}.{part}": number for part, number in rows}
        else:
            layers[name] = {name: module.out_features}
    return layers


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers with matrices beside them, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


def _no_match(pattern: str, model: GPT, names: list[str]) -> str:
    message = (
        f"target {pattern!r} of LoRA matches no layer; there are {', '.join(short_names(names))}"
    )
    if any(isinstance(module, MixtureOfExperts) for module in model.modules()):
        message += "; the experts' matrices lie in stacks, which are not supported"
    if model.config.tie_embeddings:
        message += "; lm_head is the token embedding here, and no layer of its own"
    return message
