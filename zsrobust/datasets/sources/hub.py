"""Copies of datasets in repositories of the Hugging Face hub: which files, fetched, and verified.

A copy is pinned to a commit. Files lie in the cache of huggingface_hub, whose HF_HOME, HF_TOKEN,
HF_ENDPOINT and HF_HUB_OFFLINE work as everywhere; beside them we keep the listing of the
repository, and which files we verified.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from zsrobust.core.errors import UNPRINTABLE, ZSRobustError
from zsrobust.core.hub import Unreachable
from zsrobust.core.specs import field_types
from zsrobust.core.values import fits
from zsrobust.datasets import Progress, Split

#: Seconds that the hub has to answer at all, before anything is asked of it that it may retry.
PATIENCE = 5.0


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A copy of a dataset in a repository of the hub, at a pinned revision."""

    repo: str
    revision: str  #: a full commit
    format: Literal["parquet", "tar", "zip"]
    test: tuple[
        str, ...
    ] = ()  #: the repository's splits that make our test split, in this order; zip: its files
    train: tuple[str, ...] = ()
    image: str = "image"  #: parquet: column of the image, struct<bytes, path> or binary
    #: Parquet: column of the label, an integer or bool; tar: its extension, "cls" if not given.
    label: str = "label"
    names: str | None = (
        None  #: parquet: column that holds the class name of every row, which is the label then
    )
    inside: str = ""  #: zip: folder inside the archive that holds one folder a class
    order: Literal["canonical"] | None = (
        None  #: what its labels mean where it carries no class names
    )

    def __post_init__(self) -> None:
        """Raise ZSRobustError for a revision that can move, and for fields of another type."""
        for name, kind in field_types(self).items():
            if not fits(value := getattr(self, name), kind):
                raise ZSRobustError(f"{self.repo}: {name} cannot be {value!r}.")
        if len(self.repo) > 200 or UNPRINTABLE.search(self.repo):
            raise ZSRobustError(f"{self.repo[:200]!r} is no repository of the hub: ORG/NAME.")
        if not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ZSRobustError(
                f"{self.repo}: revision {self.revision!r} is not a full commit of 40 hex digits."
            )

    def parts(self, split: Split) -> tuple[str, ...]:
        """Return the repository's splits, or files of a zip, that make our split."""
        return self.test if split == "test" else self.train


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub lists it."""

    path: str
    size: int
    sha256: str | None  #: where the hub states it, which it does for large files


def files(source: HubSource, split: Split, folder: Path) -> list[HubFile]:
    """Return the files of a split, in reading order; the listing is stored under `folder`.

    Raises ZSRobustError if there are none or not all, and Unreachable if the listing is not stored
    and cannot be asked for.
    """
    names = source.parts(split)
    if not names:
        raise ZSRobustError(f"{source.repo} serves as no {split} split.")
    listing = _listing(source, folder)
    return [file for name in names for file in _SELECT[source.format](source, name, listing)]


def missing(source: HubSource, split: Split, folder: Path) -> list[HubFile]:
    """Return those files of a split that are not in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    def cached(file: HubFile) -> bool:
        found = try_to_load_from_cache(
            source.repo, file.path, revision=source.revision, repo_type="dataset"
        )
        return isinstance(found, str)

    return [file for file in files(source, split, folder) if not cached(file)]


def download(source: HubSource, split: Split, folder: Path, progress: Progress) -> list[Path]:
    """Fetch and verify the missing files of a split, and return its paths in reading order.

    `progress` is called with a file's path in the repository, its bytes so far and its size, from
    any thread.
    """
    from zsrobust.core.files import write_atomically

    if absent := missing(source, split, folder):
        _check_room(sum(file.size for file in absent))
        _check_there(source)
    memory = _beside(source, folder, "verified")
    verified: dict[str, list[int]] = {}
    with suppress(OSError, ValueError, TypeError, RecursionError):
        verified.update(json.loads(memory.read_bytes()))
    paths = []
    for file in files(source, split, folder):
        path, stamp = _fetch(source, file, verified.get(file.path), progress)
        if verified.get(file.path) != stamp:
            verified[file.path] = stamp
            write_atomically(memory, json.dumps(verified, indent=1).encode())
        progress(file.path, file.size, file.size)
        paths.append(path)
    return paths


def _listing(source: HubSource, folder: Path) -> list[HubFile]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    from zsrobust.core.files import write_atomically

    path = _beside(source, folder, "files")
    with suppress(
        OSError, ValueError, KeyError, TypeError, RecursionError
    ):  # not stored, or not whole
        stored = [HubFile(**file) for file in json.loads(path.read_bytes())["files"]]
        if all(
            fits(getattr(file, name), kind)
            for file in stored
            for name, kind in field_types(file).items()
        ):
            return stored
    _check_there(source)
    with _asking(source, "its list of files"):
        tree = HfApi().list_repo_tree(
            source.repo, recursive=True, revision=source.revision, repo_type="dataset"
        )
        found = [
            HubFile(e.path, e.size, e.lfs.sha256 if e.lfs else None)
            for e in tree
            if isinstance(e, RepoFile)
        ]
    write_atomically(
        path, json.dumps({"files": [asdict(file) for file in found]}, indent=1).encode()
    )
    return found


def _beside(source: HubSource, folder: Path, what: str) -> Path:
    return folder / f"{source.repo.replace('/', '--')}@{source.revision}.{what}.json"


