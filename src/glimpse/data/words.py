"""Numbers in messages."""


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "crop"), count(1200, "crop"), count(2, "person", "people")
    ('1 crop', '1,200 crops', '2 people')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def people(number: int) -> str:
    """So many people."""
    return count(number, "person", "people")


def first_few(names: list[str], shown: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
