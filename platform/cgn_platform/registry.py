"""Who is in: the MLflow Model Registry, what is let into it, and the way back.

    MLflow, model `cgn`          a version a row and seed; aliases champion, challenger, previous
    MLflow, `promotions`         a run a decision: the gate's figures, evidence, and the version's files
    store/promotions.jsonl       a line a decision, refusals too; it outlives MLflow

A version is made from units of the ledger, and is known by them: promoting the same again finds it. All of
it (files, tags) is there before it has a number, it has a number before an alias points at it, and `previous`
is set before `champion` moves; so whoever was killed in between runs the same command again.
"""

import getpass
import hashlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from filelock import FileLock, Timeout

from cgn.data.pairs import Pairs
from cgn.errors import CGNError, ConfigError, ModelError, RegistryError
from cgn.provenance import code_fingerprint, code_version
from cgn.statistics import Interval
from cgn_platform import gate, out_of_fold, projection
from cgn_platform.database import hidden
from cgn_platform.ledger import Ledger
from cgn_platform.out_of_fold import OutOfFold
from cgn_platform.report import dashboards

Facts = Mapping[str, Any]
MODEL = "cgn"
CHAMPION, CHALLENGER, PREVIOUS = ("champion", "challenger", "previous")
EXPERIMENT = "promotions"
FOLDER = "model"  # of a version's files among its run's artifacts
RECORD = "promotions.jsonl"
RUN = ("command", "mode", "code", "git_commit", "when", "ledger")  # of a table's or sweep's run
LOCK_SECONDS = 60
PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled back"


# ------------------------------------------------------------------------------------------ versions


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
            self._mlflow, self._client = projection.connect(uri)

    def versions(self) -> list[Version]:
        """All of them, the newest first."""
        aliases: dict[str, list[str]] = {}
        for alias, number in self._aliases().items():
            aliases.setdefault(number, []).append(alias)
        with self._in_words():
            found = self._client.search_model_versions(f"name='{self.model}'")
        versions = [Version(str(v.version), v.tags, tuple(aliases.get(str(v.version), ()))) for v in found]
        return sorted(versions, key=lambda version: int(version.number), reverse=True)

    def at(self, alias: str) -> Version | None:
        """The version that an alias points at."""
        return next((version for version in self.versions() if alias in version.aliases), None)

    def of(self, key: str) -> Version | None:
        """The version that was made from the same."""
        return next((version for version in self.versions() if version.key == key), None)

    def point(self, alias: str, number: str) -> None:
        """Let an alias point at a version."""
        with self._in_words():
            self._client.set_registered_model_alias(self.model, alias, number)

    def lift(self, alias: str) -> None:
        """Let an alias point nowhere."""
        with self._in_words():
            self._client.delete_registered_model_alias(self.model, alias)

    def tag(self, number: str, tags: Mapping[str, str]) -> None:
        """Add to a version's tags, or change them."""
        with self._in_words():
            for name, value in tags.items():
                self._client.set_model_version_tag(self.model, number, name, value)

    def decide(self, name: str, tags: Mapping[str, str], evidence: Facts, folder: Path | None = None) -> str:
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

    def add(self, run: str, tags: Mapping[str, str], description: str) -> Version:
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


# ----------------------------------------------------------------------------------------- promotion


