"""What a shell completes: names, and the fields behind them, without torch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from zsrobust.attacks import attacks
from zsrobust.cli import main
from zsrobust.cli.completion import ATTACK, DATASET, DEFENSE
from zsrobust.datasets import datasets
from zsrobust.defenses import defenses
from zsrobust.reporting import figures, tables
from zsrobust.settings import protocols, suites

BASH = shutil.which("bash") or "bash"


def completed(monkeypatch, line, shell="bash"):
    """The lines that the program prints for a shell whose cursor is at the end of a line."""
    words = line.split(" ")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", words[-1] if shell == "fish" else str(len(words) - 1))
    kind = get_completion_class(shell)
    return kind(main, {}, "zsrobust", "_ZSROBUST_COMPLETE").complete()


def values(monkeypatch, line):
    return [each.partition(",")[2] for each in completed(monkeypatch, line).splitlines()]


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("run --suite ", suites.names()),
        ("table 1 --protocol ", protocols.names()),
        ("run --defense ", DEFENSE._names()),
        ("train ", DEFENSE._names()),
        ("compare clip ", DEFENSE._names()),
        ("run --attack ", ATTACK._names()),
        ("doctor --dataset ", DATASET._names()),
        ("table ", tables.TABLES),
        ("run --table ", tables.TABLES),
        ("figure ", figures.FIGURES),
    ],
)
def test_names_are_completed(monkeypatch, line, known):
    assert values(monkeypatch, f"zsrobust {line}") == list(known)


def test_every_completed_name_and_field_is_registered():
    for names, registry in ((ATTACK, attacks), (DEFENSE, defenses), (DATASET, datasets)):
        assert set(names._names()) <= set(registry)
    for name, fields in ATTACK._names().items():
        assert all(hasattr(attacks[name], field) for field in fields)
    assert "lr" in DEFENSE._names()["tecoa"]


def test_bash_gets_what_follows_the_last_sign_at_which_it_breaks_words(monkeypatch):
    assert "steps=" in values(monkeypatch, "zsrobust run --attack pgd:")
    assert values(monkeypatch, "zsrobust run --attack pgd:st") == ["steps=", "step_size="]
    assert values(monkeypatch, "zsrobust run --attack=pgd:steps=5,ste") == ["5,step_size="]
    assert values(monkeypatch, "zsrobust run --protocol reference:pre") == ["precision="]
    assert values(monkeypatch, "zsrobust train pmg_aft:al") == ["alpha="]
    monkeypatch.setenv("COMP_WORDBREAKS", " =")
    assert values(monkeypatch, "zsrobust run --attack pgd:lo") == ["pgd:loss="]
    assert values(monkeypatch, "zsrobust run --attack nothing:") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_whole_words(monkeypatch, shell):
    assert "pgd:loss=" in completed(monkeypatch, "zsrobust run --attack pgd:lo", shell)


def test_a_suite_may_be_a_file(monkeypatch):
    assert completed(monkeypatch, "zsrobust run --suite mine").startswith("file,")


def test_completing_imports_no_torch(monkeypatch):
    code = (
        "import sys; from zsrobust.cli import completion as c; "
        "[each._names() for each in (*c.SEVERAL.values(), c.SUITE, c.PROTOCOL)]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bash_loads_the_script_and_completes():
    program = Path(sys.executable).parent
    script = f"""
PATH="{program}:$PATH"
eval "$(_ZSROBUST_COMPLETE=bash_source zsrobust)"
compopt() {{ :; }}
COMP_LINE="zsrobust run --attack pgd:los"
COMP_POINT=${{#COMP_LINE}} COMP_WORDS=(zsrobust) COMP_CWORD=0
_zsrobust_completion zsrobust
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([BASH, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "loss=", done.stderr
