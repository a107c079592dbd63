"""The one exception that is meant for the user's eyes."""


class GmaeToolsError(Exception):
    """Something the user can mend: one line that says what is wrong and what to do."""
