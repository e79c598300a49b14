"""The one exception that users see as one line."""


class InputError(ValueError):
    """A file, key or value from the user is unusable; the message names it and the mend."""
