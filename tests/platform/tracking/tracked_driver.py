"""A driver without Ray: four trials of three epochs. STORE URI [stop]: with `stop` it waits in trial 2."""

import sys
import time
from pathlib import Path

from cgn.config import Config
from cgn_platform.search.records import EpochUpdate, StudyInfo
from cgn_platform.search.study import open_study
from cgn_platform.space import Float, Space
from cgn_platform.store.layout import Store
from cgn_platform.tracking.tracker import Tracker

if __name__ == "__main__":
    store, uri = Store(Path(sys.argv[1])), sys.argv[2]
    space = Space(base=Config(epochs=3), dimensions={"alpha": Float(0, 1)}, trials=4)
    with open_study("smoke", space, store=store, identity={}) as study:
        tracker = Tracker(store, uri)
        tags = {"cache": "c0ffee"}
        tracker.begin(StudyInfo("smoke", study.id, 4, study.trials(), dataset="phantom", tags=tags))
        while study.remaining():
            trial = study.ask()
            tracker.started(trial)
            steps = []
            for epoch in range(3):
                update = EpochUpdate(epoch, 0.5 + epoch / 10, {0: 0.5, 1: 0.6}, {"l_cls": 0.3})
                names = ("epoch", "val_auc", "folds", "losses")
                steps.append({name: getattr(update, name) for name in names})
                study.report(trial.number, epoch, update.val_auc)
                tracker.epoch(trial.number, update)
            if trial.number == 2 and len(sys.argv) > 3:
                print("now", flush=True)
                time.sleep(600)
            tracker.ended(study.tell(trial.number, "pruned", reason="median", steps=steps))
        tracker.end("FINISHED", study.trials())
