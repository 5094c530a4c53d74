"""Explorers are made in a process without an event loop, and in loops of the tests' own."""

import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_loop_of_a_browser() -> Iterator[None]:
    """Hides the loop that Playwright leaves running once a test of a browser has run."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)
