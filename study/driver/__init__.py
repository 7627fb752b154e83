"""The process that runs a study: on Ray, with the ledger, and with MLflow."""
