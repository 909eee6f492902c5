"""Shows tox the interpreters that pyenv has installed.

pyenv's commands on PATH fail for every version that is not selected at the moment; the
interpreters behind them work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tox.plugin import impl

if TYPE_CHECKING:
    from tox.config.sets import ConfigSet
    from tox.session.state import State


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:  # noqa: ARG001 (tox's signature)
    """Add them to what --discover names; tox takes the first that an environment asks for."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    interpreters = sorted(root.glob("versions/3.*/bin/python"))
    state.conf.options.discover.extend(map(str, interpreters))
