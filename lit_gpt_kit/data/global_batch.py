"""The global batch: what a step reads, kept fixed whatever micro-batch fits the memory."""

from dataclasses import dataclass

from lit_gpt_kit.errors import InputError


@dataclass(frozen=True)
class GlobalBatch:
    """How much a step reads, over its micro-batches and all devices.

    Attributes:
        key: what the configuration calls it.
        size: how much, in `unit`.
        unit: tokens or rows.

    Raises:
        InputError: nothing is to be read.
    """

    key: str
    size: int
    unit: str

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"{self.key}={self.size} must be at least 1")

    def num_micro_batches(self, factors: dict[str, int], num_ranks: int) -> int:
        """How many micro-batches each rank reads in a step.

        Args:
            factors: what makes the micro-batch of a rank: a name and a number each.
            num_ranks: ranks that share the rows of a step.

        Raises:
            InputError: it is no whole number; names the nearest sizes that are.
        """
        at_once = num_ranks
        for factor in factors.values():
            at_once *= factor
        count, rest = divmod(self.size, at_once)
        if rest:
            product = " x ".join(f"{name}={factor}" for name, factor in factors.items())
            devices = f" x {num_ranks} devices" if num_ranks > 1 else ""
            near = [n * at_once for n in (count, count + 1) if n]
            raise InputError(
                f"{self.key}={self.size} is no whole number of micro-batches of {product}{devices} "
                f"= {at_once} {self.unit}; nearest: {' and '.join(map(str, near))}"
            )
        return count
