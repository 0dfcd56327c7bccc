-- Optuna and MLflow both keep a table `alembic_version`: a database each.
CREATE DATABASE study;
CREATE DATABASE mlflow;
