"""The ``ztw-rl`` command: finds the sub-command's module and reports what goes wrong.

To add a command, write ``commands/<name>.py`` and add its line to ``COMMANDS``.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from ztw_rl import __version__
from ztw_rl.errors import INTERRUPTED, UserError

COMMANDS = {
    "train-ppo": "train a PPO policy on an Atari game",
    "score": "play full games with a policy before it is distilled",
    "distill-ics": "fit internal classifiers to a trained policy",
    "eval": "measure an early-exit agent's return against what its decisions cost",
    "report": "put all agents' tables side by side: what keeping the return costs",
    "supervised train-backbone": "train an image classifier",
    "supervised train-ics": "fit internal classifiers to a trained image classifier",
    "supervised eval": "measure early-exit classifiers' accuracy within time budgets",
    "supervised export": "write an early-exit classifier as one file that runs without torch",
    "supervised bench": "time a classifier's answers by backend, batch size and threads",
    "bench": "time an agent's decisions by backend, batch size and threads",
    "export": "write an agent as one file that runs without torch",
}
"""Each command and its line in the help; ``train-ppo`` lives in ``commands/train_ppo.py``, and
``supervised eval`` in ``commands/supervised/eval.py``."""

USER_ERROR = 2
BROKEN_PIPE = 128 + 13


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Command line without the program's name; the process's own by default.

    Returns:
        The exit code: 0, 2 for a user's mistake, 130 after Ctrl-C, 141 if nobody reads on.
    """
    try:
        try:
            return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which would complain about the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(COMMANDS))
        return 0 if arguments else USER_ERROR
    if arguments[0] == "--version":
        print(f"ztw-rl {__version__}")
        return 0
    group = {n: line for n, line in COMMANDS.items() if n.startswith(f"{arguments[0]} ")}
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(_help(group))
        return 0 if len(arguments) > 1 else USER_ERROR
    n_words = 2 if group else 1
    name, rest = " ".join(arguments[:n_words]), arguments[n_words:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, group or COMMANDS, n=1, cutoff=0.0)
        raise UserError(f"there is no command '{name}'; did you mean '{near[0]}'?")
    # Imported on demand: the commands load tyro, and at work torch, which takes seconds.
    module = name.replace("-", "_").replace(" ", ".")
    command = importlib.import_module(f"ztw_rl.commands.{module}")
    code: int = command.main(rest)
    return code


def _help(commands: Mapping[str, str]) -> str:
    width = max(map(len, commands))
    return "\n".join(
        [
            "usage: ztw-rl COMMAND [OPTIONS]",
            "",
            "Early exit for reinforcement-learning policies and image classifiers.",
            "",
            "commands:",
            *(f"  {name:{width}}  {summary}" for name, summary in commands.items()),
            "",
            "ztw-rl COMMAND --help shows a command's options; ztw-rl --version, the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
