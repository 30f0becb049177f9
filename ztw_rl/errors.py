"""The one exception a user's mistake raises."""


class UserError(Exception):
    """Input the program cannot work with.

    The message is one line that names the culprit and the remedy. The command line prints it
    without a traceback and exits with code 2.
    """
