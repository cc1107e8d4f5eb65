"""A disk that is full, which a namespace of one's own has without being root."""

import subprocess
import sys

import pytest
from paths import ROOT
from tiny_training import write_tokens

TRAIN = """
import sys
from pathlib import Path
from tiny_training import section, trained
if __name__ == "__main__":
    trained(section(), Path(sys.argv[1]), Path(sys.argv[2]), forks=False, checkpoint_interval=2)
"""


def on_a_disk(size: str, folder, command: list[str]) -> subprocess.CompletedProcess:
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    return subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, folder, *command],
                          capture_output=True, text=True, cwd=ROOT)  # fmt: skip


@pytest.mark.slow
# Room for the first weights, and for the weights of a checkpoint or not even for them.
@pytest.mark.parametrize("size", ["2m", "4m"])
def test_a_full_disk_is_said_once_and_in_our_words(size, tmp_path, monkeypatch):
    state = tmp_path / "state"
    state.mkdir()
    if on_a_disk(size, state, ["true"]).returncode != 0:
        pytest.skip("this kernel gives no user a namespace of their own")
    tokens = write_tokens(tmp_path / "tokens", train=20_000, heldout=2_000)
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests/support'}")

    done = on_a_disk(size, state, [sys.executable, str(tmp_path / "train.py"), str(tokens), str(state)])

    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert "checkpoint of step 2" in last
    assert last.endswith("free some space, then run this again")
    assert "ERROR" not in done.stderr
    assert "saving" not in done.stderr
