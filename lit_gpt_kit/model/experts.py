"""A mixture of experts: many MLPs, of which each token visits a few."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.dropout import Dropout
from lit_gpt_kit.model.mlp import ACTIVATIONS


class MixtureOfExperts(nn.Module):
    """The sum of a token's likeliest experts, each weighted by its probability.

    Source: Shazeer et al. 2017; the softmax over all experts before the choice as in Mixtral
    (Jiang et al. 2024) and Qwen3. Each expert is a gated MLP; the experts' matrices are stacked,
    (num_experts, out, in).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        assert config.num_experts is not None
        self.num_active = config.num_active_experts
        self.normalize_weights = config.normalize_expert_weights
        self.activation = ACTIVATIONS[config.mlp]
        experts, embed, hidden = config.num_experts, config.embed_dim, config.expert_width
        self.router = nn.Linear(embed, experts, bias=False)
        self.gate = nn.Parameter(torch.empty(experts, hidden, embed))
        self.up = nn.Parameter(torch.empty(experts, hidden, embed))
        self.down = nn.Parameter(torch.empty(experts, embed, hidden))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "batch seq embed"]) -> Float[Tensor, "batch seq embed"]:
        """Transform each position on its own."""
        tokens = x.flatten(0, 1)
        probabilities = self.router(tokens).softmax(dim=-1, dtype=torch.float32)
        weights, chosen = probabilities.topk(self.num_active, dim=-1)
        if self.normalize_weights:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if torch.compiler.is_exporting():
            mixed: Tensor = self._ask_all(tokens, weights, chosen)
            return mixed.view_as(x)
        # Sorted by expert, so that each expert reads its tokens in one matrix product.
        order = chosen.flatten().argsort(stable=True)
        sources = order // self.num_active
        counts = torch.bincount(chosen.flatten(), minlength=len(self.gate)).tolist()
        outputs = []
        for expert, visitors in enumerate(torch.split(tokens[sources], counts)):
            if len(visitors):
                gate = self.activation(F.linear(visitors, self.gate[expert]))
                hidden = gate * F.linear(visitors, self.up[expert])
                outputs.append(F.linear(hidden, self.down[expert]))
        weighted = torch.cat(outputs) * weights.flatten()[order, None].type_as(tokens)
        summed = torch.zeros_like(tokens).index_add(0, sources, weighted.type_as(tokens))
        mixed = self.dropout(summed)
        return mixed.view_as(x)

    def _ask_all(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The same from every expert for every token, the weights of those not chosen being zero.

        For exported graphs, which cannot do work that depends on who visits whom.
        """
        none = weights.new_zeros(tokens.shape[0], self.gate.shape[0])
        shares = none.scatter(1, chosen, weights).type_as(tokens)
        gate = self.activation(torch.einsum("te,xhe->txh", tokens, self.gate))
        hidden = gate * torch.einsum("te,xhe->txh", tokens, self.up)
        return torch.einsum("txh,xeh,tx->te", hidden, self.down, shares)
