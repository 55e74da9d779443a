"""SelfContained: a task whose checkpoints hold all that the trained network needs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

from lightning.pytorch.trainer.states import TrainerFn

from lit_gpt_kit.checkpoints.native import (
    NETWORK_PREFIX,
    TRAINED_WEIGHTS,
    describe_into,
    only_primitives,
    read_description,
)
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.tasks.adapters import AdapterTraining, adapter_names
from lit_gpt_kit.tasks.exact_step import ExactStep
from lit_gpt_kit.tasks.matching import check_checkpoint, check_data
from lit_gpt_kit.tokenization.tokenizer import Tokenizer


class SelfContained(ExactStep):
    """What a task writes into its checkpoints, and checks when it reads one."""

    gpt: GPTConfig
    tokenizer: Tokenizer | None
    adapters: AdapterTraining | None
    model: GPT | None

    @property
    def network(self) -> GPT:
        """The network, once it is built."""
        assert self.model is not None, "the network is built by configure_model"
        return self.model

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:
        """Lightning's, with the safe loading that our checkpoints are made for as the default."""
        kwargs.setdefault("weights_only", True)
        return super().load_from_checkpoint(*args, **kwargs)

    def saved_settings(self) -> dict[str, Any]:
        """What `load_from_checkpoint` gives the constructor, primitives alone.

        A hook for subclasses with settings of their own.
        """
        settings: dict[str, Any] = {"gpt": asdict(self.gpt), "pretrained": None, "lora": None}
        if self.adapters is not None:
            settings |= {"pretrained": self.adapters.base, "lora": asdict(self.adapters.config)}
        return settings

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-contained: network, tokenizer, format version.

        With `lora`, it holds all but the base, and says by name and hash what that is.
        """
        origin = None if self.adapters is None else self.adapters.origin()
        describe_into(checkpoint, self.gpt, self.tokenizer, origin)
        # A class's save_hyperparameters() may have put callables there, which cannot be loaded.
        kept = only_primitives(checkpoint.get("hyper_parameters", {}))
        checkpoint["hyper_parameters"] = {**kept, **self.saved_settings()}
        checkpoint["lit_gpt_kit"]["num_tokens_seen"] = self.num_tokens_seen
        checkpoint["lit_gpt_kit"]["data"] = self._data_identity()
        self.bad_steps.read()
        checkpoint["lit_gpt_kit"]["num_bad_steps"] = self.bad_steps.num_in_a_row
        checkpoint["lit_gpt_kit"]["num_bad_losses"] = self.bad_steps.num_losses
        if self.adapters is not None:
            saved, weights = self._saved_names(), checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: weights[name] for name in weights if name in saved}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of the network and the tokenizer at hand.

        Raises:
            InputError: the run's network, adapters or tokenizer are not the checkpoint's; says what
                differs. Or a callback is missing that keeps the weights to go on with.
        """
        saved = read_description(checkpoint)
        # What counts has a default: another program may have written the checkpoint.
        entry = checkpoint["lit_gpt_kit"]
        self.num_tokens_seen = entry.get("num_tokens_seen", 0)
        self.bad_steps.num_in_a_row = entry.get("num_bad_steps", 0)
        self.bad_steps.num_losses = entry.get("num_bad_losses", 0)
        if self.tokenizer is None:
            self.tokenizer = saved.tokenizer
        check_checkpoint(self.gpt, self.tokenizer, saved)
        data, saved_data = self._data_identity(), checkpoint["lit_gpt_kit"].get("data")
        # Of another task `load_state_dict` says that it is one.
        names = checkpoint.get("state_dict", {}).keys()
        is_of_this_task = not names or names == self._saved_names()
        if is_of_this_task and data is not None and saved_data is not None:
            check_data(data, saved_data)
        self._check_callbacks(checkpoint.get("callbacks", {}))
        if self.adapters is not None:
            self.adapters.check(saved.adapter)
        elif saved.adapter is not None:
            raise InputError(
                "the checkpoint holds adapters alone; give model.init_args.lora as it was trained"
            )

    def _check_callbacks(self, states: Mapping[str, Any]) -> None:
        if self._trainer is None or self._trainer.state.fn != TrainerFn.FITTING:
            return
        callbacks: list[Any] = self._trainer.callbacks  # type: ignore[attr-defined]
        there = {callback.state_key for callback in callbacks}
        for name, state in states.items():
            if name not in there and isinstance(state, dict) and TRAINED_WEIGHTS in state:
                raise InputError(
                    f"the checkpoint's weights are an average, and {name} holds those to train on "
                    "with; give the callback as it was configured, or start a new run from the "
                    "average: set model.init_args.pretrained to the checkpoint"
                )

    def _data_identity(self) -> dict[str, Any] | None:
        """What the data that is trained on says of itself."""
        if self._trainer is None or self._trainer.state.fn != TrainerFn.FITTING:
            return None
        data = getattr(self._trainer, "datamodule", None)
        found: dict[str, Any] | None = getattr(data, "identity", None)
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Torch's; where adapters are trained, their base is not missed.

        Raises:
            InputError: the weights are not those of this task.
        """
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        saved = self._saved_names()
        missing = [name for name in found.missing_keys if name in saved]
        odd = [*found.unexpected_keys, *missing]
        if odd and (strict or self.adapters is not None):
            place = "in the checkpoint alone" if found.unexpected_keys else "not in the checkpoint"
            raise InputError(
                f"the checkpoint is not of a {type(self).__name__} like this one: {odd[0]} is "
                f"{place}, and {len(odd) - 1} more differ; use the task it was trained with"
            )
        return type(found)(missing, found.unexpected_keys)

    def _saved_names(self) -> set[str]:
        """The weights that a checkpoint holds: all, or with adapters what is not the base's."""
        names = set(self.state_dict())
        if self.adapters is None:
            return names
        added = {NETWORK_PREFIX + name for name in adapter_names(self.network)}
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        return added | trained | {name for name in names if not name.startswith(NETWORK_PREFIX)}
