"""Which model is in use: promotion through a gate, the MLflow Model Registry, and the record of decisions.

Public: `promotion.promote` and `rollback`, `registry.Registry`, `gate.Demands`.
"""
