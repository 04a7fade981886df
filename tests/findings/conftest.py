"""What the tests of several findings an image share."""

from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from finding_sets import FindingSet, make_set

from medloop.findings import evaluation
from medloop.recipes import zero_shot
from medloop.run import run
from medloop.stats import bootstrap
from medloop.students import logistic


@contextmanager
def few_draws():
    """Draw 100 bootstrap samples, try three penalties, and learn of a few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logistic, "PENALTIES", logistic.PENALTIES[::4])
        patch.setattr(evaluation, "bootstrap", partial(bootstrap, draws=100))
        patch.setattr(zero_shot, "FEWEST", 8)
        yield patch


@pytest.fixture
def quicker():
    """Spare the runs of this process most draws and most penalties."""
    with few_draws() as patch:
        yield patch


@pytest.fixture(scope="session")
def finding_set(tmp_path_factory) -> FindingSet:
    """Images that hold none, one or several findings; nobody may change it."""
    return make_set(tmp_path_factory.mktemp("findings"))


@pytest.fixture(scope="session")
def ran(finding_set, tmp_path_factory) -> Path:
    """A finished workspace without a person's labels; nobody may change it."""
    workspace = tmp_path_factory.mktemp("ran") / "ws"
    with few_draws():
        run(workspace, finding_set.config(), note=lambda sentence: None)
    return workspace
