"""Copies of datasets in repositories of the Hugging Face hub: which files, fetched, and verified.

A copy is pinned to a commit. huggingface_hub lists, downloads, resumes and caches the files; its
HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE work as everywhere. Two promises are not kept by
the library, and are ours:

* It compares the size of a download, not its content. The name of a file in the library's cache is
  the hub's checksum. We compare it before every preparation; decoding takes far longer.
* Without a network it retries for half a minute. We first send one request that is not retried.
"""

import glob
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zsrobust.core.errors import UNPRINTABLE, ZSRobustError
from zsrobust.core.hub import Unreachable, silent_bar
from zsrobust.core.values import check_fields
from zsrobust.datasets import Progress, Split

if TYPE_CHECKING:
    from huggingface_hub import DryRunFileInfo

PATIENCE = 5.0  #: seconds in which the hub must answer, before any request that is retried


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A copy of a dataset in a repository of the hub, at a pinned revision."""

    repo: str
    revision: str  #: a full commit
    format: Literal["parquet", "tar", "zip"]
    test: tuple[str, ...] = ()  #: its splits that make our test split, in order; zip: its files
    train: tuple[str, ...] = ()
    image: str = "image"  #: parquet: column of the image, struct<bytes, path> or binary
    #: parquet: column of the label, an integer or bool; tar: extension of the label, or "cls"
    label: str = "label"
    names: str | None = None  #: parquet: column of the class name, which is the label then
    inside: str = ""  #: zip: folder inside the archive that has one folder a class
    order: Literal["canonical"] | None = None  #: of the labels, if it has no class names

    def __post_init__(self) -> None:
        """Raise ZSRobustError for a revision that can move, and for fields of another type."""
        check_fields(self, f"source {str(self.repo)[:200]!r}")
        if len(self.repo) > 200 or UNPRINTABLE.search(self.repo):
            raise ZSRobustError(f"{self.repo[:200]!r} is not a repository of the hub: ORG/NAME.")
        if not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ZSRobustError(
                f"{self.repo}: revision {self.revision!r} is not a full commit of 40 hex digits."
            )

    def parts(self, split: Split) -> tuple[str, ...]:
        """Return the repository's splits, or files of a zip, that make our split."""
        return self.test if split == "test" else self.train


def files(source: HubSource, split: Split) -> "list[DryRunFileInfo]":
    """Return the files that make a split, in reading order: name, size, place in the cache.

    Nothing is asked of the network if all of them are cached.
    Raises ZSRobustError if there are none or not all, and Unreachable without the network.
    """
    from huggingface_hub import HfApi

    parts = source.parts(split)
    if not parts:
        raise ZSRobustError(f"{source.repo} serves as no {split} split.")
    patterns = [pattern for part in parts for pattern in _patterns(source, part)]
    with _asking(source, "its list of files"):
        if not _is_cached(source, patterns):
            HfApi().dataset_info(source.repo, revision=source.revision, timeout=PATIENCE)
        found = _snapshot(source, patterns, silent_bar(), dry_run=True)
    return [file for part in parts for file in _select(source, part, found)]


def to_download(source: HubSource, split: Split) -> int:
    """Return the bytes of a split that are not in the library's cache; raises as `files`."""
    return _size([file for file in files(source, split) if file.will_download])


def download(source: HubSource, split: Split, progress: Progress) -> list[Path]:
    """Return the paths of a split's files in reading order, downloaded and verified.

    A file that differs from the hub's checksum is deleted, and downloaded once more.
    Raises ZSRobustError if it differs again, and as `files`.
    """
    for _ in range(2):
        found = files(source, split)
        _fetch(source, [file for file in found if file.will_download], progress)
        damaged = [file for file in found if not _is_whole(source, file)]
        if not damaged:
            return [Path(file.local_path) for file in found]
        for file in damaged:
            path = Path(file.local_path)
            for each in (path.resolve(), path):  # the file, and the link to it
                each.unlink(missing_ok=True)
    raise ZSRobustError(
        f"{source.repo} {damaged[0].filename}: two downloads differ from the hub's checksum, and "
        "were deleted. Run again. If it fails again, check your proxy and HF_ENDPOINT: one of them "
        "changes files."
    )


def _patterns(source: HubSource, part: str) -> list[str]:
    """Return the patterns of the files of a repository's split; * also matches folders."""
    name = glob.escape(part)
    if source.format == "zip":
        return [name]
    if source.format == "tar":
        return ["classnames.txt", f"{name}/nshards.txt", f"{name}/[0-9]*.tar"]
    # The second form is that of the branch refs/convert/parquet. Its folder partial-SPLIT, which
    # has the first 5 GB only, does not match.
    forms = [f"{name}-[0-9]*-of-[0-9]*.parquet", f"{name}/[0-9]*.parquet"]
    return [*forms, *(f"*/{form}" for form in forms)]


def _select(source: HubSource, part: str, found: "list[DryRunFileInfo]") -> "list[DryRunFileInfo]":
    """Return the files of one of the repository's splits, in reading order."""
    patterns = _patterns(source, part)
    chosen = [file for file in found if any(fnmatchcase(file.filename, p) for p in patterns)]
    if all(file.filename.endswith(".txt") for file in chosen):
        raise unfit(source, f"has no {source.format} files of split {part!r}")
    if source.format == "parquet":
        _check_parquet(source, part, [file.filename for file in chosen])
    return sorted(chosen, key=lambda file: _numbered(file.filename))


