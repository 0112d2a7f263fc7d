"""The exception for mistakes that a user can correct."""


class UserError(ValueError):
    """Something in the input is wrong; the message is one sentence that says what is wrong and, if
    possible, how to correct it.

    The command line prints it without a traceback and exits with 2. In a program it is a
    ValueError.
    """
