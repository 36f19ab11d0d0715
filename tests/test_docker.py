"""docker/ without Docker: that what it names is there, and that nothing an operator sets is unknown."""

import importlib.util
import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from django.core.management import get_commands, load_command_class

from local.parts import ROOT
from wanapi.settings import KEEPALIVE, env

DOCKER = ROOT / "docker"
COMPOSE = {path.name: yaml.safe_load(path.read_text()) for path in sorted(DOCKER.glob("compose*.yml"))}
SERVICES = COMPOSE["compose.yml"]["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("wanapi")}
UNITS = {path.name: path.read_text().splitlines() for path in sorted((DOCKER / "systemd").iterdir())}
# Of the compose specification, what is used here: a misspelled key is not one of them.
KEYS = {
    *("image", "build", "command", "entrypoint", "env_file", "environment", "secrets", "volumes", "tmpfs"),
    *("profiles", "depends_on", "deploy", "extra_hosts", "networks", "ports", "healthcheck", "init"),
    *("user", "read_only", "cap_add", "cap_drop", "security_opt", "logging", "restart", "stop_grace_period"),
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
    return set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", text))


def documented():
    return set(re.findall(r"^#?([A-Z0-9_]+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))


def set_by_compose():
    """The names of the service's variables that compose sets by itself."""
    names = {name for service in OURS.values() for name in service["environment"]}
    return {name.removesuffix("_FILE") for name in names}


def command_lines():
    """Every program that an image or a unit starts, as the words of its command line."""
    for service in OURS.values():
        command = service.get("command", [])
        yield from [command] if isinstance(command, list) else parts(command)
    for line in (DOCKER / "Dockerfile").read_text().splitlines():
        if line.startswith("CMD"):
            yield yaml.safe_load(line.removeprefix("CMD"))
    for unit in UNITS.values():
        for line in unit:
            if line.startswith("ExecStart="):
                yield shlex.split(line.removeprefix("ExecStart="))


def parts(command):
    words = shlex.split(command)
    script = words[2] if words[:2] == ["sh", "-c"] else command
    return [shlex.split(part) for part in re.split(r"&&|;|\bdo\b", script) if "manage.py" in part]


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
    users = re.findall(r"^USER (\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert users[-1] == "10001"


def test_caddy_keeps_idle_connections_less_long_than_the_service():
    [kept] = re.findall(r"keepalive (\d+)s", (DOCKER / "Caddyfile").read_text())
    assert int(kept) < KEEPALIVE


def test_what_ends_comes_back():
    once = {"migrate", "bucket", "models"}
    assert {name for name, service in SERVICES.items() if service["restart"] == "no"} == once
    for name, unit in UNITS.items():
        if name.endswith(".service") and "Type=oneshot" not in unit:
            assert {"Restart=always", "KillMode=mixed", "TimeoutStopSec=15"} <= set(unit), name


def test_every_command_exists():
    lines = list(command_lines())
    assert len(lines) > 10
    for words in lines:
        if "manage.py" in words:
            name, *arguments = words[words.index("manage.py") + 1 :]
            command = load_command_class(get_commands()[name], name)
            command.create_parser("manage.py", name).parse_args(arguments)
        elif "-m" in words:
            assert importlib.util.find_spec(words[words.index("-m") + 1])
        elif words and words[0].endswith("gunicorn"):
            assert (ROOT / words[words.index("-c") + 1]).exists()
            assert importlib.util.find_spec(words[-1])
        else:
            assert words[:2] in ([], ["python", "-c"])


def test_the_image_gets_what_it_copies():
    let_through = (ROOT / ".dockerignore").read_text().split()
    for line in (DOCKER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            source = line.split()[1]
            assert (ROOT / source).exists()
            assert f"!{source}" in let_through


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


def test_a_gpu_needs_an_image_of_comfyui(folder):
    (folder / ".env").write_text("COMPOSE_PROFILES=gpu,postgres\n")
    assert make_secrets(folder).stderr.startswith("Set COMFYUI_IMAGE")
    (folder / ".env").write_text("COMPOSE_PROFILES=gpu,postgres\nCOMFYUI_IMAGE=a/b:1\n")
    assert make_secrets(folder).returncode == 0
