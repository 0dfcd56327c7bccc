"""What to try next, and what to stop: the door to Optuna.

Public: `study.open_study`, `records.TrialRecord`, `controller.TrialController`, `load.load_space` and
`load_table`, `summary.summary`. A study has one driver at a time (`study_lock`).
"""
