"""docker/ without Docker: that what it names is there, and that nothing an operator sets is unknown."""

import importlib.util
import logging
import os
import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from django.core.management import CommandError, call_command, get_commands, load_command_class

from comfy import presets
from local.parts import ROOT
from wanapi.environment import env
from wanapi.settings import KEEPALIVE


class Loader(yaml.SafeLoader):
    """With the tags of compose: what `!reset` takes away and `!override` replaces."""


Loader.add_constructor("!reset", lambda loader, node: None)
Loader.add_constructor("!override", lambda loader, node: loader.construct_mapping(node))

DOCKER = ROOT / "docker"
COMPOSE = {path.name: yaml.load(path.read_text(), Loader) for path in sorted(DOCKER.glob("compose*.yml"))}
SERVICES = COMPOSE["compose.yml"]["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "wanapi"}
ONCE = {"migrate", "bucket", "models", "folders", "check"}
DOCKERFILES = {path: path.read_text() for path in (DOCKER / "Dockerfile", DOCKER / "comfyui/Dockerfile")}
UNITS = {path.name: path.read_text().splitlines() for path in sorted((DOCKER / "systemd").iterdir())}
# Of the compose specification, what is used here: a misspelled key is not one of them.
KEYS = {
    *("image", "build", "command", "entrypoint", "env_file", "environment", "secrets", "volumes", "tmpfs"),
    *("profiles", "depends_on", "deploy", "extra_hosts", "networks", "ports", "healthcheck", "init"),
    *("user", "read_only", "cap_add", "cap_drop", "security_opt", "logging", "restart", "stop_grace_period"),
    *("mem_limit", "network_mode", "pull_policy", "working_dir"),
}
# What others than the service read, or Docker sets for it.
FOREIGN = {"AWS_DEFAULT_REGION", "AWS_SHARED_CREDENTIALS", "HF_TOKEN", "SIMULATOR_SECONDS_PER_STEP"}
NOT_IN_CONTAINERS = {"COMFYUI_RESTART_COMMAND"}  # one container cannot restart another
COMPOSE_OWN = {"COMPOSE_FILE", "COMPOSE_PROFILES"}


def settings():
    """The names of all variables that the service reads."""
    return set(env.dump())


def interpolated():
    """The names of all variables that compose puts into its files."""
    text = "".join((DOCKER / name).read_text() for name in COMPOSE)
    empty = {name for name, value in SERVICES["comfyui"]["build"]["args"].items() if value is None}
    return set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", text)) | empty


def documented():
    return set(re.findall(r"^#?([A-Z0-9_]+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))


def set_by_compose():
    """The names of the service's variables that compose sets by itself."""
    names = {name for service in OURS.values() for name in service.get("environment", {})}
    return {name.removesuffix("_FILE") for name in names}


def command_lines():
    """Every program that an image or a unit starts, as the words of its command line."""
    for service in OURS.values():
        yield from started_by(service.get("command", []))
    for line in (DOCKER / "Dockerfile").read_text().splitlines():
        if line.startswith("CMD"):
            yield yaml.safe_load(line.removeprefix("CMD"))
    for unit in UNITS.values():
        for line in unit:
            if line.startswith("ExecStart="):
                yield shlex.split(line.removeprefix("ExecStart="))


def started_by(command):
    """The command itself, or what a shell's script starts of our own."""
    words = shlex.split(command) if isinstance(command, str) else command
    if words[:1] != ["sh"]:
        return [words]
    lines = re.split(r"&&|;|\n|\bdo\b|\bif\b", words[2])
    return [shlex.split(line) for line in lines if "manage.py" in line]


def test_every_variable_that_compose_reads_is_documented():
    assert interpolated() - documented() == set()


def test_every_documented_variable_is_read_by_somebody():
    assert documented() - interpolated() - settings() - COMPOSE_OWN == set()


def test_every_setting_is_documented_or_set_by_compose():
    assert settings() - documented() - set_by_compose() == NOT_IN_CONTAINERS


def test_compose_sets_nothing_that_nobody_reads():
    assert set_by_compose() - settings() - FOREIGN == set()


def test_compose_files_are_sound():
    """That each name is declared; `docker compose config` knows more, and needs Docker."""
    main = COMPOSE["compose.yml"]
    for name, service in [pair for file in COMPOSE.values() for pair in file["services"].items()]:
        assert name in SERVICES
        assert set(service) <= KEYS, name
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        assert set(service.get("secrets", [])) <= set(main["secrets"]), name
        volumes = {volume.split(":")[0] for volume in service.get("volumes", [])}
        named = {volume for volume in volumes if volume[0] not in "./$"}
        assert named <= set(main["volumes"]), name


def test_the_service_runs_without_root_and_cannot_change_itself():
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service or service["network_mode"] == "none", name
    users = re.findall(r"^USER (\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert users[-1] == "10001"


def test_caddy_keeps_idle_connections_less_long_than_the_service():
    [kept] = re.findall(r"keepalive (\d+)s", (DOCKER / "Caddyfile").read_text())
    assert int(kept) < KEEPALIVE


def test_what_ends_comes_back():
    assert {name for name, service in SERVICES.items() if service["restart"] == "no"} == ONCE
    for name, unit in UNITS.items():
        if name.endswith(".service") and "Type=oneshot" not in unit:
            assert {"Restart=always", "KillMode=mixed", "TimeoutStopSec=15"} <= set(unit), name


def test_a_service_that_does_not_work_is_seen():
    """`up --wait` waits for these, and fails without them. The image's own asks the web process alone."""
    for name, service in SERVICES.items():
        checked = name == "web" or not service.get("healthcheck", {"disable": True}).get("disable")
        assert checked == (name not in ONCE), name


def test_every_service_has_a_limit_of_memory():
    assert [name for name, service in SERVICES.items() if "mem_limit" not in service] == []


def test_images_of_others_have_an_exact_version():
    named = [service["image"] for service in SERVICES.values() if "build" not in service]
    for text in DOCKERFILES.values():
        named += re.findall(r"^FROM ([^\s:]+:\S+)", text, re.MULTILINE)
    assert len(named) > 5
    assert [image for image in named if not re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z-]+)?$", image)] == []


def test_every_unit_of_systemd_is_as_hard():
    names = ("Protect", "Restrict", "NoNew", "Private", "Lock", "SystemCall", "Capability", "UMask")
    hard = {
        name: [line for line in unit if line.startswith(names)]
        for name, unit in UNITS.items()
        if name.endswith(".service")
    }
    assert len({tuple(lines) for lines in hard.values()}) == 1


@pytest.mark.parametrize(
    "name", ["gpu1.env", ".env", ".env.bak", "old.env.txt", "secrets/api_key", "wanapi.dump"]
)
def test_git_does_not_take_what_an_operator_sets(name):
    ignored = subprocess.run(["git", "check-ignore", "-q", f"docker/{name}"], cwd=ROOT)
    if ignored.returncode == 128:
        pytest.skip("this is no checkout")
    assert ignored.returncode == 0


def test_every_command_exists():
    lines = list(command_lines())
    assert len(lines) > 10
    for words in lines:
        if "manage.py" in words:
            name, *arguments = words[words.index("manage.py") + 1 :]
            command = load_command_class(get_commands()[name], name)
            options = command.create_parser("manage.py", name).parse_args(arguments)
            assert set(getattr(options, "commands", [])) <= set(get_commands())
        elif "-m" in words:
            assert importlib.util.find_spec(words[words.index("-m") + 1])
        elif words and words[0].endswith("gunicorn"):
            assert (ROOT / words[words.index("-c") + 1]).exists()
            assert importlib.util.find_spec(words[-1])
        else:
            assert words[:2] in ([], ["python", "-c"])


def copied():
    for text in DOCKERFILES.values():
        for line in re.findall(r"^COPY (.*)", text, re.MULTILINE):
            yield from [word for word in line.split() if not word.startswith("--")][:-1]


def test_the_images_get_what_they_copy():
    let_through = (ROOT / ".dockerignore").read_text().split()
    for source in copied():
        assert (ROOT / source).exists()
        assert {f"!{source}", f"!{source.rpartition('/')[0]}"} & set(let_through), source


def test_the_simulator_is_built_on_the_services_own_packages():
    service, simulator = (
        dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.txt", "requirements-simulator.txt")
    )
    assert {
        name: version for name, version in simulator.items() if service.get(name, version) != version
    } == {}


@pytest.fixture
def folder(tmp_path):
    for name in ("secrets.sh", ".env.example"):
        shutil.copy2(DOCKER / name, tmp_path)
    return tmp_path


def make_secrets(folder):
    return subprocess.run([folder / "secrets.sh"], capture_output=True, text=True)


def test_secrets_are_made_once(folder):
    wanted = {file["file"] for file in COMPOSE["compose.yml"]["secrets"].values()} | {".env"}
    assert make_secrets(folder).returncode == 0
    made = {name: (folder / name).read_text() for name in wanted}
    assert len(set(made.values())) == len(wanted)
    assert (folder / "secrets").stat().st_mode & 0o077 == 0
    assert make_secrets(folder).returncode == 0
    assert made == {name: (folder / name).read_text() for name in wanted}


def test_an_old_env_is_refused(folder):
    (folder / ".env").write_text("COMPOSE_PROFILES=cpu-simulator,postgres\n")
    assert make_secrets(folder).stderr.startswith("docker/.env is of an older release")


# docker compose run --rm check

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def machine(tmp_path):
    """With a driver, the toolkit, ComfyUI and its files."""
    home = tmp_path / "ComfyUI"
    for folder in ("input", "output"):
        (home / folder).mkdir(parents=True)
    for folder, name in presets.find("fast").files:
        (home / "models" / folder).mkdir(parents=True, exist_ok=True)
        (home / "models" / folder / name).write_text("weights")
    for name, text in {
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.07  Fri\n",
        "host/usr/bin/nvidia-ctk": "",
        "ComfyUI/folder_paths.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def check(machine, **env):
    env = os.environ | {"CHECK_ROOT": str(machine), "COMFYUI_HOME": str(machine / "ComfyUI")} | env
    run = subprocess.run(["sh", DOCKER / "check.sh"], env=env, capture_output=True, text=True)
    assert run.stderr == ""
    return run.returncode, run.stdout


@pytest.mark.parametrize("preset", ["quality", "fast"])
def test_a_machine_that_fits(machine, preset):
    code, told = check(machine, WORKFLOW_PRESET=preset)
    assert (code, "WRONG" in told) == (0, False), told
    assert "driver: 570.133.07" in told


def test_check_leaves_the_files_of_an_own_preset_to_check_presets(machine):
    code, told = check(machine, WORKFLOW_PRESET="mine")
    assert code == 0
    assert "note   models: mine is a preset of your own" in told


@pytest.mark.parametrize("preset", ["quality", "fast"])
def test_check_knows_the_files_of_each_preset(machine, preset):
    for folder, name in presets.find(preset).files:
        file = machine / "ComfyUI/models" / folder / name
        file.rename(file.with_name("away"))
        code, told = check(machine, WORKFLOW_PRESET=preset)
        assert code == 1
        assert f"1 files of the preset {preset} are missing" in told
        file.with_name("away").rename(file)


OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (builder)\n"


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("proc/driver/nvidia/version", None, "has no NVIDIA driver"),
        ("proc/driver/nvidia/version", OPEN.format("515.65.01"), "515.65.01 is too old"),
        ("host/usr/bin/nvidia-ctk", None, "Toolkit is not in /usr/bin"),
        ("var/tmp/wanapi-user", "4711\n", "by itself runs as user 4711"),
    ],
)
def test_check_says_what_is_wrong_with_the_machine(machine, file, text, sentence):
    (machine / file).unlink(missing_ok=True)
    if text is not None:
        (machine / file).parent.mkdir(parents=True, exist_ok=True)
        (machine / file).write_text(text)
    assert sentence in check(machine)[1]


@as_root
def test_check_finds_the_other_users_files(machine):
    theirs = machine / "ComfyUI/output/wanapi/job"
    theirs.mkdir(parents=True)
    os.chown(theirs, 4711, -1)
    code, told = check(machine)
    assert code == 1
    assert "output: there are files of another user" in told


def test_check_asks_no_gpu_of_the_simulator(machine):
    shutil.rmtree(machine / "proc")
    assert check(machine, SIMULATOR="true")[0] == 0


# The service folders, whose script is that of compose.yml


def give_folders(machine, **env):
    script = SERVICES["folders"]["command"][2].replace("$$", "$")
    run = subprocess.run(
        ["sh", "-euc", script], cwd=machine / "ComfyUI", env=os.environ | env, capture_output=True, text=True
    )
    return run.returncode, run.stdout


@as_root
@pytest.mark.parametrize("user", [10001, 4711])
def test_comfyuis_folders_get_one_user_and_others_files_stay(machine, user):
    home = machine / "ComfyUI"
    (home / "folder_paths.py").unlink()
    for kept in ("output/somebody/file", "models/checkpoints/file", "output/wanapi/job/video.mp4"):
        (home / kept).parent.mkdir(parents=True, exist_ok=True)
        (home / kept).write_text("")
    assert give_folders(machine, COMFYUI_USER=str(user))[0] == 0
    given = {str(path.relative_to(home)) for path in home.rglob("*") if path.stat().st_uid == user}
    ours = {"wanapi", "wanapi/job", "wanapi/job/video.mp4"}
    models = {f"models/{folder}" for folder, _ in presets.find("fast").files}
    assert given == {"input", "output", "models", "input/wanapi", *models} | {
        f"output/{name}" for name in ours
    }


@as_root
def test_a_link_does_not_give_away_what_it_points_to(machine):
    (machine / "ComfyUI/folder_paths.py").rename(machine / "secret")
    (machine / "ComfyUI/output/wanapi").mkdir()
    (machine / "ComfyUI/output/wanapi/link").symlink_to(machine / "secret")
    assert give_folders(machine)[0] == 0
    assert (machine / "secret").stat().st_uid == 0


def test_folders_that_cannot_be_given_are_told(machine):
    (machine / "ComfyUI/output").rmdir()
    (machine / "ComfyUI/output").write_text("no folder")
    code, told = give_folders(machine)
    assert code != 0
    assert told.startswith("Set COMFYUI_USER to the owner of these folders")


# manage.py logged


def test_what_a_command_says_goes_to_the_log(db, caplog):
    with caplog.at_level(logging.INFO):
        call_command("logged", "migrate", "check_setup")
    assert "No migrations to apply." in caplog.messages
    assert "S3: ok" in caplog.messages


@pytest.mark.parametrize("error", [CommandError("It is full."), ZeroDivisionError("migration")])
def test_a_command_that_fails_is_logged_and_ends_the_others(db, caplog, monkeypatch, error):
    def fail(self, **options):
        raise error

    monkeypatch.setattr("jobs.management.commands.check_setup.Command.handle", fail)
    with pytest.raises(SystemExit) as left:
        call_command("logged", "check_setup", "purge_leftovers")
    assert left.value.code == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert str(error) in caplog.text
