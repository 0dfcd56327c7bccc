"""Films to pairs: datasets, breast region, cache and folds (Sec. IV-A)."""
