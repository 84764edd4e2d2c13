"""Settings for tests, which need not be those of a whole experiment."""

from typing import Any

from stedm_jax.settings.root import Settings
from stedm_jax.settings.section_reader import Reader


def settings_of(config: Any) -> Settings:
    """A configuration as settings; whether its sections go together is not asked."""
    reader = Reader()
    settings = reader.section(Settings(), config, "config")
    assert not reader.problems, reader.problems
    return settings
