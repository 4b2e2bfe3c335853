"""What can go wrong for a user, as one line that says where, what and what next."""


class SDError(Exception):
    """Any failure that the user can act on; the CLI prints it and exits with 1."""


class ConfigError(SDError):
    """A request or a model configuration that cannot work."""


class CheckpointError(SDError):
    """A weight file or model folder that is missing, broken or not understood."""
