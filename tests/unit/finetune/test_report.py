"""The report: everything on one page, nothing fetched, nothing of a user's text taken for markup, no crash on a gap."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.benchmark import report
from finetune.benchmark.curves import MAX_POINTS, Axes, draw, thin
from finetune.benchmark.pictures import FILE as PICTURES
from finetune.benchmark.results import About, ReportError, read_rows
from finetune.benchmark.summary import compare, summarize
from finetune.negatives import FILE as ALARMS
from finetune.predictions import FILE as PREDICTIONS
from finetune.predictions import Predictions
from launch.cli import main

HOSTILE = "<script>alert('x')</script> & \"co\" $\\alpha_1$"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ABOUT = About(
    title="Fights & walks",
    data="Ten clips of a yard.",
    protocol="One protocol for all.",
    train_clips=40,
    pretraining="pretraining",
)


def row(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "model": "s3d",
        "title": "S3D",
        "pretrained": "scratch",
        "params": 9_100_000,
        "gmacs": 1.23456,
        "accuracy": 0.75,
        "interval": [0.6, 0.9],
        "clips_per_second": 1234.5,
        "seconds": 83.2,
        "seed": 0,
        "published": 78.8,
        "run": "runs/s3d",
        "correct": 15,
        "total": 20,
    }
    return {**values, **changes}


def predictions(*, wrong: int, seed: int = 0) -> Predictions:
    """Twenty videos of ten sources; the first `wrong` ones are classified wrongly."""
    labels_S = np.arange(20) % 2
    sure_S = 0.6 + 0.3 * np.random.default_rng(seed).random(20)
    likely_S = np.where(np.arange(20) < wrong, 1 - labels_S, labels_S)
    probabilities_SK = np.where(np.eye(2)[likely_S] > 0, sure_S[:, None], 1 - sure_S[:, None])
    return Predictions(
        classes=("Fight", "NonFight"),
        keys=tuple(f"<clip {number}>" for number in range(20)),
        sources=tuple(str(number // 2) for number in range(20)),
        labels_S=labels_S,
        probabilities_SK=probabilities_SK,
        clip_hits_S2=np.ones((20, 2)),
        duplicate_S=np.arange(20) == 19,
    )


@pytest.fixture
def full(folder: Path) -> Path:
    return add_everything(folder)


def add_everything(folder: Path) -> Path:
    """Make it a result with everything: two seeds, few labels, other data, pictures, false alarms."""
    point = {"accuracy": 0.6, "interval": [0.5, 0.7], "correct": 12, "total": 20}
    extra = {"metrics": {"f1": {"value": 0.7, "low": 0.6, "high": 0.8}}, "cross": {"UCF <crime>": point}}
    extra |= {"clean": {**point, "total": 19}, "latency_ms": 12.5, "device": "cpu", "precision": "fp32"}
    extra |= {"label_fraction": 1.0, "published_pretrained": "ImageNet"}
    rows = []
    for seed in (0, 1):
        for name, title, wrong in (("s3d", "S3D", 2), ("single", "Single frame", 9)):
            run = f"runs/{name}-{seed}"
            make_run(folder / run, ("Fight", "NonFight"))
            predictions(wrong=wrong + seed, seed=seed).save(folder / run / PREDICTIONS)
            accuracy = 1 - (wrong + seed) / 20
            rows.append(row(title=title, model=name, run=run, seed=seed, accuracy=accuracy, **extra))
    few = {"labels": "10 %", "label_fraction": 0.1, "run": "runs/few"}
    make_run(folder / "runs/few", ("Fight", "NonFight"))
    rows.append(row(**few))
    (folder / "benchmark.json").write_text(json.dumps(rows))
    curve = [{"threshold": number / 10, "alarms_per_hour": 10 - number} for number in range(11)]
    (folder / "runs/s3d-0" / ALARMS).write_text(json.dumps({"hours": 2.0, "curve": curve}))
    (folder / "pictures").mkdir()
    listed = []
    for kind in ("hardest", "attention"):
        Image.new("RGB", (64, 16), "teal").save(folder / "pictures" / f"{kind}.jpg")
        listed.append({"kind": kind, "file": f"{kind}.jpg", "caption": f"<{kind}> clip"})
    (folder / PICTURES).write_text(json.dumps(listed))
    return folder


FULL = About(
    title="Fights & walks",
    data="Ten clips of a yard.",
    protocol="One protocol for all.",
    pretraining="pretraining",
    commands=("videomae benchmark <x>.yaml",),
    evaluate_on={"UCF <crime>": "shards/ucf"},
)


def write_lines(file: Path, lines: list[dict[str, object]]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(folder: Path, classes: tuple[str, str]) -> None:
    folder.mkdir(parents=True)
    replace(predictions(wrong=5), classes=classes).save(folder / PREDICTIONS)
    train = [{"kind": "train", "step": n, "epoch": n / 10, "loss": 1 / (1 + n)} for n in range(100)]
    tests = [{"kind": "evaluation", "step": n, "epoch": n / 10, "accuracy": n / 100, "loss": 1} for n in (30, 60, 90)]
    write_lines(folder / "metrics.jsonl", [*train, *tests])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_result(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(make_result(tmp_path_factory.mktemp("page")))


@pytest.fixture(scope="module")
def full_pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The page and the Markdown of a result with everything."""
    folder = add_everything(make_result(tmp_path_factory.mktemp("full")))
    return made(folder, FULL), (folder / "report.md").read_text()


