"""MLflow as a view for people of the study, the ledger and a table's facts; training never waits for it.

Public: `tracker.Tracker` during a sweep, `delivery.track` afterwards, `tables.track_table` and
`links.how_to_look`. Only the driver writes to MLflow, out of an outbox on disk.
"""
