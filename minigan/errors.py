"""The one kind of error that is the reader's to mend."""


class UserError(ValueError):
    """What a person can put right: a bad argument, file or state.

    Its text is one sentence that says what came, what was expected and what to do. The command line prints the
    text and ends with exit code 2; anything that is not a UserError is a bug of minigan and keeps its traceback.
    """
