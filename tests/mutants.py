"""``make mutants``: one small fault at a time in the code that must be right, and whether the tests notice.

cosmic-ray makes the faults, in a copy of the checkout. The tests' Postgres, S3 and simulator are started once
for all of them. Of the faults that mean something a number is drawn (MUTANTS=50; 0: all), by a fixed seed.
"""

import os
import random
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

COSMIC_RAY = shlex.split(os.environ.get("COSMIC_RAY", "cosmic-ray"))
MUTANTS = int(os.environ.get("MUTANTS", "50"))
TIMEOUT = 180  # seconds for the tests of one mutant; more is noticed, too
# What is mutated, and the tests that must notice, the quick ones first.
API = ("idempotency", "keys", "generate", "parameters")
PLANS = {
    "queue": (
        ["jobs/queue"],
        ["tests/queue", "tests/workers/test_cancel.py", *(f"tests/api/test_{name}.py" for name in API)],
    ),
    "rendering": (["jobs/workers/rendering.py"], ["tests/workers/test_rendering.py", "tests/workers"]),
    "denials": (
        ["jobs/workers/denials.py"],
        ["tests/workers/test_front.py::TestDenials", "tests/workers/test_front.py"],
    ),
}
SLOW = ["tests/workers/test_fleet.py"]  # whole services, which judge none of these rules alone
# Not those that end in a TypeError, as one that divides two conditions does.
MEANINGFUL = re.compile(
    "NumberReplacer|AddNot|ReplaceAndWithOr|ReplaceOrWithAnd|Delete_Not|Delete_Invert|ReplaceTrueWithFalse|"
    "ReplaceFalseWithTrue|ZeroIteration|Replace(Break|Continue)|ExceptionReplacer|BitOr_BitAnd|BitAnd_BitOr|"
    "Add_Sub|Sub_Add|Eq_NotEq|NotEq_Eq|GtE_Gt|Gt_GtE|LtE_Lt|Lt_LtE|GtE_Lt|Lt_GtE|Is_IsNot|IsNot_Is"
)


def main() -> None:
    root, copy = Path.cwd(), Path(tempfile.mkdtemp(prefix="wanapi-mutants-")) / "code"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".*", "demo", "__pycache__"))
    for name in (".venv", ".venv-s3"):
        (copy / name).symlink_to(root / name)
    os.chdir(copy)
    sys.path[0] = str(copy)
    from tests import stack  # of the copy, whose folders the simulator must have

    stack.start_all()
    ports = (stack.POSTGRES, stack.S3, stack.SIMULATOR, stack.NEWER)
    os.environ["TESTS_STACK"] = " ".join(map(str, ports))
    try:
        for name in sys.argv[1:] or PLANS:
            survived(copy, name)
    finally:
        stack.pytest_unconfigure()
        shutil.rmtree(copy.parent)


def survived(copy: Path, name: str) -> None:
    """Makes the mutants of one plan, and prints the diffs of those that no test noticed."""
    modules, tests = PLANS[name]
    config, session = copy / f"{name}.toml", copy / f"{name}.sqlite"
    command = [sys.executable, "-m", "pytest", "-x", "--reuse-db", "--failed-first", *tests]
    command += [f"--ignore={path}" for path in SLOW]
    config.write_text(
        f"[cosmic-ray]\nmodule-path = {modules}\ntimeout = {TIMEOUT}.0\nexcluded-modules = []\n"
        f'test-command = "{shlex.join(command)}"\n[cosmic-ray.distributor]\nname = "local"\n'
    )
    subprocess.run(command, cwd=copy, check=True)  # green, or every mutant would count as noticed
    subprocess.run([*COSMIC_RAY, "init", config, session], check=True)
    with sqlite3.connect(session) as database:
        draw(database)
    subprocess.run([*COSMIC_RAY, "exec", config, session], check=True)
    with sqlite3.connect(session) as database:
        results = database.execute("SELECT test_outcome, diff FROM work_results ORDER BY job_id").fetchall()
    alive = [diff for outcome, diff in results if outcome == "SURVIVED"]
    print(f"{name}: {len(results)} mutants, {len(results) - len(alive)} killed, {len(alive)} survived")
    print(*alive, sep="\n")


def draw(database: sqlite3.Connection) -> None:
    """Leaves so many of the meaningful mutants in the session, the same ones each time."""
    specs = database.execute(
        "SELECT job_id, operator_name FROM mutation_specs ORDER BY 2, module_path, occurrence"
    )
    ids = [job_id for job_id, operator in specs if MEANINGFUL.search(operator)]
    kept = set(random.Random(1).sample(ids, min(MUTANTS or len(ids), len(ids))))
    for (job_id,) in database.execute("SELECT job_id FROM work_items").fetchall():
        if job_id not in kept:
            for table in ("mutation_specs", "work_items"):
                database.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))


if __name__ == "__main__":
    main()
