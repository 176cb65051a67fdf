"""The example plugin, installed as a user would install it, and loaded as a file."""

import os
import subprocess
import sys
from pathlib import Path

import fresh
import pytest

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
