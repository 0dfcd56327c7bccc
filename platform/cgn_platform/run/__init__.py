"""Train: a sweep, a table, or one configuration in this process.

Public: `sweep.run_sweep`, `table.run_table`, `retune.retune`, `train.train`. Each returns records; `report`
makes facts of them, and `tracking` shows these in MLflow.
"""
