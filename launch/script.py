"""Render shell scripts from templates that quote every value.

The templates beside this file read like the scripts that they produce. Each `{{ value }}` is quoted for the shell
unless it is of the type `Shell`, so no value can be left unquoted by accident.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import jinja2

from launch.cluster import ClusterConfig
from launch.record import LaunchDir
from videomae.core.errors import UserError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Shell(str):
    """Shell code, which is inserted as it is."""


def quote_words(*words: object) -> Shell:
    """`words` as quoted words of one command."""
    return Shell(" ".join(quote(word) for word in words))


def quote_directive(value: object) -> Shell:
    """`value` for a line `#SBATCH --option=VALUE`, where sbatch parses quotes like a shell, and backslashes too."""
    return Shell(quote(value).replace("\\", "\\\\"))


def quote(value: object) -> str:
    """`value` as one word of a shell; `Shell` is returned as it is.

    Raises:
        UserError: the value contains a line break or another control character.
    """
    if isinstance(value, Shell):
        return value
    text = str(value)
    if _CONTROL.search(text):
        raise UserError(f"got {text!r}, which cannot stand in a script; remove line breaks and control characters")
    return shlex.quote(text)


def render(template: str, *, launch_dir: LaunchDir, cluster: ClusterConfig, **values: Any) -> str:
    """Render `template`, a file beside this module, with `values` and those that all scripts share."""
    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        finalize=quote,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = engine.get_template(template).render(
        root=launch_dir.root,
        record=launch_dir.record,
        run=launch_dir.run,
        setup=[Shell(line) for line in cluster.setup],
        environment=list(cluster.environment.items()),
        container=container_prefix(launch_dir, cluster),
        **values,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def container_prefix(launch_dir: LaunchDir, cluster: ClusterConfig) -> Shell:
    """The words that run a command in Apptainer's container, with a trailing blank; empty without one."""
    container = cluster.container
    if container.kind != "apptainer":
        return Shell("")
    binds = [word for mount in container_mounts(launch_dir, cluster) for word in ("--bind", mount)]
    gpus = ["--nv"] if cluster.gpus_per_node else []
    return Shell(quote_words("apptainer", "exec", *gpus, *binds, *container.options, container.image) + " ")


def container_options(launch_dir: LaunchDir, cluster: ClusterConfig) -> list[str]:
    """The options of srun that run its tasks in a container of pyxis; none without one."""
    container = cluster.container
    if container.kind != "pyxis":
        return []
    mounts = ",".join(container_mounts(launch_dir, cluster))
    return [f"--container-image={container.image}", f"--container-mounts={mounts}", *container.options]


def container_mounts(launch_dir: LaunchDir, cluster: ClusterConfig) -> list[str]:
    """SOURCE:TARGET for the root, the run directory if it lies outside, and the configured mounts."""
    root, run = launch_dir.root, launch_dir.run
    folders = [root] if run.is_relative_to(root) else [root, run]
    return [*(f"{folder}:{folder}" for folder in folders), *cluster.container.mounts]
