"""A run's directory is kept from runs with other settings, not from newer code with more of them."""

from pathlib import Path

import pytest
import yaml

from tests.stages import pretrain_config
from videomae.core.config import ConfigError, to_dict
from videomae.run.directory import RunDirectory


def begun(folder: Path, **data: object) -> RunDirectory:
    """A run that has a checkpoint; of its data settings some are others, and those that are None are missing."""
    values = to_dict(pretrain_config(folder / "run", folder / "shards"))
    values["data"] = {name: value for name, value in (values["data"] | data).items() if value is not None}
    run = RunDirectory(folder / "run")
    (run.checkpoints / "step-00000002").mkdir(parents=True)
    run.config.write_text(yaml.safe_dump(values))
    return run


def test_a_setting_that_is_newer_than_the_run_had_its_default(tmp_path: Path) -> None:
    run = begun(tmp_path, partial=None)
    run.ensure_same_config(pretrain_config(tmp_path / "run", tmp_path / "shards"))
    with pytest.raises(ConfigError, match=r"data\.partial was 'drop', now 'pad'.*run=PATH"):
        run.ensure_same_config(pretrain_config(tmp_path / "run", tmp_path / "shards", "data.partial=pad"))


def test_a_setting_that_is_known_no_more_is_another_run(tmp_path: Path) -> None:
    run = begun(tmp_path, tilt=3)
    with pytest.raises(ConfigError, match=r"data\.tilt was 3, now None"):
        run.ensure_same_config(pretrain_config(tmp_path / "run", tmp_path / "shards"))
