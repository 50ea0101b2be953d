"""The one exception that users are meant to read."""


class HorkdError(Exception):
    """Bad input, missing data or a full disk: one line that says what is wrong and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """
