"""Which source of glimpse runs, for cards and reports."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str:
    """Commit of the source that runs, with `+` if it was changed; empty if it is not in a checkout of its own."""
    here = Path(__file__)
    try:
        for command in (
            # Installed into somebody else's repository, git would name a commit that has nothing to do with glimpse.
            ["ls-files", "--error-unmatch", here.name],
            ["describe", "--always", "--dirty=+", "--abbrev=10", "--exclude", "*"],
        ):
            said = subprocess.run(
                ["git", *command], cwd=here.parent, capture_output=True, text=True, timeout=10, check=True
            )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()
