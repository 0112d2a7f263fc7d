"""The one exception for mistakes a user can make and mend."""


class UserError(ValueError):
    """Something in the input is wrong; the message is one sentence that says what and what to do.

    The command line prints it without a traceback and exits with 2; to a program it is a
    ValueError.
    """
