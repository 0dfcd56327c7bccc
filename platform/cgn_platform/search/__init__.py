"""Hyperparameter search by Optuna: which trial to run next, and which one to stop.

Public: `study.open_study`, `records.TrialRecord` and `best_of`, `controller.TrialController`,
`load.load_space` and `load_table`, `summary.summary`, `replay.outcomes`. A study has one driver at a time
(`study_lock`).
"""
