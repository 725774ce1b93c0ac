# SPDX-License-Identifier: Apache-2.0
"""The caller's environment is no input: which variables are left to what the recipe starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# How pip reaches an index is the caller's choice; where it installs, and what else it may, isn't.
REACH = frozenset(
    {
        "cache-dir",
        "cert",
        "client-cert",
        "default-timeout",
        "extra-index-url",
        "find-links",
        "index-url",
        "keyring-provider",
        "no-cache-dir",
        "no-index",
        "proxy",
        "resume-retries",
        "retries",
        "timeout",
        "trusted-host",
    }
)
# How git reaches a server. A hook or `git rebase --exec` sets GIT_DIR and more for the repository
# that it runs in; ours works on others.
GIT_REACH = ("GIT_SSH", "GIT_SSL", "GIT_HTTP", "GIT_PROXY", "GIT_ASKPASS")
# How text is read and written. The others make another Python of it: other modules, no asserts.
PYTHON_TEXT = frozenset(
    {"PYTHONCOERCECLOCALE", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONUTF8"}
)
# What tar, shells and the compressors that they start take for options.
OPTIONS = frozenset(
    {
        "BASH_ENV",
        "BZIP",
        "BZIP2",
        "CDPATH",
        "ENV",
        "GLOBIGNORE",
        "GREP_OPTIONS",
        "GZIP",
        "POSIXLY_CORRECT",
        "TAPE",
        "TAR_OPTIONS",
        "XZ_DEFAULTS",
        "XZ_OPT",
    }
)


def kept(name: str) -> bool:
    """Whether a variable of the caller's stays."""
    if name == "PIP_CONFIG_FILE":
        return True  # where the index may be named
    if name.startswith("PIP_"):
        return pip_option(name) in REACH
    if name.startswith("GIT_"):
        return name.startswith(GIT_REACH)
    if name.startswith("PYTHON"):
        return name in PYTHON_TEXT
    return name not in OPTIONS


def dropped(environment: Mapping[str, str]) -> list[str]:
    """The variables that go, of all there are."""
    return [name for name in environment if not kept(name)]


def pip_option(variable: str) -> str:
    """What a variable is called among pip's options."""
    return variable.removeprefix("PIP_").lower().replace("_", "-")


def pip_settings(listing: str, read: Callable[[str], object]) -> dict[str, str]:
    """What `pip config list` prints, as variables; only how an index is reached.

    read: turns a value as pip prints it (a Python string) into the value. Later lines win, as with
    pip: the environment stands behind the files.
    """
    found = {}
    for line in listing.splitlines():
        name, separator, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if not separator or section not in ("global", "install", ":env:") or option not in REACH:
            continue
        try:
            text = str(read(value))
        except (ValueError, SyntaxError):
            continue
        found["PIP_" + option.upper().replace("-", "_")] = " ".join(text.split())
    return found


def pip_variables(environment: Mapping[str, str]) -> str:
    """pip's variables in the form in which it lists its settings."""
    named = {name: value for name, value in environment.items() if name.startswith("PIP_")}
    return "".join(f":env:.{pip_option(name)}={value!r}\n" for name, value in named.items())