@dataclass(frozen=True)
class Asked:
    """What is to be let in, as what, by whom and why."""

    row: str | None = None
    seed: int = 0
    alias: str = CHAMPION
    by: str = ""
    because: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of it. `action` is empty where it stood already; `before` is who was in."""

    action: str
    alias: str
    checks: Sequence[gate.Check] = ()
    version: str | None = None
    before: str | None = None

    @property
    def refused(self) -> bool:
        """Nothing was changed."""
        return self.action == REFUSED


def promote(
    facts: Facts,
    pairs: Pairs,
    asked: Asked,
    *,
    store: Path,
    registry: Registry,
    ledger: Ledger,
    demands: gate.Demands,
) -> Outcome:
    """Judge a row of a table, or a sweep's winner, and let it in if it passes.

    Args:
        facts: that the table or sweep wrote down of itself.
        pairs: the cache it ran on.
        asked: which row, as what.
        store: keeps the record and the lock.
        registry: lets in.
        ledger: has the units.
        demands: of the gate.

    Raises:
        ConfigError: no such row or seed, or another cache.
        RegistryError: MLflow fails, or somebody else changed the champion meanwhile.
    """
    if asked.alias not in (CHAMPION, CHALLENGER):
        raise ConfigError(f"--as must be {CHAMPION} or {CHALLENGER} but got {asked.alias!r}")
    if pairs.fingerprint != facts["data"]["cache"]:
        raise ConfigError(
            f"--data must be the cache {facts['data']['cache']}, which {facts['name']} ran on, "
            f"but is {pairs.fingerprint}"
        )
    row = row_of(facts, asked.row)
    served = _served(facts, row, asked.seed)
    key = hashlib.sha256(json.dumps([row["units"], served]).encode()).hexdigest()[:24]
    with _alone(store), tempfile.TemporaryDirectory(prefix="cgn-promote-") as scratch:
        champion, there = registry.at(CHAMPION), registry.of(key)
        if there and asked.alias in there.aliases:
            _finish(store, registry, there, asked)
            return Outcome("", asked.alias, version=there.number)
        units, faults = gate.verified(ledger, row["units"], facts["data"])
        measured = None if faults else out_of_fold.join(units)
        evidence = _evidence(facts, row, asked, served, pairs, measured)
        for unit in (unit for seed in units for unit in seed if unit.id == served[0]):
            evidence["config"] = dict(unit.identity.config)  # names weights by their content, not by a path
        folder, reload = None, None
        if there:
            folder, reload = _again(registry, there.number, Path(scratch))
        elif measured:
            folder, reload = _packaged(Path(scratch) / FOLDER, ledger, served, pairs, evidence)
        candidate = gate.Candidate(
            units=sum(len(seed) for seed in row["units"]),
            faults=faults,
            measured=measured,
            choice=_choice(facts, row),
            reload=reload,
        )
        verdict = gate.judge(candidate, _champion(champion, ledger) if champion else None, demands)
        evidence = _decided(evidence, asked, registry, champion, demands, verdict)
        tags = _tags(key, evidence)
        name = f"{facts['name']}: {row['name']}"
        if not verdict.passed or folder is None:
            _record(store, REFUSED, evidence, None, champion)
            registry.decide(name, {**tags, "cgn.state": REFUSED}, evidence)
            return Outcome(REFUSED, asked.alias, verdict.checks)
        if there:
            registry.tag(there.number, tags)
        else:
            (folder / "evidence.json").write_text(json.dumps(evidence, indent=1) + "\n")
            (folder / "model_card.md").write_text(card(evidence))
            run = registry.decide(name, {**tags, "cgn.state": PROMOTED}, evidence, folder)
            there = registry.add(run, tags, _description(evidence))
            _, kept = _again(registry, there.number, Path(scratch))
            if not (check := gate.reloaded(kept)).passed:
                raise RegistryError(
                    f"version {there.number} of {registry.model} was not kept as it was written "
                    f"({check.words}): no alias was moved; delete it in MLflow, mend where MLflow keeps "
                    "files and run the same command again"
                )
        _point(registry, asked.alias, there, champion)
        _record(store, PROMOTED, evidence, there, champion)
        before = champion.number if champion and asked.alias == CHAMPION else None
        return Outcome(PROMOTED, asked.alias, verdict.checks, there.number, before)


def rollback(*, store: Path, registry: Registry, by: str, because: str) -> Outcome:
    """Make the previous champion the champion again, if it still predicts its probe to the bit.

    Raises:
        RegistryError: there is none, or MLflow fails.
    """
    with _alone(store), tempfile.TemporaryDirectory(prefix="cgn-rollback-") as scratch:
        champion, previous = registry.at(CHAMPION), registry.at(PREVIOUS)
        if previous is None or champion is None:
            raise RegistryError(
                f"{registry.model} has no previous champion to go back to: 'cgn models' lists its versions"
            )
        _, reload = _again(registry, previous.number, Path(scratch))
        check = gate.reloaded(reload)
        decision = {"when": _now(), "model": registry.model, "alias": CHAMPION, "by": by, "because": because}
        told = {"decision": decision, "gate": {"checks": [asdict(check)]}}
        if not check.passed:
            _record(store, REFUSED, told, previous, champion)
            return Outcome(REFUSED, CHAMPION, (check,), previous.number, champion.number)
        if champion.number != previous.number:  # else a rollback was cut short after this
            withdrawn = f"{decision['when']} by {by}" + (f": {because}" if because else "")
            registry.tag(champion.number, {"cgn.withdrawn": withdrawn})
            registry.point(CHAMPION, previous.number)
        registry.lift(PREVIOUS)  # one step back: the one that was withdrawn is nowhere to go back to
        _record(store, ROLLED_BACK, told, previous, champion)
        return Outcome(ROLLED_BACK, CHAMPION, (check,), previous.number, champion.number)


def whoami() -> str:
    """The name of the account."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's account need not have a name
        return f"uid {os.getuid()}"


