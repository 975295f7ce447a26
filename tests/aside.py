"""What takes longer than a test should (`make aside`): benchmarks that start many processes."""

import pytest
from tests.test_benchmarks import SLOW, gives_rows


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_benchmark_gives_rows_and_writes_them(name, tmp_path):
    gives_rows(name, tmp_path)
