"""Exceptions that are meant for the user's eyes."""


class GmaeToolsError(Exception):
    """Something the user can mend: one line that says what is wrong and what to do."""


class CannotWriteError(GmaeToolsError):
    """There is no folder, no permission or no room for results, so that there is no use in going on."""
