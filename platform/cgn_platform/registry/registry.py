"""The versions of one model in the MLflow Model Registry."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgn import files
from cgn.errors import CGNError, RegistryError, first_line
from cgn.temporary import scratch, within_scratch
from cgn_platform.remedies import remedy_of
from cgn_platform.store.databases import hidden
from cgn_platform.tracking import mlflow_client

DEFAULT_MODEL = "cgn"  # name of the registered model
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
EXPERIMENT = "promotions"
EVIDENCE = "evidence.json"  # of a decision, among the artifacts of its run
FOLDER = "model"  # of a version's files among the artifacts of its run


@dataclass(frozen=True)
class Version:
    """A registered version. Tags of ours begin with `cgn.`."""

    number: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Hash of the units it was made from; empty if it was not registered by `cgn promote`."""
        return self.tags.get("cgn.key", "")


class Registry:
    """The versions of one model, in a database or on a server. Raises RegistryError if MLflow fails."""

    def __init__(self, uri: str, model: str, artifacts: Path) -> None:
        """Connect; nothing is written.

        Args:
            uri: of MLflow.
            model: name of the registered model.
            artifacts: the folder for files, used only without a server.

        Raises:
            ConfigError: the name of the model is not valid.
        """
        self.model, self.uri = files.check_name(model, "--model-name"), uri
        self._artifacts = None if uri.startswith("http") else mlflow_client.artifact_location(artifacts)
        with self._translated_errors():
            self._mlflow, self._client = mlflow_client.connect(uri)

    def versions(self) -> list[Version]:
        """All versions, the newest first."""
        aliases: dict[str, list[str]] = {}
        for alias, number in self._aliases().items():
            aliases.setdefault(number, []).append(alias)
        with self._translated_errors():
            records = self._client.search_model_versions(f"name='{self.model}'")
        versions = [Version(str(v.version), v.tags, tuple(aliases.get(str(v.version), ()))) for v in records]
        return sorted(versions, key=lambda version: int(version.number), reverse=True)

    def with_alias(self, alias: str) -> Version | None:
        """The version that an alias points to."""
        return next((version for version in self.versions() if alias in version.aliases), None)

    def with_units(self, key: str) -> Version | None:
        """The version that was made from the units of this key."""
        return next((version for version in self.versions() if version.key == key), None)

    def set_alias(self, alias: str, number: str) -> None:
        """Point an alias to a version."""
        with self._translated_errors():
            self._client.set_registered_model_alias(self.model, alias, number)

    def delete_alias(self, alias: str) -> None:
        """Remove an alias."""
        with self._translated_errors():
            self._client.delete_registered_model_alias(self.model, alias)

    def set_tags(self, number: str, tags: Mapping[str, str]) -> None:
        """Add tags to a version, or change them."""
        with self._translated_errors():
            for name, value in tags.items():
                self._client.set_model_version_tag(self.model, number, name, value)

    def log_decision(
        self, name: str, tags: Mapping[str, str], evidence: Mapping[str, Any], folder: Path | None = None
    ) -> str:
        """Log a decision as a run, with the model's folder if a version is to be made of it.

        Interrupted runs of the same key are deleted.

        Returns:
            The id of the run.
        """
        with self._translated_errors():
            experiment = self._experiment()
            interrupted = f"tags.`cgn.key` = '{tags['cgn.key']}' and attributes.status = 'RUNNING'"
            for old in self._client.search_runs([experiment], interrupted):
                self._client.delete_run(old.info.run_id)
            run = str(self._client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id)
            for check in evidence["gate"]["checks"]:
                if check["figure"] is not None:
                    self._client.log_metric(run, f"gate/{check['name']}", check["figure"])
            with within_scratch():
                self._client.log_dict(run, dict(evidence), EVIDENCE)
            if folder is not None:
                self._client.log_artifacts(run, str(folder), FOLDER)
            else:
                self._client.set_terminated(run, "FAILED")
        return run

    def create_version(self, run: str, tags: Mapping[str, str], description: str) -> Version:
        """Make a version of a run's folder, and end the run."""
        with self._translated_errors():
            if self._model() is None:
                self._client.create_registered_model(self.model)
            source = f"{self._client.get_run(run).info.artifact_uri}/{FOLDER}"
            created = self._client.create_model_version(
                self.model, source, run, tags=dict(tags), description=description
            )
            self._client.set_terminated(run, "FINISHED")
        return Version(str(created.version), dict(tags))

    def checks(self, version: Version) -> list[Any]:
        """The checks of the gate that a version passed, as its evidence holds them."""
        if stored := version.tags.get("cgn.gate"):  # of earlier versions of cgn
            return list(json.loads(stored))
        with self._translated_errors(), scratch() as folder:
            run = self._client.get_model_version(self.model, version.number).run_id
            path = self._client.download_artifacts(run, EVIDENCE, str(folder))
            return list(json.loads(Path(path).read_text())["gate"]["checks"])

    def download(self, number: str, into: Path) -> Path:
        """Download the files of a version. Returns their folder."""
        with self._translated_errors():
            uri = self._client.get_model_version_download_uri(self.model, number)
            return Path(
                self._mlflow.artifacts.download_artifacts(
                    artifact_uri=uri, dst_path=str(into), tracking_uri=self.uri
                )
            )

    def _experiment(self) -> str:
        """The id of the experiment of decisions, created if it does not exist."""
        existing = self._client.get_experiment_by_name(EXPERIMENT)
        if existing:
            return str(existing.experiment_id)
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=self._artifacts))

    def _model(self) -> Any:
        """MLflow's entry of the registered model; None before its first version."""
        try:
            return self._client.get_registered_model(self.model)
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _aliases(self) -> dict[str, str]:
        with self._translated_errors():
            model = self._model()
        return {} if model is None else {alias: str(number) for alias, number in model.aliases.items()}

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise whatever MLflow, its server or the network raises as a RegistryError."""
        try:
            yield
        except CGNError:
            raise
        except Exception as error:
            raise RegistryError(
                f"the model registry at {hidden(self.uri)} fails ({first_line(error)})",
                remedy=remedy_of(error) or "solve this problem and run the same command again",
            ) from error
