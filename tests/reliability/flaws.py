"""How checks of the campaign say that something is not as it should be."""


class Flaw(Exception):
    """Something is not as it should be."""


def require(condition: object, flaw: str) -> None:
    """Make sure of a condition.

    Raises:
        Flaw: it does not hold.
    """
    if not condition:
        raise Flaw(flaw)
