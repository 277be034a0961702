"""The model registry in MLflow: versions, aliases, exports."""
