"""Default ports of the servers of `cgn up` and `cgn serve`, on the loopback address."""

RAY = 8265  # jobs and dashboard
MLFLOW = 5000
OPTUNA = 8080
MODEL = 5001
