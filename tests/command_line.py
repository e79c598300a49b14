"""What the tests of several commands assert alike."""

from click.testing import Result


def assert_one_line_of_error(result: Result, *parts: str) -> None:
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr
