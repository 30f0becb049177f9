"""The one exception a user's mistake raises, and the exit code of a command that was stopped."""


class UserError(Exception):
    """Input the program cannot work with.

    The message is one line that names the culprit and the remedy. The command line prints it
    without a traceback and exits with code 2.
    """


INTERRUPTED = 130
"""Exit code of a command that the user stopped: shells' own for SIGINT."""
