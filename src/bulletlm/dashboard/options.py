"""The options of `bullet dashboard`. The module does not import the web server, so the command line can use it quickly."""

import os
from dataclasses import dataclass
from pathlib import Path

from bulletlm.dashboard.workspace import Workspace
from bulletlm.errors import ConfigError
from bulletlm.serve.options import is_loopback

TOKEN_VARIABLE = "BULLET_DASHBOARD_TOKEN"

SHORTEST_TOKEN = 8


@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """The options of the dashboard.

    Attributes:
        workspace: the folder with runs and uploads.
        host: name or address to listen at; any other than this computer's own needs a `token`.
        port: TCP port; 0 takes a free one.
        token: what a user must know; None lets every user of this computer in.
        open_browser: whether to open the page in the user's browser.

    Raises:
        ConfigError: an option is out of range, or the dashboard would be open to the network without a token.
    """

    workspace: Workspace
    host: str = "127.0.0.1"
    port: int = 8090
    token: str | None = None
    open_browser: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"--port is {self.port}: it must be from 0 to 65535")
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(f"--host {self.host} opens the dashboard to the network: set a token with --token, or in {TOKEN_VARIABLE}")
        if self.token is not None and (len(self.token) < SHORTEST_TOKEN or not self.token.isascii() or not self.token.isprintable()):
            raise ConfigError(f"the token must have {SHORTEST_TOKEN} characters or more, all of them printable ASCII characters")


def dashboard_options(
    folder: Path, allow: tuple[Path, ...], host: str, port: int, token: str | None, open_browser: bool
) -> DashboardOptions:
    """The options from the command line; the token may be in the environment, where other users of the computer cannot see it.

    Raises:
        ConfigError: a folder does not exist, or see `DashboardOptions`.
    """
    for path in (folder, *allow):
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder: name one that exists")
    workspace = Workspace(folder.resolve(), tuple(path.resolve() for path in allow))
    token = token if token is not None else os.environ.get(TOKEN_VARIABLE)
    return DashboardOptions(workspace=workspace, host=host, port=port, token=token, open_browser=open_browser)
