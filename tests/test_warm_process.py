"""The shared process of the tests: each fork is alone, and says what a fresh process would."""

import os
import time

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def test_a_fork_has_no_shape_checks_and_keeps_nothing(run_forked):
    code = """
    import sys
    import arcee_lab.model.loading as loading
    hooked = "jaxtyping" in type(loading.__spec__.loader).__module__
    assert not hooked, "the import hook is in the way"
    assert not hasattr(sys, "left_behind")
    sys.left_behind = True
    class Here: pass
    assert Here.__module__ == "__main__" and sys.modules["__main__"].Here is Here
    print(sys.argv, __name__)
    """
    for _ in range(2):
        assert run_forked(code) == "['-c'] __main__\n"


def test_a_failure_fails_the_test_with_its_traceback(run_forked):
    with pytest.raises(AssertionError, match=r"exit 1\n\s*said\n(.|\n)*ZeroDivisionError"):
        run_forked("print('said')\n1 / 0")
    with pytest.raises(AssertionError, match="exit 3"):
        run_forked("raise SystemExit(3)")


def test_environment_and_folder_are_those_of_the_call(run_forked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import os; print(os.getcwd(), os.environ['OF_THE_CALL'])"
    assert run_forked(code, env={"OF_THE_CALL": "7"}) == f"{tmp_path} 7\n"
    assert run_forked("import os; print('OF_THE_CALL' in os.environ)") == "False\n"


def test_what_takes_too_long_is_stopped(run_forked):
    start = time.monotonic()
    with pytest.raises(AssertionError, match="exit -9"):
        run_forked("import time; time.sleep(100)", timeout=0.5)
    assert time.monotonic() - start < 50
    assert run_forked("print(1)") == "1\n"