def _parquet_files(source: HubSource, split: str, listing: Sequence[HubFile]) -> list[HubFile]:
    # The second form is that of the branch refs/convert/parquet; its partial-SPLIT holds the first
    # 5 GB only.
    pattern = re.compile(
        rf"(.*/)?({re.escape(split)}-\d+-of-(?P<of>\d+)(-\w+)?|{re.escape(split)}/\d+)\.parquet"
    )
    matches = [(file, match) for file in listing if (match := pattern.fullmatch(file.path))]
    if len({match[1] for _, match in matches}) > 1:
        raise unfit(
            source,
            f"has split {split!r} in several folders. Name the folder too, as in 'data/{split}'",
        )
    if any(int(match["of"]) != len(matches) for _, match in matches if match["of"]):
        raise unfit(
            source,
            f"lists {len(matches)} files of split {split!r}, and their names say another number",
        )
    return _some(source, split, sorted((file for file, _ in matches), key=lambda file: file.path))


def _tar_files(source: HubSource, split: str, listing: Sequence[HubFile]) -> list[HubFile]:
    pattern = re.compile(rf"{re.escape(split)}/(\d+)\.tar")
    numbered = [
        (int(match[1]), file) for file in listing if (match := pattern.fullmatch(file.path))
    ]
    shards = _some(source, split, [file for _, file in sorted(numbered, key=lambda pair: pair[0])])
    return [
        file for file in listing if file.path in ("classnames.txt", f"{split}/nshards.txt")
    ] + shards


def _zip_files(source: HubSource, name: str, listing: Sequence[HubFile]) -> list[HubFile]:
    return _some(source, name, [file for file in listing if file.path == name])


def _some(source: HubSource, split: str, found: list[HubFile]) -> list[HubFile]:
    if not found:
        raise unfit(source, f"has no {source.format} files of split {split!r}")
    return found


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


def _check_there(source: HubSource) -> None:
    """Raise Unreachable soon: the calls that list and fetch would try for half a minute first."""
    from huggingface_hub import HfApi

    with _asking(source, "its revision"):
        HfApi().dataset_info(source.repo, revision=source.revision, timeout=PATIENCE)


def _fetch(
    source: HubSource, file: HubFile, verified: list[int] | None, progress: Progress
) -> tuple[Path, list[int]]:
    """Return a verified file's path and stamp; a file that does not match is fetched once more."""
    from huggingface_hub import hf_hub_download

    for _ in range(2):
        with _asking(source, file.path):
            name = hf_hub_download(
                source.repo,
                file.path,
                repo_type="dataset",
                revision=source.revision,
                tqdm_class=_bar(file, progress),
            )
        path = Path(name)
        stamp = [path.stat().st_size, path.stat().st_mtime_ns]
        if stamp == verified or _matches(path, file):
            return path, stamp
        path.resolve().unlink()  # the blob; the path is a link to it, where the disk has links
        path.unlink(missing_ok=True)
    raise ZSRobustError(
        f"{source.repo} {file.path}: what came twice is not what the hub lists (size or sha256), "
        "and was deleted. "
        "Run again; if it stays, a proxy or a mirror (HF_ENDPOINT) changes files."
    )


def _matches(path: Path, file: HubFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    if file.sha256 is None:
        return True
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _bar(file: HubFile, progress: Progress) -> type[Any]:
    """Return the class of a progress bar that shows nothing itself and tells `progress`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "disable": True})  # type: ignore[no-untyped-call]  # huggingface_hub does not annotate it

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            progress(file.path, int(self.n), file.size)

        def update_transfer(self, n: float | None = 1) -> None:
            """Ignore bytes on the wire: with this method, huggingface_hub shows no second bar."""

    return Bar


@contextmanager
def _asking(source: HubSource, what: str) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # it re-exports httpx's without saying so

    try:
        yield
    except (OSError, ValueError, RuntimeError, HTTPError) as error:  # RuntimeError is hf_xet's
        cause = (
            error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        )
        raise _explain(cause, source, what) from error


def _explain(error: BaseException, source: HubSource, what: str) -> ZSRobustError:
    """Return our line for an error of huggingface_hub."""
    from huggingface_hub import constants, errors

    repo, page = source.repo, _page(source)
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
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
    if isinstance(error, errors.EntryNotFoundError):
        return unfit(source, f"has no {what}")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return ZSRobustError(
            f"There is no dataset {repo} on the hub, or it is private. See {page}, or set HF_TOKEN."
        )
    if status in (401, 403):
        return ZSRobustError(
            f"The hub refuses {repo} ({status}). Accept its terms at {page} and set a valid "
            "HF_TOKEN."
        )
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if (
        isinstance(error, OSError)
        and error.errno
        and not isinstance(error, ConnectionError | TimeoutError)
    ):
        return ZSRobustError(
            f"{repo} {what} cannot be stored under {constants.HF_HUB_CACHE} ({reason}). "
            "Make room there, or set HF_HOME to a folder on another disk."
        )
    return Unreachable(
        f"{repo}: {constants.ENDPOINT} gives no answer for {what} ({reason}). Check the network "
        "and HF_ENDPOINT, run again."
    )


_SELECT = {"parquet": _parquet_files, "tar": _tar_files, "zip": _zip_files}
