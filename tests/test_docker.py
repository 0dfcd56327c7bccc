"""What can be checked of the container files without a Docker engine."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cgn_platform.cli.app import app
from cgn_platform.servers import launch, ports

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
SERVERS = ("mlflow", "ray-head", "ray-worker")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return loaded


def test_only_loopback_is_published_at_the_ports_of_cgn_up(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert sorted(published) == [f"127.0.0.1:{port}:{port}" for port in sorted((ports.MLFLOW, ports.RAY))]


def test_no_secret_stands_in_a_file(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET", variable):
                assert value.startswith("/run/secrets/"), (name, variable)
                assert value.rpartition("/")[2] in compose["secrets"]
    assert all(secret["file"].startswith("${CGN_SECRETS") for secret in compose["secrets"].values())
    for path in DOCKER.iterdir():
        assert not re.search(r"://[^/\s@]+:[^/\s@$]+@|(?i:password|token)=[^$\"\s]", path.read_text()), path


def test_servers_run_without_rights_and_behind_the_token(compose: dict[str, Any]) -> None:
    for name in SERVERS:
        service = compose["services"][name]
        assert service["user"].startswith("${CGN_UID")
        assert service["cap_drop"] == ["ALL"]
    for name in ("ray-head", "ray-worker"):
        assert compose["services"][name]["environment"]["RAY_AUTH_MODE"] == "token"
    assert "postgres_password" not in compose["services"]["ray-worker"]["secrets"]  # it holds no study
    environment = compose["services"]["mlflow"]["environment"]
    assert launch.MLFLOW_ENVIRONMENT.items() <= environment.items()
    assert re.search(r"^USER (?!0|root)", (DOCKER / "Dockerfile").read_text(), re.M)


def test_study_and_mlflow_have_a_database_each(compose: dict[str, Any]) -> None:
    made = set(re.findall(r"CREATE DATABASE (\w+)", (DOCKER / "postgres.sql").read_text()))
    study = compose["services"]["ray-head"]["environment"]["CGN_STUDY_URL"]
    (backend,) = [part for part in compose["services"]["mlflow"]["command"] if part.startswith("--url=")]
    used = [re.fullmatch(r".*postgresql\+psycopg://cgn@postgres/(\w+)", url) for url in (study, backend)]
    assert {match[1] for match in used if match} == made == {"study", "mlflow"}


def test_what_the_image_copies_is_there_and_let_through() -> None:
    allowed = {
        line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = re.findall(r"^COPY (.+) \S+$", (DOCKER / "Dockerfile").read_text(), re.M)
    sources = {source for line in copied for source in line.split()}
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)


def test_what_compose_mounts_and_builds_from_is_there(compose: dict[str, Any]) -> None:
    build = compose["x-cgn"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    mounted = [v for service in compose["services"].values() for v in service.get("volumes", ())]
    local = [volume.partition(":")[0] for volume in mounted if volume.startswith("./")]
    assert local
    assert all((DOCKER / path).is_file() for path in local)
    over: dict[str, Any] = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
    assert set(over["services"]) <= set(compose["services"])


def test_variables_are_known_to_those_who_read_them(compose: dict[str, Any]) -> None:
    """By the text of their sources: importing MLflow and Ray takes longer."""
    folders = [
        ROOT / "platform",
        installed("mlflow"),
        installed("ray") / "_private",
        installed("ray") / "_common",
    ]
    files = [folders[1] / "environment_variables.py"]
    for folder in (folders[0], folders[2] / "authentication", folders[3] / "usage"):
        files += folder.rglob("*.py")
    known = "".join(path.read_text() for path in files)
    for name in SERVERS:
        for variable in compose["services"][name]["environment"]:
            assert f'"{variable}"' in known or f"{variable} = " in known, variable


@pytest.mark.parametrize("name", SERVERS)
def test_options_are_those_of_the_installed_programs(compose: dict[str, Any], name: str) -> None:
    program, verb, *options = compose["services"][name]["command"]
    assert options
    assert {option.partition("=")[0] for option in options} <= options_of(program, verb)


def options_of(program: str, verb: str) -> set[str]:
    if program == "cgn":
        command: Any = typer.main.get_command(app)
        return {name for option in command.commands[verb].params for name in option.opts}
    text = (installed("ray") / "scripts" / "scripts.py").read_text()
    assert f"def {verb}(" in text
    return set(re.findall(r'"(--[a-z-]+)', text))


def test_mlflow_answers_by_the_name_of_its_service(compose: dict[str, Any]) -> None:
    """Which its login names too, so that the driver on the head finds it in the store."""
    mlflow, head = compose["services"]["mlflow"], compose["services"]["ray-head"]["environment"]
    assert "--host-name=mlflow" in mlflow["command"]
    assert head["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert f"--store={head['CGN_STORE']}" in mlflow["command"]


def installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