def make_result(tmp_path: Path) -> Path:
    """A whole result: two models, one pretraining run, an environment."""
    rows = [
        row(),
        row(model="single", title="Single frame", run="runs/single", accuracy=0.5, published=None),
    ]
    (tmp_path / "benchmark.json").write_text(json.dumps(rows))
    for name in ("s3d", "single"):
        make_run(tmp_path / "runs" / name, ("Fight", "NonFight"))
    panels = tmp_path / "pretraining" / "reconstructions"
    panels.mkdir(parents=True)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(panels / f"clip-{number}.png")
    write_lines(
        panels.parent / "metrics.jsonl",
        [{"kind": "train", "step": n, "epoch": n, "loss": 2 - n / 10} for n in range(10)],
    )
    environment = {"python": "3.11.9", "packages": {"torch": "2.13.0"}, "cpus": 2, "devices": ["cpu"], "host": "secret"}
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    return tmp_path


class Elements(HTMLParser):
    """Every start tag with its attributes, and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def made(folder: Path, about: About | None = ABOUT) -> str:
    report.write(folder, about=about)
    return (folder / report.PAGE).read_text()


def test_the_table_holds_every_figure(page: str) -> None:
    text = " ".join(Elements(page).text.split())
    figures = (
        "75.0 % 60.0 % to 90.0 % · 15/20",
        "9.1 M",
        "1.23",
        "1,234",
        "1 min 23 s",
        "78.8 %",
        "50.0 %",
        "from scratch",
    )
    assert [part for part in figures if part not in text] == []
    assert "Of 2 models, S3D has the highest accuracy: it classified 15 of 20 validation clips correctly" in text
    assert "Always predicting the most frequent class would reach 50.0 %." in text
    assert "Ten clips of a yard. One protocol for all." in text


def test_the_number_of_clips_stands_in_for_missing_words(folder: Path) -> None:
    text = " ".join(Elements(made(folder, About(train_clips=40))).text.split())
    assert "Each model was trained on 40 clips and tested on 20 others." in text


def test_nothing_is_fetched_and_only_the_sorting_runs(full_pages: tuple[str, str]) -> None:
    page = full_pages[0]
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert script == (Path(report.__file__).parent / "sort.js").read_text().rstrip("\n")
    assert not re.findall(r"https?:|url\((?!#)|@import|[\"'(=]//", page)
    for tag, attributes in Elements(page).tags:
        assert tag not in ("iframe", "object", "embed", "base")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "data", "poster", "srcset"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)


def test_ids_are_unique_and_references_lead_to_them(full_pages: tuple[str, str]) -> None:
    page = full_pages[0]
    ids = [attributes["id"] for _, attributes in Elements(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", page)) <= set(ids)


def test_pictures_and_charts_have_words(page: str) -> None:
    tags = Elements(page).tags
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 2
    assert all(image["alt"] and (image["src"] or "").startswith("data:image/png;base64,") for image in images)
    charts = [attributes["aria-label"] or "" for _, attributes in tags if attributes.get("role") == "img"]
    titles = [chart.split(":")[0] for chart in charts]
    assert titles == [
        "Accuracy against parameters",
        "Accuracy against computation",
        "Accuracy on the validation clips",
        "Loss in training",
        "ROC",
        "Precision and recall",
        "Reliability",
        "Loss in pretraining",
    ]
    assert "S3D from 30.0 % to 90.0 %" in charts[2]
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")


def test_user_texts_are_escaped(folder: Path) -> None:
    shutil.rmtree(folder / "runs" / "s3d")
    make_run(folder / "runs" / "s3d", (HOSTILE, "NonFight"))
    rows = [row(title=HOSTILE, pretrained=HOSTILE)]
    (folder / "benchmark.json").write_text(json.dumps(rows))
    page = made(folder, About(title=HOSTILE, data=HOSTILE, protocol=HOSTILE, pretraining="pretraining"))
    assert page.count("<script") == 1  # the sorting
    elements = Elements(page)
    assert elements.text.count(HOSTILE) >= 6
    assert not [attributes for _, attributes in elements.tags if any('co"' in name for name in attributes)]


def test_many_classes_are_told_by_their_worst_confusions(folder: Path) -> None:
    labels_S, predicted_S = np.array([3] * 5 + [4] * 9), np.array([7] * 5 + [8] * 9)
    many = Predictions(
        classes=tuple(f"class-{number}" for number in range(30)),
        keys=tuple(map(str, range(14))),
        sources=tuple(map(str, range(14))),
        labels_S=labels_S,
        probabilities_SK=np.eye(30)[predicted_S],
        clip_hits_S2=np.zeros((14, 2)),
        duplicate_S=np.zeros(14, dtype=bool),
    )
    many.save(folder / "runs/s3d" / PREDICTIONS)
    text = " ".join(Elements(made(folder)).text.split())
    assert "class-4 predicted as class-8: 9 class-3 predicted as class-7: 5" in text


def test_private_facts_stay_out_of_the_environment(page: str) -> None:
    assert "torch 2.13.0" in page
    assert "secret" not in page


def remove_metrics(folder: Path) -> None:
    (folder / "runs/s3d/metrics.jsonl").unlink()


def remove_runs(folder: Path) -> None:
    shutil.rmtree(folder / "runs")


def remove_pretraining(folder: Path) -> None:
    shutil.rmtree(folder / "pretraining")


def remove_environment(folder: Path) -> None:
    (folder / "environment.json").unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (remove_metrics, "No values for: S3D."),
        (remove_runs, "predictions.csv is missing (runs/s3d)"),
        (remove_pretraining, "No reconstructions of the pretraining run were found."),
        (remove_environment, "environment.json is missing"),
    ],
)
def test_a_missing_piece_is_named(folder: Path, harm: Callable[[Path], None], says: str) -> None:
    harm(folder)
    assert says in " ".join(Elements(made(folder)).text.split())


def test_without_words_and_pretraining_the_page_says_so(folder: Path) -> None:
    text = Elements(made(folder, None)).text
    assert "The data set is not described" in text
    assert text.count("No pretraining run belongs to this benchmark.") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no results at .*benchmark\.json; make them with: videomae benchmark CONFIG"),
        ("[]", r"holds no rows"),
        ("{", r"Invalid JSON"),
        (
            json.dumps([row(), {k: v for k, v in row().items() if k != "gmacs"}]),
            r"1: gmacs: .*; make it again",
        ),
        (json.dumps([row(accuracy="high")]), r"0: accuracy: .*got 'high'"),
        (json.dumps([row(interval=[0.1])]), r"0: interval"),
    ],
)
def test_results_that_cannot_be_used_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "benchmark.json").write_text(content)
    with pytest.raises(ReportError, match=message):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_environment_is_refused_by_name(folder: Path) -> None:
    (folder / "environment.json").write_text('{"python": ')
    with pytest.raises(ReportError, match=r"environment.json: .*make it again with"):
        report.write(folder)


def test_further_keys_of_the_benchmark_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text(json.dumps([row(views=3, weather="fine")]))
    assert read_rows(tmp_path)[0].title == "S3D"


def test_the_command_makes_the_same_page_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = made(folder)
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == first
    assert main(["report", str(folder), "--pretraining", "elsewhere"]) == 0
    assert "No reconstructions of the pretraining run" in (folder / "report.html").read_text()
    assert main(["report", str(folder / "nowhere")]) == 2
    assert "no results at" in capsys.readouterr().err


def test_everything_stands_on_the_page_and_in_the_markdown(full_pages: tuple[str, str]) -> None:
    page, written = full_pages
    text = " ".join(Elements(page).text.split())
    wanted = (
        "S3D has the highest accuracy: on average over 2 seeds it classified 87.5 % of 20 validation clips correctly",
        "seeds 0: 90.0 %, 1: 85.0 %",
        "60.0 % of the 19 clips that are not in the training split",
        "12.5 ms",
        "corrected by Holm's method for the number of pairs, 1",
        "False alarms an hour",
        "On 2 hours of video",
        "UCF <crime>",
        "<hardest> clip",
        "<attention> clip",
        "videomae benchmark <x>.yaml",
        "ImageNet",
    )
    assert [part for part in wanted if part not in text] == []
    charts = [
        attributes["aria-label"] or "" for _, attributes in Elements(page).tags if attributes.get("role") == "img"
    ]
    assert any(chart.startswith("ROC: S3D") for chart in charts)
    assert "Accuracy with few labels: S3D 75.0 % at 0.1, 87.5 % at 1; Single frame 52.5 % at 1" in charts
    for part in (
        "| S3D | from scratch | 87.5 %",
        "## Paired tests",
        "| S3D | 75.0 % (60.0 to 90.0) | 87.5 % (",
        "## Other data",
    ):
        assert part in written


def test_results_on_parts_of_the_labels_alone_say_which(folder: Path) -> None:
    parts = [row(labels=labels, label_fraction=share) for labels, share in (("10 %", 0.1), ("50 %", 0.5))]
    (folder / "benchmark.json").write_text(json.dumps(parts))
    made(folder)
    written = (folder / "report.md").read_text()
    assert "| model | 10 % | 50 % |" in written
    assert "| S3D | 75.0 % (60.0 to 90.0) | 75.0 % (60.0 to 90.0) |" in written


def test_a_curve_by_number_of_labels_ends_at_all_of_them(folder: Path) -> None:
    parts = [("all", 30, 1.0), ("10 per class", 10, None), ("2 per class", 2, None)]
    rows = [row(labels=name, labels_per_class=count, label_fraction=share) for name, count, share in parts]
    (folder / "benchmark.json").write_text(json.dumps(rows))
    assert "Accuracy with few labels: S3D 75.0 % at 2, 75.0 % at 10, 75.0 % at 30" in made(folder)
    assert "| model | 2 per class | 10 per class | all |" in (folder / "report.md").read_text()


def test_models_are_compared_over_their_seeds(full: Path) -> None:
    models = [model for model in summarize(full, read_rows(full)) if model.first.labels == "all"]
    (pair,) = compare(models)
    assert (pair.first, pair.second) == ("S3D", "Single frame")
    assert pair.difference == pytest.approx(0.35)
    assert (pair.first_only, pair.second_only) == (7, 0)
    assert pair.p_mcnemar == pytest.approx(2 / 2**7)
    assert pair.low < 0.35 < pair.high
    assert models[0].interval[0] < models[0].accuracy < models[0].interval[1]


def test_thinning_keeps_short_curves_and_averages_long_ones() -> None:
    short = [(0.0, 1.0), (1.0, 3.0)]
    assert thin(short) == short
    assert thin([]) == []
    long = [(float(n), float(n % 2)) for n in range(MAX_POINTS * 10)]
    assert len(thin(long)) == MAX_POINTS
    assert thin(long)[0] == (4.5, 0.5)


def test_a_curve_of_values_that_are_not_numbers_is_drawn() -> None:
    axes = Axes(x="epoch", y="loss")
    assert draw("b", [[(1.0, 0.5, 0.2, 0.8)], []], Axes(x="clips", y="share", log_x=True)).startswith("<svg")
    assert draw("a", [[(0.0, float("nan")), (1.0, float("inf"))], [], [(0.0, 1.0)]], axes).startswith("<svg")


def browse(page: Path, *flags: str) -> str:
    """Open the page in a headless browser, cut off from the network; returns what it prints."""
    assert CHROMIUM is not None
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
    command = [CHROMIUM, *quiet.split(), f"--user-data-dir={page.parent / 'profile'}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr  # with --enable-logging=stderr
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_a_browser_shows_the_page(folder: Path) -> None:
    made(folder)
    document = browse(folder / "report.html", "--dump-dom")
    tags = [tag for tag, _ in Elements(document).tags]
    assert tags.count("h2") == 5
    assert tags.count("svg") == 8 + 2  # charts and the legend's lines
    assert tags.count("img") == 2
    assert tags.count("table") == 4
    assert "S3D" in document


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
@pytest.mark.parametrize(("scheme", "bright"), [("1", True), ("0", False)], ids=["light", "dark"])
def test_a_browser_paints_the_page_in_both_schemes(folder: Path, scheme: str, bright: bool) -> None:
    made(folder)
    picture = folder / "page.png"
    flags = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=900,1400", f"--screenshot={picture}")
    browse(folder / "report.html", *flags)
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert (np.median(pixels) > 128) == bright
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
    saturated = (pixels.max(2) - pixels.min(2) > 60).mean()
    assert saturated > 0.0005  # the curves and bars are drawn in colour


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_tables_sort_pictures_load_and_nothing_is_complained_of(full: Path) -> None:
    """The page is opened in a frame, so that a script beside it can press its buttons; it may not run its own."""
    made(full, FULL)
    frame = full / "frame.html"
    script = """
      const page = f.contentDocument, table = page.querySelector(".results");
      const order = () => [...table.tBodies[0].rows].map((row) => row.cells[1].dataset.value).join();
      const button = table.querySelectorAll("thead button")[1];
      const seen = [order()];
      for (let press = 0; press < 2; press++) { button.click(); seen.push(order()); }
      const images = [...page.images].every((image) => image.complete && image.naturalWidth > 0);
      document.title = [seen.join(" "), images, page.images.length].join(" ");
    """
    frame.write_text(f'<iframe id="f" src="report.html" onload="{html.escape(script)}"></iframe>')
    assert CHROMIUM is not None
    document = browse(frame, "--allow-file-access-from-files", "--dump-dom", "--enable-logging=stderr")
    assert "<title>0.875,0.525 0.875,0.525 0.525,0.875 true 4</title>" in document


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_a_phone_never_scrolls_sideways(full: Path) -> None:
    """A browser window cannot be as narrow as a phone, so the page is opened in a frame of 360 pixels."""
    made(full, FULL)
    frame = full / "phone.html"
    script = "document.title = f.contentDocument.documentElement.scrollWidth"
    frame.write_text(f'<iframe id="f" src="report.html" style="width:360px" onload="{script}"></iframe>')
    document = browse(frame, "--allow-file-access-from-files", "--dump-dom")
    assert "<title>360</title>" in document
