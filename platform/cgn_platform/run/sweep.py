"""A sweep: open the study, run its remaining trials, and train again what complete ones have lost."""

import contextlib
from collections.abc import Iterator, Sequence

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError, StudyError
from cgn.provenance import code_version
from cgn_platform.cluster.preflight import preflight
from cgn_platform.run.jobs import Job, Screen, Training
from cgn_platform.run.site import Site, TrainingSpec
from cgn_platform.run.tune import required_bytes, run_trials
from cgn_platform.search.controller import Listener, Outcome
from cgn_platform.search.pruning import Scores
from cgn_platform.search.records import StudyInfo, TrialRecord
from cgn_platform.search.study import Study, open_study
from cgn_platform.space import Space


def run_sweep(
    space: Space,
    pairs: Pairs,
    splits: Sequence[Split],
    *,
    name: str,
    site: Site,
    listeners: Sequence[Listener] = (),
    audit: float = 0.0,
) -> list[TrialRecord]:
    """Run the trials that the study of this name still lacks.

    Args:
        space: what is searched.
        pairs, splits: the data.
        name: of the study.
        site: where it runs.
        listeners: are informed of what happens.
        audit: see `TrialController`.

    Returns:
        All trials of the study, those of earlier runs included.

    Raises:
        ResourcesError: no node has room for a trial; nothing was written then.
        StudyError: another driver holds the study, or the name belongs to another search.
        ClusterError: the cluster is lost, or runs other code.
        LedgerError: the ledger's storage is full or fails.
        SystemExit: after SIGTERM or Ctrl-C, once everything is stored.
    """
    spec = TrainingSpec.of(pairs, splits, site)
    preflight(
        site.cluster,
        resources=site.resources,
        store=site.store.root,
        ledger=site.ledger.place,
        needs_bytes=required_bytes(space, spec, site.slots()),
    )
    identity = spec.fingerprints()
    scores = Scores.of(pairs, splits, site.ledger)
    with open_study(name, space, store=site.store, identity=identity, scores=scores) as study:
        with _informed(listeners, _info(study, spec), study):
            run_trials(study, spec, site=site, listeners=listeners, audit=audit)
        return study.trials()


def recompute_lost_units(
    records: Sequence[TrialRecord], pairs: Pairs, splits: Sequence[Split], *, site: Site, screen: Screen
) -> dict[str, str]:
    """Train again what the ledger has lost of complete trials: damaged units and missing ones.

    Args:
        records: of all trials, as `run_sweep` returned them.
        pairs, splits, site: as in `run_sweep`, which has checked the site.
        screen: shows the progress.

    Returns:
        Why units are still lost, by unit id.

    Raises:
        ResourcesError: no node has room for a fold.
        UnreachableError: the ledger cannot be read.
    """
    spec = TrainingSpec.of(pairs, splits, site)
    jobs: dict[str, Job] = {}
    lost: dict[str, str] = {}
    for record in records:
        stored = record.facts.get("units", ()) if record.state == "complete" else ()
        for number, unit_id in enumerate(stored):
            if unit_id in jobs or unit_id in lost or spec.ledger.find(unit_id) is not None:
                continue
            if record.config is not None and _current_id(spec, record.config, number) == unit_id:
                jobs[unit_id] = Job(unit_id, record.config, number, f"trial {record.number}")
            else:
                lost[unit_id] = f"fold {number} of trial {record.number} was trained by other code of cgn"
    if jobs:
        lost |= Training(spec, screen).run(list(jobs.values()), min(site.slots(), len(jobs)))
    return lost


def _current_id(spec: TrainingSpec, config: Config, number: int) -> str | None:
    """The id of the unit that the current code would train; None if it cannot train it."""
    try:
        return spec.identity(config, spec.splits[number]).id
    except (ConfigError, IndexError):
        return None


def _info(study: Study, spec: TrainingSpec) -> StudyInfo:
    space = study.space
    return StudyInfo(
        name=study.name,
        id=study.id,
        trials=space.trials,
        records=study.trials(),
        orphans=study.orphans,
        dataset=spec.pairs.name,
        folds=len(spec.splits),
        tags={**spec.fingerprints(), "code": spec.code, "git_commit": code_version()},
        params={"sampler_seed": str(space.seed), **{name: str(d) for name, d in space.dimensions.items()}},
    )


@contextlib.contextmanager
def _informed(listeners: Sequence[Listener], info: StudyInfo, study: Study) -> Iterator[None]:
    """Begin every listener, and end those that began, the last one first, also after an error."""
    outcome: Outcome = "KILLED"

    def end(listener: Listener) -> None:
        try:
            records: Sequence[TrialRecord] = study.trials()
        except StudyError:  # its database fails: listeners must end nevertheless
            records = info.records
        listener.end(outcome, records)

    with contextlib.ExitStack() as stack:
        for listener in listeners:
            listener.begin(info)
            stack.callback(end, listener)
        yield
        outcome = "FINISHED" if study.remaining() == 0 else "KILLED"
