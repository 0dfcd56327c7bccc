"""Where and how it runs: sweeps on Ray, decided by Optuna, shown in MLflow."""
