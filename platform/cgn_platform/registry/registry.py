"""The versions of one model in the MLflow Model Registry."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgn.errors import CGNError, ConfigError, RegistryError
from cgn_platform.store.databases import hidden
from cgn_platform.tracking import mlflow_client

Facts = Mapping[str, Any]


MODEL = "cgn"


CHAMPION, CHALLENGER, PREVIOUS = ("champion", "challenger", "previous")


EXPERIMENT = "promotions"


FOLDER = "model"  # of a version's files among its run's artifacts


@dataclass(frozen=True)
class Version:
    """A registered version. Its tags begin with `cgn.` where they are ours."""

    number: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What it was made from, as a hash; empty where somebody else registered it."""
        return self.tags.get("cgn.key", "")


class Registry:
    """The versions of one model, in a database or on a server. Raises RegistryError where MLflow fails."""

    def __init__(self, uri: str, model: str, artifacts: Path) -> None:
        """Connect; nothing is written.

        Args:
            uri: of MLflow.
            model: name of the registered model.
            artifacts: where files go where there is no server.
        """
        if not model.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ConfigError(f"--model-name must be of letters, digits, - _ and . but got {model!r}")
        self.model, self.uri = model, uri
        self._artifacts = None if uri.startswith("http") else str(artifacts.absolute())
        with self._in_words():
            self._mlflow, self._client = mlflow_client.connect(uri)

    def versions(self) -> list[Version]:
        """All of them, the newest first."""
        aliases: dict[str, list[str]] = {}
        for alias, number in self._aliases().items():
            aliases.setdefault(number, []).append(alias)
        with self._in_words():
            found = self._client.search_model_versions(f"name='{self.model}'")
        versions = [Version(str(v.version), v.tags, tuple(aliases.get(str(v.version), ()))) for v in found]
        return sorted(versions, key=lambda version: int(version.number), reverse=True)

    def with_alias(self, alias: str) -> Version | None:
        """The version that an alias points at."""
        return next((version for version in self.versions() if alias in version.aliases), None)

    def with_units(self, key: str) -> Version | None:
        """The version that was made from the same."""
        return next((version for version in self.versions() if version.key == key), None)

    def set_alias(self, alias: str, number: str) -> None:
        """Let an alias point at a version."""
        with self._in_words():
            self._client.set_registered_model_alias(self.model, alias, number)

    def delete_alias(self, alias: str) -> None:
        """Let an alias point nowhere."""
        with self._in_words():
            self._client.delete_registered_model_alias(self.model, alias)

    def set_tags(self, number: str, tags: Mapping[str, str]) -> None:
        """Add to a version's tags, or change them."""
        with self._in_words():
            for name, value in tags.items():
                self._client.set_model_version_tag(self.model, number, name, value)

    def log_decision(
        self, name: str, tags: Mapping[str, str], evidence: Facts, folder: Path | None = None
    ) -> str:
        """A run that tells of a decision, with the model's folder where one is to be registered.

        One that was cut short, of the same key, is removed. Returns the run's id.
        """
        with self._in_words():
            found = self._client.get_experiment_by_name(EXPERIMENT)
            experiment = (
                found.experiment_id
                if found
                else self._client.create_experiment(EXPERIMENT, artifact_location=self._artifacts)
            )
            where = f"tags.`cgn.key` = '{tags['cgn.key']}' and attributes.status = 'RUNNING'"
            for ghost in self._client.search_runs([experiment], where):
                self._client.delete_run(ghost.info.run_id)
            run = str(self._client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id)
            for check in evidence["gate"]["checks"]:
                if check["figure"] is not None:
                    self._client.log_metric(run, f"gate/{check['name']}", check["figure"])
            self._client.log_dict(run, dict(evidence), "evidence.json")
            if folder is not None:
                self._client.log_artifacts(run, str(folder), FOLDER)
            else:
                self._client.set_terminated(run, "FAILED")
        return run

    def create_version(self, run: str, tags: Mapping[str, str], description: str) -> Version:
        """Make a version of a run's folder, and end the run."""
        with self._in_words():
            try:
                self._client.get_registered_model(self.model)
            except self._mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                self._client.create_registered_model(self.model)
            source = f"{self._client.get_run(run).info.artifact_uri}/{FOLDER}"
            made = self._client.create_model_version(
                self.model, source, run, tags=dict(tags), description=description
            )
            self._client.set_terminated(run, "FINISHED")
        return Version(str(made.version), dict(tags))

    def fetch(self, number: str, into: Path) -> Path:
        """The files of a version, in a folder."""
        with self._in_words():
            uri = self._client.get_model_version_download_uri(self.model, number)
            return Path(
                self._mlflow.artifacts.download_artifacts(
                    artifact_uri=uri, dst_path=str(into), tracking_uri=self.uri
                )
            )

    def _aliases(self) -> dict[str, str]:
        with self._in_words():
            try:
                told = self._client.get_registered_model(self.model).aliases
            except self._mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}
            return {alias: str(number) for alias, number in told.items()}

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except CGNError:
            raise
        except Exception as error:  # whatever a server or its client does
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise RegistryError(
                f"the model registry at {hidden(self.uri)} fails ({lines[0][:200]}): mend it and run the "
                "same command again"
            ) from error
