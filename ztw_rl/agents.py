"""Where trained agents are: ``agents/<name>``, and the results of distillation runs."""

from __future__ import annotations

import difflib
from pathlib import Path

from ztw_rl import runs
from ztw_rl.core.files import load_json, subfolders
from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import canonical
from ztw_rl.rl.environments import Environment, InEnvironment
from ztw_rl.settings import parse_stored

AGENT = "agent"
"""Folder of a distillation run that holds the agent it made."""
CONFIG_FILE = "agent.json"
DEFAULT = "pong"
_FORMER = "/input"
"""Ends the former names of agents with an exit at the input, which are their game's own now."""
_CHECKOUT = Path(__file__).parent.parent / "agents"


def shipped() -> dict[str, Path]:
    """Agents in ``agents/`` of the current directory, else of the checkout, by name.

    Variants lie in their game's folder and have names such as ``pong/paper``.
    """
    for folder in (Path("agents"), _CHECKOUT):
        paths = [path for game in subfolders(folder) for path in (game, *subfolders(game))]
        found = {
            path.relative_to(folder).as_posix(): path
            for path in paths
            if (path / CONFIG_FILE).is_file()
        }
        if found:
            return dict(sorted(found.items()))
    return {}


def find(wanted: str | None, runs_dir: Path) -> Path:
    """The folder of an agent.

    Args:
        wanted: A shipped agent's name in any spelling (``Pong``, ``pong/paper``), an agent's
            folder, or a distillation run; by default the newest finished distillation run, else
            the shipped agent.
        runs_dir: Usually ``runs``.

    Raises:
        UserError: There is no such agent.
    """
    if wanted == "":
        raise UserError("--agent is empty; name an agent, or leave it out")
    available = shipped()
    if wanted is None:
        made = runs.newest(runs_dir, "distill", holding=f"{AGENT}/{CONFIG_FILE}")
        if made is not None:
            return made / AGENT
        if not available:
            raise UserError("there is no agent yet; make one with: ztw-rl distill-ics")
        return available.get(DEFAULT, next(iter(available.values())))
    for folder in (Path(wanted), Path(wanted) / AGENT):
        if (folder / CONFIG_FILE).is_file():
            return folder
    # A path is no name: whoever mistypes one should not get another agent.
    spelled = {_canonical(name): path for name, path in available.items()}
    name = _canonical(wanted)
    if name in spelled:
        return spelled[name]
    former = spelled.get(name.removesuffix(_FORMER))
    if former is not None and "input" in load_json(former / CONFIG_FILE).get("exits", ()):
        return former
    if Path(wanted).is_dir():
        raise UserError(f"{wanted} holds no {CONFIG_FILE}; is its distillation finished?")
    raise UserError(f"there is no agent '{wanted}'; {_hint(wanted, list(available))}")


def _canonical(name: str) -> str:
    """An agent's name, ``Pong`` or ``pong/paper``, as all its spellings are."""
    return "/".join(map(canonical, name.removeprefix("ALE/").split("/")))


def _hint(wanted: str, available: list[str]) -> str:
    """What somebody may have meant who named no agent."""
    if Path(wanted).is_file() and (Path(wanted).parent / CONFIG_FILE).is_file():
        return f"it is a file; name its folder, {Path(wanted).parent}"
    if not available:
        return "make one with: ztw-rl distill-ics"
    for name in (wanted, Path(wanted).name):
        near = difflib.get_close_matches(name, available, n=1)
        if near:
            return f"did you mean '{near[0]}'?"
    return f"there are {', '.join(available)}"


def file_stem(folder: Path) -> str | None:
    """A shipped agent's name for files, ``pong-paper``; None of another folder.

    Args:
        folder: What ``find`` gives.
    """
    names = {path.resolve(): name for name, path in shipped().items()}
    name = names.get(folder.resolve())
    return None if name is None else name.replace("/", "-")


def stored_environment(folder: Path) -> Environment:
    """What an agent plays, read without loading torch.

    Args:
        folder: What ``find`` gives.

    Raises:
        UserError: Its configuration is damaged.
    """
    path = folder / CONFIG_FILE
    stored = load_json(path)
    kinds = ("atari", "env") if isinstance(stored, dict) else ()
    named = {name: stored[name] for name in kinds if stored.get(name)}
    if not named:
        raise UserError(f"{path} names no game; restore it")
    return parse_stored(InEnvironment, named, path).environment
