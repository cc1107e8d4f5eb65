import os
import subprocess
import sys

import pytest

from llmrecipe import workplace
from llmrecipe.cli.main import main
from llmrecipe.errors import ProjectError


@pytest.fixture
def project(tmp_path):
    """A folder as `llmrecipe init` makes it, without the recipe."""
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n[cache]\n    type = reflink,hardlink,symlink\n")
    (root / ".git").mkdir()
    return root


def refused(root):
    try:
        workplace.refuse_unfit(root)
    except ProjectError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["d{x}y", "a}", "{"])
def test_a_folder_in_which_dvc_can_run_nothing_is_refused(tmp_path, monkeypatch, capsys, name):
    folder = tmp_path / name / "project"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for command in ("plan", "check"):
        assert main([command, "quickstart"]) == 1
        assert "has a brace in its path" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_a_new_project_and_one_that_has_run_are_fine(project):
    assert not refused(project)
    for folder in ("artifacts/text/prepare", ".llmrecipe", ".dvc/cache", ".dvc/tmp"):
        (project / folder).mkdir(parents=True)
    assert not refused(project)


@pytest.mark.parametrize("link", ["artifacts", "artifacts/text", "artifacts/text/prepare"])
def test_outputs_behind_a_link_to_another_disk_are_refused_with_two_ways_out(project, link):
    disk = project.parent / "disk"
    disk.mkdir()
    (project / link).parent.mkdir(parents=True, exist_ok=True)
    (project / link).symlink_to(disk)
    reason = refused(project)
    assert f"'{link}' is a link to '{disk}'" in reason
    assert "dvc cache dir" in reason
    assert f"mount --bind {disk} {link}" in reason


def test_links_within_the_project_are_fine_but_for_the_folder_that_a_stage_replaces(project):
    (project / "big").mkdir()
    (project / "artifacts").symlink_to("big")
    assert not refused(project)
    (project / "big/text").mkdir()
    (project / "big/text/prepare").symlink_to("..")
    assert "'artifacts/text/prepare' is a link" in refused(project)


def test_a_user_without_an_account_needs_a_name_and_a_home(project, monkeypatch):
    def no_account(uid):
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_account)
    assert "export USER=me" in refused(project)
    assert "export HOME=" in refused(project)
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("HOME", "/tmp")
    assert not refused(project)


def test_no_git_is_refused_unless_dvc_does_without(project):
    (project / ".git").rmdir()
    assert "`git init`" in refused(project)
    (project / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    assert not refused(project)
    (project / ".dvc/config.local").unlink()
    (project.parent / ".git").mkdir()
    assert not refused(project)


@pytest.mark.parametrize("name", ["artifacts", ".llmrecipe", ".dvc/cache", ".dvc/tmp"])
def test_what_is_in_the_way_of_a_folder_is_refused(project, name, monkeypatch):
    (project / name).write_text("")
    assert f"{name}' is a file" in refused(project)
    (project / name).unlink()
    (project / name).symlink_to(project / "nowhere")
    assert f"{name}' is a link to '{project}/nowhere', where nothing is" in refused(project)
    (project / name).unlink()
    (project / name).mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != project / name and real(path, mode))
    assert f"{name}' can't be written to" in refused(project)


def test_the_cache_is_looked_for_where_dvc_has_it(project, monkeypatch):
    (project / ".dvc/config.local").write_text("[cache]\n    dir = ../../disk/cache\n")
    assert not refused(project)
    (project.parent / "disk").write_text("")
    assert "disk' is a file" in refused(project)
    (project.parent / "disk").unlink()
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(project / ".dvc/config/site"))
    assert "config' is a file" in refused(project)


def test_hard_links_between_disks_are_refused(project):
    other = "/dev/shm"
    if os.stat(other).st_dev == project.stat().st_dev:
        pytest.skip("there is one file system")
    (project / ".dvc/config").write_text(f"[cache]\n    type = hardlink\n    dir = {other}/cache\n")
    assert "cache.type" in refused(project)
    (project / ".dvc/config").write_text(f"[cache]\n    type = hardlink,symlink\n    dir = {other}/cache\n")
    assert not refused(project)


def test_a_read_only_file_system_is_named_as_such(project):
    (project / "artifacts").mkdir()
    ask = "from pathlib import Path; from llmrecipe.workplace import refuse_unfit; refuse_unfit(Path())"
    mount = "mount --bind artifacts artifacts && mount -o remount,ro,bind artifacts"
    script = f'{mount} || exit 77; exec {sys.executable} -c "{ask}"'
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=project, capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert "its file system is read-only" in done.stderr