def cache_of(store: Path, facts: Facts) -> str:
    """Where the store keeps the cache that a table or sweep ran on. Raises ConfigError."""
    for manifest in sorted(store.glob("cache/*/manifest.json")):
        if json.loads(manifest.read_text()).get("fingerprint") == facts["data"]["cache"]:
            return str(manifest.parent)
    raise ConfigError(
        f"the cache {facts['data']['cache']}, which {facts['name']} ran on, is not in {store / 'cache'}: "
        "give it with --data"
    )


def row_of(facts: Facts, asked: str | None) -> Facts:
    """A row by its name or its number from 1; where None is asked for, the winner of a sweep.

    Raises:
        ConfigError: no such row.
    """
    rows: Sequence[Facts] = facts["rows"]
    if not rows:
        raise ConfigError(f"{facts['name']} has no complete trial: run its command again")
    if asked is None and facts["kind"] == "sweep":
        return rows[-1]
    names = [row["name"] for row in rows]
    if asked in names:
        return rows[names.index(asked)]
    if asked is not None and asked.isdecimal() and 1 <= int(asked) <= len(rows):
        return rows[int(asked) - 1]
    told = "; ".join(f"{number} = {name}" for number, name in enumerate(names, 1))
    raise ConfigError(f"--row must be one of {told}" + (f" but got {asked!r}" if asked else ""))


def card(evidence: Facts) -> str:
    """The model card, Markdown: a function of the evidence."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(dashboards()),
        autoescape=jinja2.select_autoescape(()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(evidence=evidence)


def read_record(store: Path) -> list[dict[str, Any]]:
    """All decisions, the oldest first; a line that was cut short is none."""
    lines = []
    try:
        content = (store / RECORD).read_text()
    except FileNotFoundError:
        return []
    for line in content.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # its writer was killed
            continue
    return lines


# -------------------------------------------------------------------------------------------- steps


def _served(facts: Facts, row: Facts, seed: int) -> list[str]:
    seeds: Sequence[int] = facts["run"]["seeds"]
    if seed not in seeds:
        raise ConfigError(f"--seed must be one of {', '.join(map(str, seeds))} but got {seed}")
    return list(row["units"][seeds.index(seed)])


def _choice(facts: Facts, row: Facts) -> gate.Choice | None:
    """Of the winner of a sweep: its figures are those of the best of many."""
    if facts["kind"] != "sweep" or row is not facts["rows"][-1]:
        return None
    corrected = facts["corrected"]
    return gate.Choice(facts["raw"], corrected and Interval(**corrected))


def _packaged(
    folder: Path, ledger: Ledger, served: Sequence[str], pairs: Pairs, evidence: Facts
) -> tuple[Path, gate.Reload]:
    """The model's folder, and what it says when it is loaded from there."""
    from cgn_platform import serving  # torch: not for those who only ask for versions

    try:
        serving.package(folder, ledger=ledger, units=served, pairs=pairs, evidence=evidence)
    except (ConfigError, ModelError) as error:
        return folder, gate.Reload(error=str(error))
    return folder, _probe(folder)


