"""MLflow shows the study, the ledger and the facts of tables; training never waits for it.

Public: `tracker.Tracker` during a sweep, `delivery.track` afterwards, `tables.track_table`,
`runs.log_training` and `links.how_to_look`. Only the driver writes to MLflow, from an outbox on disk.
"""
