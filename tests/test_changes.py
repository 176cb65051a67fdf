"""Datasets that change on the disk under what was prepared from them."""

import json
import os
import shutil
from pathlib import Path

import layouts
import pytest
from colors import picture

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import load_plugins
from zsrobust.datasets import Cut, cache, datasets
from zsrobust.datasets.catalogue import register_dataset

CUT = Cut(64)


@pytest.fixture(autouse=True)
def _places(tmp_path, monkeypatch):
    load_plugins()
    monkeypatch.setenv("ZSROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZSROBUST_DATA", str(tmp_path / "data"))
    registered = dict(datasets._entries)
    yield
    datasets._entries.clear()
    datasets._entries.update(registered)


def build(tmp_path: Path, name: str, shift: int = 0, split: str = "test") -> None:
    """Write a copy of CIFAR-10 or CIFAR-100 with ten pictures; `shift` makes them others."""
    pictures = [(label, picture((label + shift) % 10, 32, 32)) for label in range(10)]
    layouts.build(
        name, tmp_path / "data", pictures, list(datasets[name].origin.called["names"]), split
    )


def prepare(name: str = "part", split: str = "test") -> tuple[str, list[str], Path]:
    """Return the digest of the images, the lines that a person sees, and the folder."""
    lines: list[str] = []
    folder = datasets[name].prepare(
        split, CUT, lambda what, done, total: lines.append(what) if not total else None
    )
    return cache.read(folder).digest, lines, folder


def later(path: Path) -> None:
    """Write a file anew, a second later, say."""
    about = path.stat()
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 10**9))


@pytest.fixture
def part(tmp_path):
    build(tmp_path, "cifar10")
    register_dataset("part", {"like": "cifar10", "size": 10}, tmp_path)
    return tmp_path / "data/cifar-10-batches-py/test_batch"


def test_files_that_change_are_noticed_and_prepared_again(part, tmp_path):
    first, lines, folder = prepare()
    assert lines == []
    place = folder.stat().st_ino
    assert prepare() == (first, [], folder)
    held = cache.read(folder)
    build(tmp_path, "cifar10", shift=1)
    later(part)
    second, lines, again = prepare()
    assert again == folder
    assert folder.stat().st_ino != place
    assert second != first
    assert lines == [
        f"part: {part.parent} has changed since it was prepared, and is prepared again"
    ]
    assert held.at(held.positions).digest == first, "who has it open reads on"
    assert prepare() == (second, [], folder)
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def test_files_that_are_only_written_again_are_the_same_images(part):
    first = prepare()[0]
    later(part)
    again, lines, _ = prepare()
    assert again == first
    assert len(lines) == 1


def test_opening_notices_too(part, tmp_path):
    first = datasets["part"].open("test", CUT).digest
    build(tmp_path, "cifar10", shift=3)
    later(part)
    assert datasets["part"].open("test", CUT).digest != first


def test_what_is_gone_stays_prepared(part, tmp_path):
    first = prepare()
    shutil.rmtree(tmp_path / "data")
    assert prepare() == first


def test_what_is_not_whole_any_more_is_an_error_and_what_was_prepared_stays(part, tmp_path):
    first, _, folder = prepare()
    content = part.read_bytes()
    part.unlink()
    with pytest.raises(
        ZSRobustError, match="cifar-10-batches-py is not whole: it has no test_batch"
    ):
        prepare()
    assert cache.read(folder).digest == first
    part.write_bytes(content)
    assert prepare()[0] == first


def test_what_was_prepared_before_there_were_fingerprints_stays(part):
    first, _, folder = prepare()
    about = json.loads((folder / "about.json").read_text())
    del about["fingerprint"]
    (folder / "about.json").write_text(json.dumps(about))
    later(part)
    assert prepare() == (first, [], folder)


def test_another_split_is_another_matter(tmp_path):
    build(tmp_path, "cifar100")
    build(tmp_path, "cifar100", split="train")
    register_dataset("part", {"like": "cifar100", "size": 10, "train_size": 10}, tmp_path)
    test, train = prepare(), prepare(split="train")
    later(tmp_path / "data/cifar-100-python/train")
    assert prepare() == test
    assert len(prepare(split="train")[1]) == 1
    assert prepare(split="train") == train


@pytest.mark.parametrize("change", ["a picture more", "another name", "a list"])
def test_folders_of_a_class_each(tmp_path, change):
    folder = tmp_path / "data/birds/test"
    for label, name in enumerate(("robin", "wren")):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            layouts.save(folder / name / f"{number}.png", picture(label + number))
    fingerprint, wren = cache.fingerprint(folder), cache.fingerprint(folder, ["wren"])
    assert cache.fingerprint(folder) == fingerprint
    if change == "a picture more":
        layouts.save(folder / "robin/2.png", picture(3))
    elif change == "another name":
        (folder / "robin/1.png").rename(folder / "wren/9.png")
    else:
        (folder / "list.txt").write_text("robin")
    assert cache.fingerprint(folder) != fingerprint
    assert (cache.fingerprint(folder, ["wren"]) == wren) == (change != "another name")


def test_a_folder_of_ones_own(tmp_path):
    for label, name in enumerate(("robin", "wren")):
        layouts.save(tmp_path / "own" / name / "a.png", picture(label))
    register_dataset("birds", {"folder": "own"}, tmp_path)
    first = prepare("birds")[0]
    layouts.save(tmp_path / "own/wren/a.png", picture(5))
    later(tmp_path / "own/wren/a.png")
    assert prepare("birds")[0] != first
