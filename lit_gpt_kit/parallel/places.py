"""Which parameter each tensor of a checkpoint belongs to, and how it is spread over devices."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from lit_gpt_kit.checkpoints.fused_rows import row_order
from lit_gpt_kit.checkpoints.sharded import OPTIMIZERS, WEIGHTS, Cut
from lit_gpt_kit.parallel.tensor import cut_rows


class Places:
    """The parameters of a module, by the names that a sharded checkpoint's tensors have.

    Args:
        module: a task whose weights are spread over devices.
        optimizers: those that train it; none where nothing is trained.
    """

    def __init__(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()  # else a gathered weight stands in the parameter's place
        self._parameters = dict(module.named_parameters(remove_duplicate=False))
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._trained = [
            [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
            for optimizer in optimizers
        ]
        self._splits = cut_rows(module)
        meshes = [p.device_mesh for p in self._parameters.values() if isinstance(p, DTensor)]
        self._num_pieces = meshes[0].size(meshes[0].ndim - 1) if self._splits else 1

    def parameter(self, name: str) -> nn.Parameter | None:
        """The parameter that a tensor is, or is a state of; None where it is of no parameter."""
        own = self._parameter_name(name)
        return None if own is None else self._parameters.get(own)

    def cut(self, name: str, tensor: Tensor) -> Cut | None:
        """In which order its rows are kept; None where that is the usual one."""
        own, parameter = self._parameter_name(name), self.parameter(name)
        if own not in self._splits or parameter is None or parameter.shape != tensor.shape:
            return None
        return Cut(self._num_pieces, list(self._splits[own]))

    def spread(self, name: str, whole: Tensor) -> Tensor:
        """A whole tensor's share of this rank, spread as its parameter is."""
        parameter = self.parameter(name)
        if not isinstance(parameter, DTensor) or parameter.shape != whole.shape:
            return whole
        cut = self.cut(name, whole)
        if cut is not None:
            whole = whole[row_order(cut.splits, cut.num_pieces)]
        mesh, placements = parameter.device_mesh, parameter.placements
        # Every rank has read the whole: each takes its share, and nothing is sent.
        whole = whole.to(mesh.device_type)
        share = distribute_tensor(whole, mesh, placements, src_data_rank=None)
        return share.to(parameter.device)

    def gather(self, name: str, tensor: Tensor) -> Tensor:
        """The whole tensor on every rank, in the host's memory; called on all ranks."""
        whole = tensor
        if isinstance(tensor, DTensor):
            placed: DTensor = tensor.to(tensor.device_mesh.device_type)  # type: ignore[assignment]
            whole = placed.full_tensor()
        cut = self.cut(name, whole)
        whole = whole.detach().cpu()
        return whole if cut is None else whole[row_order(cut.splits, cut.num_pieces).argsort()]

    def _parameter_name(self, name: str) -> str | None:
        kind, _, place = name.partition(".")
        if kind == WEIGHTS:
            return place
        if kind != OPTIMIZERS:
            return None
        number, _, index, _ = place.split(".", 3)
        return self._trained[int(number)][int(index)]
