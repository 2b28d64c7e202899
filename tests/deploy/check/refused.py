"""The one way in which a check fails."""


class Refused(Exception):
    """Something that would not work where it is deployed, with the reason."""
