"""The errors of a registry that does not answer."""

import pytest

from deploy.registry.tracking import RegistryDownError, naming_registry


def test_a_password_is_hidden_in_every_spelling_of_the_url() -> None:
    refusal = OSError("403 Client Error for url: https://ci:secret@mlflow.example.org/x")
    with pytest.raises(RegistryDownError) as error, naming_registry("https://ci:secret@MLflow.Example.org"):
        raise refusal
    assert str(error.value).endswith("for url: https://mlflow.example.org/x")
