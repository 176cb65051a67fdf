"""The example plugin, installed as a user would install it, and loaded as a file."""

import os
import subprocess
import sys
from pathlib import Path

import fresh
import pytest

from zsrobust.core.registry import load_plugin_file

PLUGIN = Path(__file__).parent / "plugin"
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from zsrobust.testing import check_attack, check_dataset, check_defense
check_attack("example_fgsm")
check_dataset("example_patterns")
check_defense("example_noise:epochs=1,limit=128", checkpoints=sys.argv[2])
import zsrobust
print(zsrobust.evaluate("clip", attack="example_fgsm", dataset="example_patterns", eps=6 / 255).images)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the plugin into a folder of its own, with its entry point."""
    folder = tmp_path_factory.mktemp("site")
    site = Path(
        sys.prefix,
        "lib",
        f"python{sys.version_info.major}.{sys.version_info.minor}",
        "site-packages",
    )
    if not (site / "setuptools").exists():
        pytest.skip("building the plugin without a network needs setuptools in the environment")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            folder,
            PLUGIN,
        ],
        check=True,
    )
    return folder


def test_an_installed_plugin_holds_the_contracts(site, checkpoints):
    done = fresh.Process(
        fresh.script, SCRIPT, str(site), str(checkpoints), folder=site, environment=os.environ
    ).end()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "40"


def test_a_plugin_file_registers_on_the_command_line(zsrobust):
    listed = zsrobust(
        "--plugin", str(PLUGIN / "zsrobust_example" / "__init__.py"), "list", "attacks"
    ).stdout
    assert "example_fgsm" in listed
    assert "example_fgsm" not in zsrobust("list", "attacks").stdout


def test_a_plugins_dataset_and_attack_run_on_the_command_line(zsrobust):
    plugin = ("--plugin", str(PLUGIN / "zsrobust_example" / "__init__.py"))
    command = (
        "run",
        "--suite",
        "mini",
        "--defense",
        "clip",
        "--attack",
        "example_fgsm",
        "--dataset",
        "example_patterns",
    )
    assert "Patterns" in zsrobust(*plugin, *command).stdout


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("object()", "attack 'mine' is an object of type object"),
        ("'pgd10'", "attack 'mine' is an object of type str"),
    ],
)
def test_a_plugin_whose_attack_is_of_another_type_is_told_the_base_class(
    zsrobust, tmp_path, entry, message
):
    path = tmp_path / "duck.py"
    path.write_text(f"from zsrobust.attacks import attacks\nattacks.register('mine')({entry})\n")
    for command in (("list", "attacks"), ("run", "--suite", "mini", "--attack", "mine")):
        error = zsrobust("--plugin", str(path), *command, ok=2).stderr
        assert error.count("\n") == 1
        assert message in error
        assert "from zsrobust.attacks import Attack" in error
        assert "duck.py" in error


def test_a_plugin_that_takes_a_name_again_is_named(zsrobust, tmp_path):
    path = tmp_path / "again.py"
    path.write_text("from zsrobust.attacks import attacks\nattacks.register('pgd10')(object())\n")
    error = zsrobust("--plugin", str(path), "list", ok=2).stderr
    assert error.count("\n") == 1
    assert "the attack name 'pgd10' is taken" in error.lower()
    assert "again.py" in error


def refused(zsrobust, path: Path, *arguments: str) -> str:
    """The one line that a command with a plugin ends in, which names the plugin."""
    done = zsrobust("--plugin", str(path), *arguments, ok=2)
    (line,) = done.stderr.splitlines()
    assert path.name in line
    assert not done.stdout
    return line


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise BaseException('gone')", "BaseException: gone"),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
        ("raise SystemExit('two\\nlines')", "SystemExit: two lines"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        ("import sys\nsys.exit()", "SystemExit"),
    ],
)
def test_a_plugin_that_ends_the_process_is_one_line(zsrobust, tmp_path, code, message):
    path = tmp_path / "ends.py"
    path.write_text(code)
    assert message in refused(zsrobust, path, "list", "suites")


SHADOWS = """
import json, sys
from pathlib import Path
from zsrobust.attacks import attacks
assert json.loads("[1]") == [1]
assert str(Path(__file__).parent) not in sys.path
assert sys.modules[__name__].__file__ == __file__
"""


@pytest.mark.parametrize("name", ["json.py", "torch.py", "zsrobust.py"])
def test_a_plugin_with_the_name_of_a_module_shadows_none(zsrobust, tmp_path, name):
    path = tmp_path / "plugins" / name
    path.parent.mkdir()
    path.write_text(SHADOWS)
    assert zsrobust("--plugin", str(path), "list", "suites").stdout.startswith("SUITES")


def test_the_current_folder_shadows_no_module(tmp_path):
    for name in ("json.py", "torch.py"):
        (tmp_path / name).write_text("raise SystemExit('this is not the module')")
    (tmp_path / "mine.py").write_text("import json, torch\nassert json.loads and torch.ones")
    done = subprocess.run(
        [sys.executable, "-m", "zsrobust", "--plugin", "mine.py", "list", "suites"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SUITES")


def test_two_plugins_of_one_file_name_are_two_modules(tmp_path):
    paths = [tmp_path / folder / "mine.py" for folder in "ab"]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text(f"NUMBER = {number}")
        load_plugin_file(path)
    found = {
        module.NUMBER
        for name, module in sys.modules.items()
        if name.startswith("zsrobust_plugin_mine_")
    }
    assert found == {0, 1}


RUN = ("run", "--suite", "mini", "--defense", "clip", "--attack", "pgd2", "--dataset", "mini_cells")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "from zsrobust.datasets import datasets\ndatasets.register('odd')('a string')",
            "The dataset 'odd' is an object of type str. Register an object of type Dataset",
        ),
        (
            "from zsrobust.attacks import attacks\nattacks.register('odd')(object())",
            "The attack 'odd' is an object of type object. Register an object of type Attack",
        ),
        (
            "from zsrobust.defenses import defenses\ndefenses.register('odd')(None)",
            "The defense 'odd' is an object of type NoneType. Register an object of type Defense",
        ),
        (
            "from zsrobust.defenses import Defense, defenses\ndefenses.register('odd')(Defense)",
            "The defense 'odd' is the class Defense. Register an object of type Defense",
        ),
        (
            "from zsrobust.training import objectives\nobjectives.register('odd')('loss')",
            "The objective 'odd' is an object of type str. Register a function",
        ),
        (
            "from zsrobust.attacks import attacks, pgd\nattacks.register('../../x')(pgd.PGD())",
            "The attack name '../../x' is not valid",
        ),
    ],
)
def test_what_a_plugin_may_not_register_is_one_line(zsrobust, tmp_path, code, message):
    path = tmp_path / "odd.py"
    path.write_text(code)
    for command in (("list",), RUN):
        assert message in refused(zsrobust, path, *command)
    assert not list(tmp_path.glob("results"))