def _again(registry: Registry, number: str, scratch: Path) -> tuple[Path, gate.Reload]:
    """A version's files as the registry has them, and what the model says from there."""
    into = scratch / number
    into.mkdir()
    try:
        folder = registry.fetch(number, into)
    except RegistryError as error:
        return into, gate.Reload(error=str(error))
    return folder, _probe(folder)


def _probe(folder: Path) -> gate.Reload:
    from cgn_platform import serving

    try:
        with serving.load(folder) as ensemble:
            return gate.Reload(ensemble.check())
    except CGNError as error:
        return gate.Reload(error=str(error))


def _champion(version: Version, ledger: Ledger) -> gate.Champion:
    """With its test folds, from the units that it was promoted by."""
    try:
        ids = json.loads(version.tags["cgn.units"])
        data = {"cache": version.tags["cgn.cache"], "splits": version.tags["cgn.splits"]}
    except (KeyError, ValueError):
        return gate.Champion(version.number, None, "its tags do not name the units it was made from")
    units, faults = gate.verified(ledger, ids, {**data, "folds": len(ids[0])})
    if faults:
        return gate.Champion(version.number, None, f"its units are not whole: {faults[0]}")
    return gate.Champion(version.number, out_of_fold.join(units))


def _point(registry: Registry, alias: str, version: Version, champion: Version | None) -> None:
    """Move the alias, unless somebody else did meanwhile; `previous` first. A champion is no challenger."""
    if alias == CHAMPION:
        now = registry.at(CHAMPION)
        if (now and now.number) != (champion and champion.number):
            raise RegistryError(
                f"the champion of {registry.model} was changed by somebody else meanwhile: run the same "
                "command again, so that it is compared with the new one"
            )
        if champion:
            registry.point(PREVIOUS, champion.number)
    registry.point(alias, version.number)
    if alias == CHAMPION and CHALLENGER in version.aliases:
        registry.lift(CHALLENGER)


def _finish(store: Path, registry: Registry, version: Version, asked: Asked) -> None:
    """The line that a killed process did not write."""
    of_alias = [
        line
        for line in read_record(store)
        if line["action"] != REFUSED and (line["model"], line["alias"]) == (registry.model, asked.alias)
    ]
    if not of_alias or of_alias[-1]["version"] != version.number:
        decision = {name: version.tags.get(f"cgn.{name}", "") for name in ("when", "by", "because")}
        checks = json.loads(version.tags.get("cgn.gate", "[]"))
        decision |= {"model": registry.model, "alias": asked.alias}
        told = {"decision": decision, "gate": {"checks": checks}}
        _record(store, PROMOTED, told, version, registry.at(PREVIOUS))


# ----------------------------------------------------------------------------------------- evidence


def _evidence(
    facts: Facts,
    row: Facts,
    asked: Asked,
    served: Sequence[str],
    pairs: Pairs,
    measured: OutOfFold | None,
) -> dict[str, Any]:
    """What a candidate is and shows, as plain JSON; what the gate says of it comes later."""
    choice = _choice(facts, row)
    tried = [t for t in facts["trials"] if t["state"] == "complete"] if choice else facts["rows"]
    figures: dict[str, Any] = {
        "cases": 0,
        "tried": len(tried),
        "raw": choice and choice.raw,
        "corrected": choice and choice.corrected and choice.corrected._asdict(),
    }
    if measured:
        error = measured.localization_error()
        figures |= {
            "cases": len(measured.label),
            "auc": measured.auc()._asdict(),
            "pooled_auc": measured.pooled_auc()._asdict(),
            "localization_error": error and error._asdict(),
        }
    return {
        "candidate": {
            "name": facts["name"],
            "kind": facts["kind"],
            "row": row["name"],
            "seed": asked.seed,
            "seeds": facts["run"]["seeds"],
            "units": row["units"],
            "served": list(served),
        },
        "config": row["config"],
        "data": {
            **facts["data"],
            "views": _counted(pairs.view.tolist()),
            "sides": _counted(pairs.side.tolist()),
            "kinds": _counted([kind for kinds in pairs.kinds for kind in kinds]),
            "marked": sum(bool(boxes) for boxes in pairs.boxes),
        },
        "figures": figures,
        "run": {name: facts["run"].get(name) for name in RUN},
    }


