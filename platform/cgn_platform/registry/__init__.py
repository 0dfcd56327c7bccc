"""Which model is in use: promotion through a gate, the MLflow Model Registry, and the record of decisions.

Public: `promotion.promote` and `rollback`, `selection.PromotionRequest`, `gate.Requirements`,
`registry.Registry`. `gate` decides, `units` reads the ledger, `evidence` says what is recorded.
"""