def _check_parquet(source: HubSource, part: str, names: list[str]) -> None:
    if len({name.rpartition("/")[0] for name in names}) > 1:
        raise unfit(
            source,
            f"has split {part!r} in several folders. Name the folder too, as in 'data/{part}'",
        )
    totals = {int(total) for name in names for total in re.findall(r"-of-(\d+)[^/]*$", name)}
    if totals - {len(names)}:
        raise unfit(
            source,
            f"lists {len(names)} files of split {part!r}, and their names give another number",
        )


def _numbered(name: str) -> list[str | int]:
    """Return a key that sorts shard 9 before shard 10."""
    return [int(each) if each.isdecimal() else each for each in re.split(r"(\d+)", name)]


def unfit(source: HubSource, what: str) -> ZSRobustError:
    """Return the error for a repository that does not hold what it should."""
    return ZSRobustError(f"{source.repo} {what}. Its files: {_page(source)}/tree/{source.revision}")


def _page(source: HubSource) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/datasets/{source.repo}"


def _check_room(size: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).absolute()
    free = shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free
    if free < size:
        raise ZSRobustError(
            f"{size / 1e9:.1f} GB are to be fetched, and {cache} has room for {free / 1e9:.1f} GB. "
            "Make room there, or set HF_HOME to a folder on another disk."
        )


def _is_cached(source: HubSource, patterns: list[str]) -> bool:
    """Return whether the repository's list of files is cached, and every file that matches."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        get_cached_repo_tree(source.repo, repo_type="dataset", revision=source.revision)
        _snapshot(source, patterns, silent_bar(), local_files_only=True)
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        return False
    return True


def _snapshot(source: HubSource, patterns: list[str], bar: type[Any], **how: Any) -> Any:
    from huggingface_hub import snapshot_download

    return snapshot_download(
        source.repo,
        repo_type="dataset",
        revision=source.revision,
        allow_patterns=patterns,
        tqdm_class=bar,
        **how,
    )


def _fetch(source: HubSource, absent: "list[DryRunFileInfo]", progress: Progress) -> None:
    """Download files, several at a time; raises ZSRobustError if the disk has no room for them."""
    if not absent:
        return
    total = _size(absent)
    _check_room(total)
    step = f"downloading {source.repo}"
    bar = silent_bar(lambda done: progress(step, min(done, total), total))
    with _asking(source, "its files"):
        _snapshot(source, [glob.escape(file.filename) for file in absent], bar)
    progress(step, total, total)


def _size(found: "list[DryRunFileInfo]") -> int:
    return sum(file.file_size or 0 for file in found)


def _is_whole(source: HubSource, file: "DryRunFileInfo") -> bool:
    """Return whether a file has the hub's checksum: sha256 of a large file, or git's sha1."""
    path, checksum = Path(file.local_path), _checksum(source, file)
    if checksum is None or not path.exists():
        return path.exists()
    with path.open("rb") as content:
        if len(checksum) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == checksum
        blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        blob.update(content.read())
        return blob.hexdigest() == checksum


def _checksum(source: HubSource, file: "DryRunFileInfo") -> str | None:
    """Return the hub's checksum of a file; None if it is not known.

    The cache does not store it on a disk without links; there, only new files are verified.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    checksum: str | None = None
    if os.path.islink(file.local_path):
        checksum = Path(os.readlink(file.local_path)).name
    elif file.will_download:
        path = {"repo_type": "dataset", "revision": source.revision}
        with _asking(source, file.filename):
            checksum = get_hf_file_metadata(hf_hub_url(source.repo, file.filename, **path)).etag
    return checksum if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", checksum or "") else None


@contextmanager
def _asking(source: HubSource, what: str) -> Iterator[None]:
    """Raise our line for an error of huggingface_hub."""
    from huggingface_hub.errors import DryRunError

    try:
        yield
    except ZSRobustError:
        raise
    except Exception as error:  # of the network, the hub, the disk; and of a damaged cache
        wrapped = isinstance(error, FileNotFoundError | DryRunError) and error.__cause__
        raise _explain(wrapped or error, source, what) from error


def _explain(error: BaseException, source: HubSource, what: str) -> ZSRobustError:
    """Return our line for an error of huggingface_hub."""
    from huggingface_hub import constants, errors

    repo, page = source.repo, _page(source)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Unreachable(
            f"{repo} is not, or not all, on this machine, and HF_HUB_OFFLINE is set. Unset it once."
        )
    if isinstance(error, errors.GatedRepoError):
        return ZSRobustError(
            f"{repo} asks for consent. Accept its terms at {page} and set HF_TOKEN to your token."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ZSRobustError(
            f"{repo} has no revision {source.revision} (any more). Its history: {page}/commits/main"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        file = str(error.response.url).partition(f"{source.revision}/")[2]
        return unfit(source, f"has no {file}")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return ZSRobustError(
            f"There is no dataset {repo} on the hub, or it is private. See {page}, or set HF_TOKEN."
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return ZSRobustError(
            f"The hub refuses {repo} ({error.response.status_code}). Accept its terms at {page} "
            "and set a valid HF_TOKEN."
        )
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, AttributeError | TypeError | KeyError | RecursionError):
        folder = Path(constants.HF_HUB_CACHE, f"datasets--{repo.replace('/', '--')}")
        return ZSRobustError(f"{folder} is damaged ({reason}). Delete it, and run again.")
    network = isinstance(error, ConnectionError | TimeoutError)
    if isinstance(error, OSError) and error.errno and not network:
        return ZSRobustError(
            f"{repo}: {what} cannot be stored under {constants.HF_HUB_CACHE} ({reason}). "
            "Make room there, or set HF_HOME to a folder on another disk."
        )
    return Unreachable(
        f"{repo}: {constants.ENDPOINT} gives no answer for {what} ({reason}). "
        "Check the network and HF_ENDPOINT, run again."
    )
