"""The exception for errors that the user can fix."""


class UserError(ValueError):
    """An error that the user can fix: a bad argument, file or state.

    The message is one sentence that says what was given, what was expected and what to do. The command line prints the
    message and exits with code 2. Any other exception is a bug in minigan and is shown with its traceback.
    """
