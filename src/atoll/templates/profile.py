"""The variables of a template where login shells would forget them.

Every command of the SDKs runs in a login shell, and the `/etc/profile` of most distributions sets
`PATH` anew: an image whose `PATH` leads to its own programs would lose them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

_FILE = "/etc/profile.d/00-template-path.sh"
_SCRIPT = """\
# Written when the sandbox started: directories of its template's PATH that are missing go first.
for _directory in {directories}; do
    case ":$PATH:" in
        *":$_directory:"*) ;;
        *) PATH="$_directory:$PATH" ;;
    esac
done
unset _directory
export PATH
"""


def profile_files(envs: Mapping[str, str]) -> dict[str, str]:
    """What has to be written, by path, so that login shells know the template's `PATH`."""
    directories = [each for each in envs.get("PATH", "").split(":") if each.startswith("/")]
    if not directories:
        return {}
    quoted = " ".join(shlex.quote(each) for each in reversed(directories))
    return {_FILE: _SCRIPT.format(directories=quoted)}
