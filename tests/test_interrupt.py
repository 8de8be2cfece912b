"""Ctrl-C in the first second of the command, while it imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxgd
from jaxgd.interrupt import is_command

ROOT = str(Path(jaxgd.__file__).parents[1])

CUSTOMIZE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the parent ignores it

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.parametrize("module", ["jax", pytest.param("tyro", marks=pytest.mark.slow)])
def test_an_interrupt_while_importing_is_silent(tmp_path, module):
    (tmp_path / "sitecustomize.py").write_text(CUSTOMIZE)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "INTERRUPT_AT": module}
    words = [sys.executable, "-m", "jaxgd", "fit", "--data", "iris"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("python -m jaxgd fit", True),
        ("python -X importtime -m jaxgd", True),
        ("python -I /usr/bin/jaxgd fit", True),
        ("python /home/me/.venv/bin/jaxgd", True),
        ("python -m pytest jaxgd", False),
        ("python -c code jaxgd", False),
        ("python train.py -m jaxgd", False),
        ("python", False),
    ],
)
def test_only_the_command_ends_in_silence(words, expected):
    assert is_command(words.split()) == expected
