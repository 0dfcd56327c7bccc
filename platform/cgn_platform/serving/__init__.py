"""A promoted model at work: packaged for MLflow, loaded again, or run over a table of films.

Public: `package.package` and `load`, `batch.predict_table`. MLflow's server runs `served.py`.
"""
