"""Put the built docs of one version into the folder of the published site."""

import json
import re
import shutil
import sys
from pathlib import Path

LATEST = "latest"


def versions(site: Path) -> list[str]:
    """Return the versions that a site has: `latest`, then the releases, the newest first."""
    releases = [each.name for each in site.iterdir() if re.match(r"v\d", each.name)]
    releases.sort(key=lambda name: [int(part) for part in re.findall(r"\d+", name)], reverse=True)
    return [LATEST, *releases] if (site / LATEST).is_dir() else releases


def publish(built: Path, site: Path, version: str, url: str) -> None:
    """Replace a version's folder, and write the list of versions and the page that leads to one.

    The first page leads to the newest release, or to `latest` without a release. `url` is where the
    site is published.
    """
    if version != LATEST and not re.fullmatch(r"v\d+(\.\d+)*\w*", version):
        raise SystemExit(f"{version!r} is not a version. Expected {LATEST}, or vX.Y.Z.")
    shutil.rmtree(site / version, ignore_errors=True)
    shutil.copytree(built, site / version, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo"))
    found = versions(site)
    stable = next((name for name in found if name != LATEST), LATEST)
    entries = [
        {"name": name, "version": name, "url": f"{url}/{name}/", "preferred": name == stable}
        for name in found
    ]
    (site / "versions.json").write_text(json.dumps(entries, indent=2) + "\n")
    (site / "index.html").write_text(
        "<!doctype html>\n"
        '<html lang="en"><meta charset="utf-8"><title>zsrobust</title>\n'
        f'<meta http-equiv="refresh" content="0; url={stable}/">\n'
        f'<p><a href="{stable}/">Documentation of zsrobust</a></p></html>\n'
    )
    (site / ".nojekyll").touch()  # folders whose names begin with an underscore are served, too


if __name__ == "__main__":
    built, site, version, url = sys.argv[1:]
    publish(Path(built), Path(site), version, url)
