"""A model that can't be found."""


class Missing(ValueError):
    """A model that isn't where it is said to be: a field of it, and the reason in the user's words."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")
