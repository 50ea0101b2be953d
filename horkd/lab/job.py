"""A run that somebody asked for."""

from dataclasses import dataclass

from horkd.lab.config import RunConfig


@dataclass(frozen=True)
class Job:
    """A run that a study asks for.

    Attributes:
        study, arm: who asks.
        config: the run.
        waits: whether it has to wait for the file of what it learns from.
    """

    study: str
    arm: str
    config: RunConfig
    waits: bool = False


def chain(config: RunConfig) -> list[RunConfig]:
    """A configuration and all that it is distilled from, directly and indirectly."""
    return [config] if config.frozen is None else [config, *chain(config.frozen)]
