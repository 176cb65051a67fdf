"""The network: checked once and quickly, before a download that would retry for a minute."""

from zsrobust.core.errors import ZSRobustError


class Unreachable(ZSRobustError):  # noqa: N818 (it is read as a state of the network)
    """A download is necessary, and not possible."""


def check_network(missing: str) -> None:
    """Raise Unreachable at once if no download is possible; `missing` begins its text.

    For example, `missing` is "The weights … are not on this machine".
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set. `--suite mini` needs no download."
        raise Unreachable(f"{missing}, and {why}")
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:
        why = f"{constants.ENDPOINT} does not answer. `--suite mini` needs no network."
        raise Unreachable(f"{missing}, and {why}") from error
