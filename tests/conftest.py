"""Fixtures that several test files share, and which tests run by default."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `tools`, which is not installed


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests that take long")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes long: --slow runs it"))
