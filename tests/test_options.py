"""What a command line may say: every bad value is one line, and every help has examples that parse."""

import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from zsrobust.cli import main
from zsrobust.cli.device import choose
from zsrobust.core.errors import ZSRobustError

MINI = ("--suite", "mini")
RUN = ("run", *MINI, "--dataset", "mini_cells", "--limit", "8")
CLIP = (*RUN, "--defense", "clip", "--attack", "pgd2")
CHECK = ("check", "results", "--against", "paper")
COMMANDS = {"": main, **main.commands}
SINGLE = [
    (name, option)
    for name, command in main.commands.items()
    for option in command.params
    if isinstance(option, click.Option) and not (option.multiple or option.is_flag)
]


def refused(arguments, tmp_path, monkeypatch) -> str:
    """The one line that a command ends in; it leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert not done.stdout
    assert not list(tmp_path.iterdir())
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*RUN, "--attack", f"pgd:steps={'9' * 400}"), "99...' is not a whole number"),
        ((*RUN, "--attack", f"pgd:steps={2**63}"), "is not a whole number"),
        ((*RUN, "--defense", "tecoa:epochs=١"), "epochs='١' is not a whole number"),
        ((*RUN, "--defense", "tecoa:epochs=1_0"), "epochs='1_0' is not a whole number"),
        ((*RUN, "--defense", "tecoa:lr=1_0"), "lr='1_0' is not a number"),
        ((*RUN, "--defense", "tecoa:lr=١/2"), "lr='١/2' is not a number"),
        ((*CLIP, "--eps", "1_0/255"), "eps '1_0/255' is not a bound"),
        ((*CLIP, "--eps", "٨/255"), "eps '٨/255' is not a bound"),
        ((*CLIP, "--eps", "8/255 "), "is not a bound"),
        ((*CLIP, "--seed", str(2**63)), "is not below 2^63"),
        ((*CLIP, "--seed", "9" * 400), "is not a whole number"),
        ((*CLIP, "--seed", "1_0"), "'1_0' is not a whole number"),
        (("run", *MINI, "--limit", "١"), "'١' is not a whole number"),
        (("run", *MINI, "--limit", "1_0"), "'1_0' is not a whole number"),
        ((*CHECK, "--tolerance", "1_0"), "'1_0' is not a number"),
        ((*CHECK, "--tolerance", "nan"), "nan is not a number of points"),
        ((*CLIP, "--device", "meta"), "The device 'meta' is not usable"),
        ((*CLIP, "--device", "cpu:99"), "The device 'cpu:99' is not valid: the CPU has no number"),
        ((*CLIP, "--device", ""), "--device is empty"),
        ((*CLIP, "--results", ""), "--results is empty"),
        (("run", "--suite", ""), "--suite is empty"),
        (("table", "1", "--suite", ""), "--suite is empty"),
        ((*CLIP, "--defense", ""), "--defense is empty"),
        (("export", "clip", *MINI, "--out", "x", "--push", ""), "--push is empty"),
        (("train", ""), "DEFENSE is empty"),
        (("data", "cifar10", ""), "NAMES is empty"),
        (("--plugin", "", "list"), "--plugin is empty"),
        ((*CLIP, "--slurm", "partition=gpu"), "Next: add --executor slurm"),
        ((*RUN, "--defense", "clip:"), "'clip:' has an empty field"),
        ((*RUN, "--defense", "clip:,"), "'clip:,' has an empty field"),
        ((*RUN, "--defense", "tecoa:epochs=1,"), "has an empty field"),
        ((*RUN, "--attack", "pgd:steps=1,,restarts=2"), "has an empty field"),
        ((*CLIP, "--protocol", "sound:"), "has an empty field"),
        (("table", "1", "--out", "missing/folder/x.md"), "Next: mkdir -p missing/folder"),
        (("figure", "1", "--out", "missing/folder/x.svg"), "Next: mkdir -p missing/folder"),
        (("report", "--out", "missing/folder/x.html"), "Next: mkdir -p missing/folder"),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(arguments, message, tmp_path, monkeypatch):
    assert message in refused(arguments, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("name", "option"), SINGLE, ids=[f"{name} {option.opts[0]}" for name, option in SINGLE]
)
def test_an_option_that_takes_one_value_is_given_once(name, option, tmp_path, monkeypatch):
    twice = (option.opts[0], "1/255", option.opts[0], "8/255")
    line = refused((name, *twice), tmp_path, monkeypatch)
    assert f"{option.opts[0]} is given 2 times. It takes one value." in line


def test_flags_and_options_of_several_values_may_be_repeated():
    words = ["--defense", "clip", "--defense", "tecoa", "--force", "--force", "-y", "--yes"]
    options = main.commands["run"].make_context("run", words).params
    assert options["defenses"] == ("clip", "tecoa")
    assert options["force"]


def test_an_empty_variable_of_the_environment_is_as_none(monkeypatch):
    monkeypatch.setenv("ZSROBUST_RESULTS", "")
    assert main.commands["run"].make_context("run", []).params["folder"] == Path("runs")


def test_a_file_is_written_into_a_new_folder_of_a_folder_that_exists(tmp_path):
    context = main.commands["table"].make_context("table", ["--out", str(tmp_path / "new/x.md")])
    assert context.params["out"] == tmp_path / "new/x.md"


@pytest.mark.parametrize("device", ["cpu", "cpu:0", None])
def test_a_device_that_computes_is_chosen(device):
    assert choose(device) == (device or choose(None))


def test_a_device_that_does_not_compute_is_refused():
    with pytest.raises(ZSRobustError, match="The device 'meta' is not usable.* Try: --device cpu"):
        choose("meta")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_two_examples_that_parse(name):
    arguments = [name, "--help"] if name else ["--help"]
    printed = CliRunner().invoke(main, arguments, terminal_width=80).stdout
    examples = printed.partition("\nExamples:\n")[2].splitlines()
    assert len(examples) == 2
    assert tuple(map(str.strip, examples)) == COMMANDS[name].examples
    for example in examples:
        program, *words = shlex.split(example)
        assert program == "zsrobust"
        if words[0] == "--plugin":
            words = words[2:]
        command = main.commands[words[0]]
        assert not name or command is COMMANDS[name]
        command.make_context(words[0], words[1:])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_that_ends_as_a_sentence(name):
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.help[0].isupper(), parameter.help
            assert parameter.help.endswith("."), parameter.help
