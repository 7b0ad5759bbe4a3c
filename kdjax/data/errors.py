"""The errors for data that is missing, truncated, damaged, or does not come."""


class DataError(RuntimeError):
    """Files of a dataset are missing or damaged; the message names the file and what to do."""


class SourceTimeout(DataError):
    """A source did not answer in time; the message names it and the batch that was waited for."""
