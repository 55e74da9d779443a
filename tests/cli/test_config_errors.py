"""One line out of the parser's tree; the trees are what jsonargparse says."""

import pytest

from lit_gpt_kit.cli.config_errors import one_line

KEYS = ["config", "run_dir", "trainer.max_steps", "trainer.max_epochs", "ckpt_path"]


def in_model(*problems: str, given: str = "{'class_path': 'lit_gpt_kit.LanguageModeling'}") -> str:
    """The tree around a problem inside the model."""
    inner = "\n".join(f"        {line}" for line in problems)
    return f"""Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lit_gpt_kit.LanguageModeling':
{inner}
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {given}"""


def choice(key: str, subtypes: str, errors: list[str], given: str) -> list[str]:
    """The tree of a value that fits none of several types."""
    return [
        f'Parser key "{key}":',
        "  Does not validate against any of the Union subtypes",
        f"  Subtypes: [{subtypes}]",
        "  Errors:",
        *(f"    - {error}" for error in errors),
        f"  Given value type: {type(given)}",
        f"  Given value: {given}",
    ]


def test_unknown_key_of_the_command() -> None:
    message = "unrecognized arguments: --trainer.max_step=3"
    expected = "unknown key 'trainer.max_step'; did you mean 'trainer.max_steps'?"
    assert one_line(message, KEYS) == expected


def test_unknown_key_of_a_file() -> None:
    message = "Group 'trainer' does not accept option 'trainer.max_stepz'"
    expected = "unknown key 'trainer.max_stepz'; did you mean 'trainer.max_steps'?"
    assert one_line(message, KEYS) == expected


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (
            "gpt.num_layer",
            "model.gpt: lit_gpt_kit.LanguageModeling's gpt has no option 'num_layer'; did you mean "
            "'num_layers'?",
        ),
        (
            "gtp.num_layers",
            "model: lit_gpt_kit.LanguageModeling has no option 'gtp'; did you mean 'gpt'?",
        ),
        (
            "predict_topk",
            "model: lit_gpt_kit.LanguageModeling has no option 'predict_topk'; did you mean "
            "'predict_top_k'?",
        ),
    ],
)
def test_unknown_key_of_a_class(option: str, expected: str) -> None:
    assert one_line(in_model(f"Option '{option}' is not accepted"), KEYS) == expected


def test_unknown_key_of_a_class_inside_a_class() -> None:
    message = in_model(
        'Parser key "optimizer":',
        "  Problem with given class_path 'torch.optim.AdamW':",
        "    Option 'lrr' is not accepted",
    )
    expected = "model.optimizer: torch.optim.AdamW has no option 'lrr'; did you mean 'lr'?"
    assert one_line(message, KEYS) == expected


def test_class_whose_options_nobody_knows_gets_no_suggestion() -> None:
    message = "Problem with given class_path 'nowhere.Model':\n  Option 'a' is not accepted"
    assert one_line(message, KEYS) == "nowhere.Model: nowhere.Model has no option 'a'"


def test_unknown_class_suggests_the_nearest_of_its_module() -> None:
    message = in_model(
        'Parser key "lr_schedule":',
        "  module 'lit_gpt_kit' has no attribute 'WarmupCosin'",
    )
    expected = (
        "model.lr_schedule: there is no class lit_gpt_kit.WarmupCosin; did you mean 'WarmupCosine'?"
    )
    assert one_line(message, KEYS) == expected


def test_unknown_module_says_how_to_find_it() -> None:
    message = in_model("No module named 'my_project'")
    assert one_line(message, KEYS) == (
        "model: there is no module 'my_project'; install it, or put its folder on PYTHONPATH"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LanguageModelling", "did you mean 'lit_gpt_kit.LanguageModeling'?"),
        ("AdamX", "did you mean 'torch.optim.Adam'?"),
        ("EarlyStoping", "did you mean 'lightning.pytorch.callbacks.EarlyStopping'?"),
        ("Quux", "name a class with its module"),
    ],
)
def test_class_without_its_module(name: str, hint: str) -> None:
    errors = [f"Expected a dot import path string: {name}", "Expected a <class 'NoneType'>"]
    subtypes = "<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>"
    message = "\n".join(choice("model", subtypes, errors, name))
    assert one_line(message, KEYS) == f"model: '{name}' names no class; {hint}"


def test_wrong_type() -> None:
    message = "Parser key \"trainer.max_steps\":\n  Expected a <class 'int'>. Got value: three"
    assert one_line(message, KEYS) == "trainer.max_steps: expected int, got three"


def test_wrong_type_inside_a_class() -> None:
    message = in_model('Parser key "gpt.num_layers":', "  Expected a <class 'int'>. Got value: x")
    assert one_line(message, KEYS) == "model.gpt.num_layers: expected int, got x"


def test_one_of_several_types_names_those_of_the_innermost_value() -> None:
    errors = ["Expected a <class 'float'>", "Expected a dot import path string: x"]
    inner = choice("lr", "<class 'float'>, <class 'torch.Tensor'>", errors, "x")
    message = in_model('Parser key "optimizer":', *inner, given="{'a': {'b': 'c'}}")
    assert one_line(message, KEYS) == "model.optimizer.lr: expected float or Tensor, got x"


def test_none_is_no_type_to_recommend() -> None:
    errors = ["Expected a <class 'int'>", "Expected a <class 'NoneType'>"]
    message = "\n".join(choice("k", "<class 'int'>, <class 'NoneType'>", errors, "x"))
    assert one_line(message, KEYS) == "k: expected int, got x"


def test_wrong_choice_lists_the_choices() -> None:
    message = in_model(
        'Parser key "gpt.position":', "  Expected a typing.Literal['rotary', 'none']. Got value: x"
    )
    assert one_line(message, KEYS) == "model.gpt.position: expected one of 'rotary', 'none', got x"


def test_wrong_choice_among_several_lists_lists_them_all() -> None:
    subtypes = "typing.Literal[64, 32], typing.Literal['bf16-mixed'], <class 'NoneType'>"
    errors = [f"Expected a {kind}" for kind in subtypes.split(", typing")]
    message = "\n".join(choice("trainer.precision", subtypes, errors, "fp9"))
    expected = "trainer.precision: expected one of 64, 32, 'bf16-mixed', got fp9"
    assert one_line(message, KEYS) == expected


def test_advice_on_the_parser_is_left_out() -> None:
    message = """Parser key "trainer.callbacks":
  Does not validate against any of the Union subtypes
  Subtypes: [list[lightning.Callback], <class 'lightning.Callback'>]
  Errors:
    - Problem with given class_path 'lightning.pytorch.callbacks.EarlyStopping':
        Parser key "patience":
          Expected a <class 'int'>. Got value: x
    - Not a valid subclass of Callback
      Subclass types expect one of:
      - a class path (str)
      - a dict with class_path entry
  Given value type: <class 'list'>
  Given value: [{'class_path': 'lightning.pytorch.callbacks.EarlyStopping'}]"""
    assert one_line(message, KEYS) == "trainer.callbacks.patience: expected int, got x"


def test_what_a_constructor_says_is_kept() -> None:
    message = in_model("embed_dim=10 is not divisible by num_heads=3; change one of them")
    expected = "model: embed_dim=10 is not divisible by num_heads=3; change one of them"
    assert one_line(message, []) == expected


def test_plain_message_is_kept() -> None:
    assert one_line("argument --config: expected one argument", KEYS) == (
        "argument --config: expected one argument"
    )
