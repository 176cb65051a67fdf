"""The hub: whether it can be reached, its errors in one line, and folders of results on it."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import cache_folder, write_atomically

SCHEME = "hf://"  #: the beginning of an address of results
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
CELLS = (".json", ".npz")  #: the ends of the files that are read


class Unreachable(ZSRobustError):  # noqa: N818 (it is read as a state of the network)
    """A download is necessary, and not possible."""


def check_network(missing: str, instead: str = "`--suite mini` needs no {}.") -> None:
    """Raise Unreachable at once if no download is possible; `missing` begins its text.

    For example, `missing` is "The weights … are not on this machine". `instead` ends it.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        why = f"HF_HUB_OFFLINE is set. {instead.format('download')}"
        raise Unreachable(f"{missing}, and {why}")
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:
        why = f"{constants.ENDPOINT} does not answer. {instead.format('network')}"
        raise Unreachable(f"{missing}, and {why}") from error


def hub_error(what: str, error: Exception) -> ZSRobustError:
    """Return the hub's answer as one line, with what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    if isinstance(error, GatedRepoError):
        reason = "it is gated. Accept its terms on its page, and set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        reason = (
            "there is no such repository, or it is not yours to see. If it should be, set HF_TOKEN"
        )
    elif isinstance(error, RevisionNotFoundError):
        reason = "it has no such revision"
    elif (
        isinstance(error, HfHubHTTPError)
        and error.response is not None
        and error.response.status_code in (401, 403)
    ):
        reason = "you may not. Set HF_TOKEN to a token that may"
    return ZSRobustError(f"{what}: {reason}.")


def local(place: str | Path) -> Path:
    """Return the folder of results at a place; an address hf://OWNER/NAME[@REVISION] is downloaded.

    The folder of a commit is downloaded once, and never written again. Without the network, a
    branch is at the commit that was downloaded last. Raises ZSRobustError for an address that is
    not valid or that leads nowhere, and Unreachable if it is not on this machine.
    """
    if not str(place).startswith(SCHEME):
        return Path(place)
    match = ADDRESS.fullmatch(str(place))
    if match is None:
        raise ZSRobustError(
            f"{place} is not an address of results. Write hf://OWNER/NAME, or "
            "hf://OWNER/NAME@REVISION"
        )
    repo, revision = match[1], match[2] or "main"
    root = cache_folder() / "results" / repo.replace("/", "--")
    if not COMMIT.fullmatch(revision):
        revision = _commit(repo, revision, root / "revisions" / quote(revision, safe=""))
    if not (root / revision).is_dir():
        _download(repo, revision, root)
    return root / revision


def _commit(repo: str, revision: str, seen: Path) -> str:
    """Return the commit of a branch or tag; without the network, the one seen last."""
    from huggingface_hub import HfApi

    try:
        with _asking(repo):
            info = HfApi().dataset_info(repo, revision=revision, timeout=5)
    except Unreachable:
        if not seen.is_file():
            raise
        return seen.read_text(encoding="utf-8").strip()
    write_atomically(seen, f"{info.sha}\n".encode())
    return str(info.sha)


@contextmanager
def _asking(repo: str) -> Iterator[None]:
    """Raise our line for whatever the hub's library raises while results are read."""
    check_network(
        f"The results {SCHEME}{repo} are not on this machine",
        "Read them once with a network, or use a folder: --results runs",
    )
    try:
        yield
    except Exception as error:
        raise hub_error(f"Cannot read {SCHEME}{repo}", error) from error


def _download(repo: str, commit: str, root: Path) -> None:
    """Download the results of a commit to the folder `root / commit`, all of them or nothing.

    The library's cache keeps what two commits share, but as links, which `results.read` refuses.
    Its files get a second name here, or are copied.
    """
    from huggingface_hub import snapshot_download

    patterns = [f"*{end}" for end in CELLS]
    with _asking(repo):
        snapshot = Path(
            snapshot_download(
                repo,
                repo_type="dataset",
                revision=commit,
                allow_patterns=patterns,
                tqdm_class=None if sys.stderr.isatty() else silent_bar(),
            )
        )
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".") as made:
        whole = Path(made, "whole")
        whole.mkdir()
        for path in snapshot.rglob("*"):
            if path.is_file() and path.name.endswith(CELLS):
                copy = whole / path.relative_to(snapshot)
                copy.parent.mkdir(parents=True, exist_ok=True)
                _second_name(Path(os.path.realpath(path)), copy)
        try:
            os.replace(whole, root / commit)
        except OSError:
            if not (root / commit).is_dir():  # another process downloaded it meanwhile
                raise


def _second_name(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(path, copy)


def upload(repo: str, files: Mapping[str, bytes], message: str, delete: bool = False) -> str:
    """Upload files to a dataset repository as one commit, and return the commit's address.

    The repository is created if it is missing. Files that it has already are not sent again. With
    `delete`, it loses the cells that are not among `files`.

    Raises ZSRobustError if the upload fails, and without `delete`, if it has other cells.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    if not NAME.fullmatch(repo):
        raise ZSRobustError(f"{repo} is not a repository of the hub. Write OWNER/NAME")
    check_network(f"{repo} cannot be uploaded from here", "Run the same command with a network.")
    api = HfApi()
    try:
        api.create_repo(repo, repo_type="dataset", exist_ok=True)
        there = api.list_repo_files(repo, repo_type="dataset")
        gone = sorted(name for name in there if name.endswith(CELLS) and name not in files)
        if gone and not delete:
            raise ZSRobustError(
                f"{repo} has {len(gone)} files that these results lack, first {gone[0]}. "
                "Next: add --delete to remove them (older revisions keep them), or choose another "
                "repository"
            )
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        removed = [CommitOperationDelete(name) for name in gone]
        commit = api.create_commit(
            repo, [*added, *removed], repo_type="dataset", commit_message=message
        )
    except ZSRobustError:
        raise
    except Exception as error:
        raise hub_error(f"Cannot upload to {repo}", error) from error
    return str(commit.commit_url)


def silent_bar(report: Callable[[int], None] | None = None) -> type[Any]:
    """Return the class of a progress bar that shows nothing, and reports the bytes so far."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, name: str | None = None, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "disable": True})  # type: ignore[no-untyped-call]  # huggingface_hub does not annotate it
            self.counts = name == "huggingface_hub.snapshot_download"  # the bytes of all files

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if report and self.counts:
                report(int(self.n))

    return Bar
