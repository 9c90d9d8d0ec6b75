"""In CI a skipped test is a failed one: nothing that was meant to be tested goes untested without being seen."""

from __future__ import annotations

from collections.abc import Generator
from itertools import count

import pytest
from hypothesis import settings

from tests.real import packages
from tests.support import in_ci

# Machines are noisy: no example has a deadline. CI tries the same examples every time, a laptop always new ones.
settings.register_profile("a64patch", deadline=None, derandomize=in_ci())
settings.load_profile("a64patch")


_numbers = count()


@pytest.fixture(autouse=True)
def _own_files(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes to the journal of whoever runs it, or finds symbols that another test has cached."""
    root = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("A64PATCH_CACHE", str(packages.cache_directory()))
    monkeypatch.setenv("XDG_STATE_HOME", str(root / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / f"cache-{next(_numbers)}"))


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if in_ci() and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped in CI. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(report)
    return report
