"""Whether the network is there: asked once and quickly, before anything that would retry for a minute."""

from zsrobust.core.errors import ZSRobustError


class Unreachable(ZSRobustError):  # noqa: N818 (it is read as a state of the network)
    """Something must be downloaded, and cannot be."""


def check_network(missing: str) -> None:
    """Raise Unreachable at once if what is missing cannot be downloaded: "The weights … are not here"."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise Unreachable(
            f"{missing}, and HF_HUB_OFFLINE is set. `--suite mini` needs no download."
        )
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:
        line = (
            f"{missing}, and {constants.ENDPOINT} does not answer. `--suite mini` needs no network."
        )
        raise Unreachable(line) from error
