"""Using a promoted model: packaged for MLflow, loaded again, or applied to a table of films.

Public: `package.package` and `load`, `batch.predict_table`. MLflow's server runs `served.py`.
"""
