import contextlib
import io

import pytest
import small
from absl import flags

from kdjax import cli

FLAGS = ("family", "dataset", "workdir", "methods", "seeds", "scale", "results", "configs")
FLAGS += ("render", "pages")


def atlas(*arguments):
    """Runs `kdjax atlas`; gives status, output and error."""
    before, out, err, status = set(flags.FLAGS), io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(["kdjax", "atlas", *map(str, arguments)])
        except SystemExit as end:
            status = end.code or 0
        finally:
            for name in (set(flags.FLAGS) - before) & set(FLAGS):
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
    return status, out.getvalue(), err.getvalue()


WRONG = {
    "a family": (["--family=twos", "--workdir=w"], 'did you mean "two"'),
    "a data set": (["--family=two", "--workdir=w", "--dataset=smal"], 'did you mean "small"'),
    "a method": (["--family=two", "--workdir=w", "--methods=kdd"], 'did you mean "kd"'),
    "seeds": (["--family=two", "--workdir=w", "--seeds=one"], "--seeds is one"),
    "no workdir": (["--family=two"], "--workdir is missing"),
    "no results": (["--family=two", "--render", "--results=none"], "holds no summary"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_line(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, wanted = WRONG[what]
    configs = small.write_configs(tmp_path / "configs")
    status, _, err = atlas(f"--configs={configs}", "--dataset=small", *arguments)
    assert status == 2
    assert wanted in err
    assert len(err.strip().splitlines()) == 1
