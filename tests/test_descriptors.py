from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from monitor.descriptors import hard_limit, raise_limit, shortage
from monitor.settings import ProbingSettings


@pytest.fixture
def _limits_as_before() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_limits_as_before")
def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    hard = hard_limit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    assert raise_limit() == hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_limit_below_what_the_concurrency_needs_is_told_with_its_remedy() -> None:
    probing = ProbingSettings(concurrency=512)
    assert shortage(probing, 10_000, 4096) is None
    assert shortage(probing, 10_000, resource.RLIM_INFINITY) is None
    assert shortage(probing, 20, 256) is None, "twenty endpoints are never more than twenty probes"
    told = shortage(probing, 10_000, 1024)
    assert told is not None
    assert "1024 open files are allowed and 512 probes at once may need 1152" in told
    assert "LimitNOFILE=1152" in told
    assert shortage(ProbingSettings(connection="reuse"), 10_000, 4096) is not None
