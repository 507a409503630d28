"""Options and their environment variables, as the Typer app itself lists them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.models import OptionInfo
from typer.testing import CliRunner

from clsspec_cli import options
from clsspec_cli.app import app

Function = Callable[..., Any]
WITHOUT_VARIABLE = {"--out", "--json", "--version", "--force"}
"""They say what one call is for, and so do those that only one command has."""

OF_ONE_CALL = {"Arch", "Json", "Rules"}

ARGUMENTS = {
    "batch": ["folder", "--out", "new"],
    "extract": ["x.png"],
    "segment": ["x.png"],
    "depth": ["x.png"],
    "evaluate": ["folder"],
    "fit": ["segment", "folder"],
    "view": ["x.png"],
    "analyze": ["dinov2_vits14", "x.png", "--out", "new"],
}
"""What the commands with options that have a variable cannot go without."""


class Option(NamedTuple):
    command: str
    function: Function
    flag: str
    kind: Any
    variable: str | None


def options_of(command: str, function: Function) -> list[Option]:
    found = []
    for name, hint in get_type_hints(function, include_extras=True).items():
        if get_origin(hint) is Annotated and isinstance(hint.__metadata__[0], OptionInfo):
            info = hint.__metadata__[0]
            # Inside of Annotated, Typer takes the first name for the default at first.
            written = [info.default, *(info.param_decls or ())]
            flags = [flag for flag in written if isinstance(flag, str) and flag.startswith("--")]
            flag = flags[0].partition("/")[0] if flags else "--" + name.replace("_", "-")
            variable = info.envvar
            assert variable is None or isinstance(variable, str)
            found.append(Option(command, function, flag, get_args(hint)[0], variable))
    return found


def every_option() -> list[Option]:
    callback = app.registered_callback
    assert callback is not None
    assert callback.callback is not None
    functions: list[Function] = [callback.callback]
    functions += [command.callback for command in app.registered_commands if command.callback]
    return [option for function in functions for option in options_of(function.__name__, function)]


OPTIONS = every_option()


def parsed(function: Function, arguments: list[str], env: dict[str, str]) -> dict[str, Any]:
    """What a command would be called with."""
    seen: dict[str, Any] = {}
    command = typer.Typer()
    command.command()(functools.wraps(function)(lambda **values: seen.update(values)))
    result = CliRunner().invoke(command, arguments, env=env)
    assert result.exit_code == 0, result.output
    return seen


def a_value(kind: Any) -> str:
    """One that is accepted; the last of a choice, which is nowhere the default."""
    choices = [choice for choice in get_args(kind) if choice is not type(None)]
    if choices and isinstance(choices[-1], str):
        return choices[-1]
    if choices and get_origin(choices[0]) is not list and get_args(choices[0]):
        return str(get_args(choices[0])[-1])
    return "77"


def test_the_app_has_options() -> None:
    assert {option.command for option in OPTIONS} >= {"extract", "export", "inspect", "models"}
    assert len([option for option in OPTIONS if option.command == "extract"]) > 10


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.command}{option.flag}")
def test_a_variable_has_the_name_of_its_option(option: Option) -> None:
    if option.flag in WITHOUT_VARIABLE:
        assert option.variable is None
    elif option.variable is not None:
        assert option.variable == "CLSSPEC_" + option.flag[2:].replace("-", "_").upper()


@pytest.mark.parametrize("name", sorted({name for name in vars(options) if name[0].isupper()}))
def test_a_shared_option_has_a_variable(name: str) -> None:
    hint = getattr(options, name)
    info = hint.__metadata__[0] if get_origin(hint) is Annotated else None
    if isinstance(info, OptionInfo) and name not in OF_ONE_CALL:
        assert info.envvar is not None


@pytest.mark.parametrize(
    "option",
    [option for option in OPTIONS if option.variable],
    ids=lambda option: f"{option.command}{option.flag}",
)
def test_a_variable_means_the_same_as_its_option(option: Option) -> None:
    flag = bool in (option.kind, *get_args(option.kind))
    value = "1" if flag else a_value(option.kind)
    pictures = ARGUMENTS.get(option.command, [])
    written = [option.flag] if flag else [option.flag, value]
    assert option.variable is not None
    default = parsed(option.function, pictures, {})
    by_option = parsed(option.function, [*pictures, *written], {})
    by_variable = parsed(option.function, pictures, {option.variable: value})
    assert by_variable == by_option
    assert [name for name in default if default[name] != by_option[name]] != []
    # The option goes before the variable.
    other = {"1": "0", "77": "78"}.get(value, value)
    assert parsed(option.function, [*pictures, *written], {option.variable: other}) == by_option


def _values(kind: Any) -> tuple[Any, ...]:
    """What may be given; a default of None is none of it."""
    given = tuple(each for each in get_args(kind) if each is not NoneType) or (kind,)
    return tuple(value for each in given for value in get_args(each) or (each,))


def test_one_option_means_the_same_in_every_command() -> None:
    kinds: dict[str, set[Any]] = {}
    for option in OPTIONS:
        if option.variable:
            kinds.setdefault(option.variable, set()).add((option.flag, *_values(option.kind)))
    assert all(len(found) == 1 for found in kinds.values())
