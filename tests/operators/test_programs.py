"""manage.py as a process: exit codes, and what it reads from its environment."""

import os
import subprocess
import sys

from local.parts import ROOT


def run(*command, **env):
    """A process of its own, with the tests' settings but for ``env``; None removes one."""
    env = {name: value for name, value in (os.environ | env).items() if value is not None}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )


class TestExitCodes:
    def test_a_refusal_is_one_line_and_not_0(self):
        done = run("manage.py", "requeue_jobs")

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "CommandError: Give either job ids or --status.\n"

    def test_a_database_that_is_away_is_one_sentence(self):
        done = run("manage.py", "stats", DATABASE_URL="postgresql://x:y@127.0.0.1:1/x")

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(
            "wanapi: the database of DATABASE_URL cannot be used: connection failed"
        )
        assert done.stderr.count("\n") == 1

    def test_an_argument_that_is_wrong(self):
        done = run("manage.py", "purge_jobs", "--older-than", "soon")

        assert (done.returncode, done.stdout) == (2, "")
        assert "'soon' is not an age like 90m, 24h or 7d" in done.stderr


class TestSettings:
    def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(self):
        dead = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:1")
        for given in (None, "", "a.example,10.0.0.0/8", "*"):
            done = run("manage.py", "check_setup", **dead, NO_PROXY=given, no_proxy=None)

            assert "S3: ok" in done.stdout, (given, done.stdout)

    def test_a_secret_may_come_from_a_file(self, tmp_path):
        (tmp_path / "key").write_text("from-a-file\n")
        show = "import wanapi.settings; print(wanapi.settings.API_KEY)"

        done = run("-c", show, API_KEY=None, API_KEY_FILE=str(tmp_path / "key"))

        assert done.stdout == "from-a-file\n"
