"""What the tests of the checker share."""

import time

import pytest


@pytest.fixture(autouse=True)
def budget_in_cpu_time(monkeypatch):
    """The search for a mistake may take some seconds: in tests those of the processor, so that none depends on load."""
    monkeypatch.setattr(time, "monotonic", time.process_time)
