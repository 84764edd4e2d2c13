"""The development data."""

from tests.data_prep.conftest import real_data

__all__ = ["real_data"]