def _counted(values: Sequence[str]) -> list[str]:
    return [f"{value or 'not told'} {count}" for value, count in Counter(values).most_common()]


def _decided(
    evidence: Facts,
    asked: Asked,
    registry: Registry,
    champion: Version | None,
    demands: gate.Demands,
    verdict: gate.Verdict,
) -> dict[str, Any]:
    return {
        **evidence,
        "gate": {"demands": asdict(demands), "passed": verdict.passed, "checks": verdict.plain()},
        "champion": champion and {"version": champion.number, "key": champion.key},
        "decision": {
            "model": registry.model,
            "alias": asked.alias,
            "by": asked.by,
            "because": asked.because,
            "when": _now(),
            "command": shlex.join(["cgn", *sys.argv[1:]]),
            "code": code_fingerprint(),
            "git_commit": code_version(),
        },
    }


def _tags(key: str, evidence: Facts) -> dict[str, str]:
    candidate, data, figures, run = (evidence[name] for name in ("candidate", "data", "figures", "run"))
    tags = {
        "key": key,
        **{name: candidate[name] for name in ("name", "kind", "row", "seed")},
        "units": json.dumps(candidate["units"]),
        **{name: data[name] for name in ("cache", "splits")},
        **{name: run[name] for name in ("code", "git_commit")},
        **{name: evidence["decision"][name] for name in ("by", "because", "when")},
        "gate": json.dumps(evidence["gate"]["checks"]),
    }
    if "auc" in figures:
        tags |= {"auc": gate.told(Interval(**figures["auc"]))}
    return {f"cgn.{name}": str(value) for name, value in tags.items()}


def _description(evidence: Facts) -> str:
    candidate, decision = evidence["candidate"], evidence["decision"]
    lines = [
        f"**{candidate['row']}** of the {candidate['kind']} {candidate['name']}, "
        f"{len(candidate['served'])} networks of seed {candidate['seed']}.",
        f"Promoted by {decision['by']}" + (f": {decision['because']}" if decision["because"] else "") + ".",
        *(f"- {check['words']}" for check in evidence["gate"]["checks"]),
        "Not a medical device. `model_card.md` and `evidence.json` lie beside the model.",
    ]
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:-1]) + "\n\n" + lines[-1]


# ------------------------------------------------------------------------------------------- record


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """One decision at a time in a store."""
    folder = store / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "promotions.lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise RegistryError(
            f"another promotion is at work in {store}: wait for it and run the same command again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _record(
    store: Path, action: str, evidence: Facts, version: Version | None, champion: Version | None
) -> None:
    """Append a line, on the disk before this returns; `champion` is who was in when it was decided."""
    decision = evidence["decision"]
    candidate = evidence.get("candidate", {})
    tags: Mapping[str, str] = version.tags if version else {}
    line = {
        "when": decision["when"],
        "action": action,
        "model": decision["model"],
        "alias": decision["alias"],
        "version": version and version.number,
        "champion": champion and champion.number,
        "name": candidate.get("name", tags.get("cgn.name")),
        "row": candidate.get("row", tags.get("cgn.row")),
        "by": decision["by"],
        "because": decision["because"],
        "checks": evidence["gate"]["checks"],
    }
    with (store / RECORD).open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        cut = end > 0 and file.read(1) != b"\n"  # the remains of a writer that was killed
        file.write((b"\n" if cut else b"") + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
