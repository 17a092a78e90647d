"""Files -> documents -> token shards -> windows -> batches, and the catalog that fetches what is not here."""
