"""The client of the MLflow Model Registry."""

from typing import Any

import pytest

from cgn.errors import ConfigError, RegistryError
from cgn_platform.registry.registry import CHAMPION, Registry
from cgn_platform.store.layout import Store
from cgn_platform.tracking import mlflow_client

EVIDENCE: dict[str, Any] = {
    "gate": {"checks": [{"name": "auc", "figure": 0.8}, {"name": "champion", "figure": None}]}
}


def test_a_model_without_versions_has_none(registry: Registry) -> None:
    assert registry.versions() == []
    assert registry.with_alias(CHAMPION) is None
    assert registry.with_units("key") is None


def test_a_version_is_found_by_its_alias_and_by_its_key(registry: Registry, store: Store) -> None:
    folder = store.root / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("content")
    for key in ("first", "second"):
        tags = {"cgn.key": key}
        run = registry.log_decision(key, tags, EVIDENCE, folder)
        assert registry.create_version(run, tags, "described").key == key
    registry.set_alias(CHAMPION, "1")
    assert [version.number for version in registry.versions()] == ["2", "1"]
    champion = registry.with_alias(CHAMPION)
    assert champion is not None
    assert (champion.key, champion.aliases) == ("first", (CHAMPION,))
    second = registry.with_units("second")
    assert second is not None
    assert second.number == "2"
    registry.delete_alias(CHAMPION)
    assert registry.with_alias(CHAMPION) is None
    (store.root / "into").mkdir()
    assert (registry.download("2", store.root / "into") / "a.txt").read_text() == "content"


def test_a_decision_without_files_is_a_failed_run_with_its_figures(registry: Registry, client: Any) -> None:
    run = client.get_run(registry.log_decision("refused", {"cgn.key": "k"}, EVIDENCE))
    assert run.info.status == "FAILED"
    assert run.data.metrics == {"gate/auc": 0.8}


def test_an_interrupted_run_of_the_same_key_is_deleted(registry: Registry, client: Any, store: Store) -> None:
    folder = store.root / "files"
    folder.mkdir()
    interrupted = registry.log_decision("a", {"cgn.key": "k"}, EVIDENCE, folder)  # its run is not ended
    registry.log_decision("b", {"cgn.key": "other"}, EVIDENCE, folder)
    assert client.get_run(interrupted).info.lifecycle_stage == "active"
    registry.log_decision("a", {"cgn.key": "k"}, EVIDENCE, folder)
    assert client.get_run(interrupted).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize("name", ["a'b", "../x", "mod\u00e8le"])
def test_a_name_that_mlflow_could_not_search_for_is_refused(name: str, store: Store) -> None:
    with pytest.raises(ConfigError, match="--model-name must consist of at most"):
        Registry(mlflow_client.default_uri(store), name, store.mlflow_artifacts)


def test_a_registry_that_does_not_answer_is_one_line_with_a_remedy(store: Store) -> None:
    with pytest.raises(RegistryError, match=r"the model registry at http://127.0.0.1:9 fails") as raised:
        Registry("http://127.0.0.1:9", "cgn", store.mlflow_artifacts).versions()
    assert "\n" not in str(raised.value)
    assert raised.value.remedy == "start the server, or correct its address"
