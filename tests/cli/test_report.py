"""`gmae-tools report` with tiny scripts: what is run and what is not, kills, failures, hostile names, the page."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gmae_tools.cli import main
from gmae_tools.suite.config import read_config
from gmae_tools.system.files import sole_run

EVIL = "<img src=x onerror=alert(1)>"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

# Does five steps, each once, and writes a table and a figure.
STEPS = '''
"""How long is a step? Nobody knows.

Protocol: steps of `--pause` seconds.

- `value`: a number,
  on two lines.

    python steps.py
"""

import sys, time
from pathlib import Path

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
work, results = Path(options["--work"]), Path(options["--results"])
for step in range(5):
    if not (work / f"{step}").exists():
        time.sleep(float(options["--pause"]))
        (work / f"{step}").write_text("")
        with Path(options["--log"]).open("a") as log:
            log.write(f"{step}\\n")
print("<b>five steps</b>")
(results / "steps.csv").write_text("name,value,seconds\\n<b>a</b>,0.25,3\\nb,-1.5,12\\nc,0.25,\\nhuman,9,1\\n")
(results / "steps.png").write_bytes(bytes.fromhex("PIXEL"))
'''.replace("PIXEL", PIXEL.hex()).lstrip()

FAILS = 'import sys\nprint("half", flush=True)\nsys.exit("it is <i>broken</i>")\n'

CONFIG = """
title = "Steps & EVIL"

[data.photos]
paths = ["photos"]
get = "take some"

[[parts]]
name = "steps"
question = "How many steps, EVIL?"
script = "steps.py"
arguments = "--work {work} --results {results} --pause PAUSE --log LOG"
quick = "--pause 0"
tables = [{ file = "steps.csv", caption = "Caption EVIL.", higher = ["value"], lower = ["seconds"], apart = ["human"] }]
figures = [{ file = "steps.png", caption = "A pixel EVIL." }]

[[parts]]
name = "broken"
question = "Does it work?"
script = "broken.py"
arguments = "{checkpoint}"

[[parts]]
name = "needy"
question = "Where are the photographs?"
script = "broken.py"
arguments = "{photos}"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration above, of steps that take no time."""
    return write_config(tmp_path, pause=0)


def write_config(folder: Path, pause: float) -> Path:
    (folder / "steps.py").write_text(STEPS)
    (folder / "broken.py").write_text(FAILS)
    text = CONFIG.replace("EVIL", EVIL).replace("PAUSE", str(pause)).replace("LOG", str(folder / "log"))
    (folder / "config.toml").write_text(text)
    return folder / "config.toml"


def report(config: Path, checkpoint: Path, *options: str) -> Result:
    arguments = ["report", str(config), "-o", str(config.parent / "out"), "--checkpoint", str(checkpoint), *options]
    return CliRunner().invoke(main, arguments, env={"GMAE_TOOLS_DATA": None}, catch_exceptions=False)


def parts(config: Path) -> dict[str, dict]:
    return {part["name"]: part for part in json.loads((config.parent / "out" / "report.json").read_text())["parts"]}


def steps_done(config: Path) -> list[str]:
    log = config.parent / "log"
    return log.read_text().split() if log.exists() else []


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*folder.glob("tables/*"), *folder.glob("figures/*")]}


# --- what becomes of parts ---------------------------------------------------------------------------


def test_parts_are_done_fail_or_are_skipped(config: Path, checkpoint: Path) -> None:
    result = report(config, checkpoint, "--format", "json")
    assert result.exit_code == 1, "a part failed"
    rows = {row["part"]: row for row in json.loads(result.stdout)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "steps": "done", "broken": "failed", "needy": "skipped"
    }  # fmt: skip
    assert rows["broken"]["reason"] == "it is <i>broken</i>"
    assert rows["needy"]["reason"] == "needs photos: pass --data photos=PATH, or take some"
    out = config.parent / "out"
    assert (out / "tables" / "steps.csv").read_text().startswith("name,value")
    assert (out / "figures" / "steps.png").read_bytes() == PIXEL
    found = parts(config)
    assert found["steps"]["tables"][0]["rows"][1] == ["b", "-1.5", "12"]
    assert found["steps"]["command"].startswith(f"python {config.parent / 'steps.py'} --work ")
    assert found["steps"]["weights"] is None, "it does not use the checkpoint"
    assert found["broken"]["weights"] == hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert not list(out.glob("parts/steps-*/work")), "what is only needed to go on has gone"
    assert not list(out.rglob(".*")), "nothing temporary is left"


def test_finished_parts_are_used_again_as_long_as_nothing_changes(config: Path, checkpoint: Path) -> None:
    assert report(config, checkpoint, "--only", "steps").exit_code == 0
    assert report(config, checkpoint, "--only", "steps").exit_code == 0
    assert steps_done(config) == list("01234")
    assert report(config, checkpoint, "--only", "steps", "--quick").exit_code == 0, "other arguments"
    assert steps_done(config) == 2 * list("01234")
    assert report(config, checkpoint, "--only", "steps").exit_code == 0, "those of the first time are still there"
    assert steps_done(config) == 2 * list("01234")
    (config.parent / "steps.py").write_text(STEPS + "\n# changed\n")
    assert report(config, checkpoint, "--only", "steps").exit_code == 0
    assert steps_done(config) == 3 * list("01234")
    assert report(config, checkpoint, "--only", "steps", "--again").exit_code == 0
    assert steps_done(config) == 4 * list("01234")


def test_results_that_are_gone_are_made_again(config: Path, checkpoint: Path) -> None:
    report(config, checkpoint, "--only", "steps")
    next(config.parent.glob("out/parts/steps-*/results/steps.csv")).unlink()
    assert report(config, checkpoint, "--only", "steps").exit_code == 0
    assert steps_done(config) == 2 * list("01234")


def test_other_weights_are_other_settings(config: Path, checkpoint: Path, tmp_path: Path) -> None:
    report(config, checkpoint, "--only", "broken")
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    report(config, other, "--only", "broken")
    assert len(list(config.parent.glob("out/parts/broken-*"))) == 2


def test_a_part_that_does_not_write_its_files_has_failed(config: Path, checkpoint: Path) -> None:
    (config.parent / "steps.py").write_text("pass\n")
    result = report(config, checkpoint, "--only", "steps")
    assert result.exit_code == 1
    assert "did not write steps.csv, steps.png" in result.stdout


def test_only_keeps_what_other_parts_have_found(config: Path, checkpoint: Path) -> None:
    report(config, checkpoint, "--only", "steps")
    assert report(config, checkpoint, "--only", "broken").exit_code == 1
    assert list(parts(config)) == ["steps", "broken"]


def test_files_of_an_earlier_report_go(config: Path, checkpoint: Path) -> None:
    out = config.parent / "out"
    report(config, checkpoint, "--only", "steps")
    (out / "tables" / "mine.csv").write_text("a\n")
    (config.parent / "steps.py").write_text("pass\n")
    report(config, checkpoint, "--only", "steps")
    assert [path.name for path in out.glob("tables/*")] == ["mine.csv"], "only what a report has written"


def test_data_are_found_and_passed(config: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "photos").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for options, place in (
        (["--data-root", str(tmp_path / "data")], tmp_path / "data" / "photos"),
        (["--data", f"photos={tmp_path / 'elsewhere'}"], tmp_path / "elsewhere"),
    ):
        assert "it is" in report(config, checkpoint, "--only", "needy", *options).stdout
        assert parts(config)["needy"]["command"].endswith(f" {place}")


def test_a_module_is_found_above_its_configuration_and_imports_its_neighbours(config: Path, checkpoint: Path) -> None:
    folder = config.parent / "benchmarks"
    folder.mkdir()
    (folder / "steps.py").write_text((config.parent / "steps.py").read_text() + "import benchmarks.other\n")
    (folder / "other.py").touch()
    text = config.read_text()
    (folder / "config.toml").write_text(text.replace('script = "steps.py"', 'module = "benchmarks.steps"', 1))
    (folder / "broken.py").write_text(FAILS)
    assert report(folder / "config.toml", checkpoint, "--only", "steps").exit_code == 0
    found = parts(folder / "config.toml")["steps"]
    assert found["command"].startswith("python -m benchmarks.steps --work ")
    assert found["protocol"].startswith("How long is a step?")


def test_results_of_a_script_are_those_of_the_module(config: Path, checkpoint: Path) -> None:
    report(config, checkpoint, "--only", "steps")
    config.write_text(config.read_text().replace('script = "steps.py"', 'module = "steps"', 1))
    assert report(config, checkpoint, "--only", "steps").exit_code == 0
    assert steps_done(config) == list("01234"), "they are used again"


# --- interruptions -----------------------------------------------------------------------------------


def start(config: Path, checkpoint: Path) -> subprocess.Popen[str]:
    """A report of the steps in a process of its own, which has done some of them but not all."""
    command = [sys.executable, "-m", "gmae_tools", "report", str(config), "-o", str(config.parent / "out"),
               "--checkpoint", str(checkpoint), "--only", "steps"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    patience = time.monotonic() + 60
    while not steps_done(config):
        assert process.poll() is None and time.monotonic() < patience
        time.sleep(0.01)
    return process


def test_a_killed_report_goes_on_and_finds_the_same(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    config = write_config(tmp_path / "killed", pause=0.4)
    process = start(config, checkpoint)
    process.kill()
    process.communicate()
    done = steps_done(config)
    time.sleep(1)
    assert steps_done(config) == done != list("01234"), "the script has ended with it"
    for folder in (config.parent / "out", *config.parent.glob("out/parts/*")):
        (folder / ".report.0123abcd.tmp.html").touch()  # what a kill at another moment leaves
    assert report(config, checkpoint, "--only", "steps").exit_code == 0
    assert steps_done(config) == list("01234"), "no step is done twice"
    assert parts(config)["steps"]["runs"] == 2
    whole = write_config(tmp_path / "whole", pause=0)
    report(whole, checkpoint, "--only", "steps")
    assert snapshot(config.parent / "out") == snapshot(whole.parent / "out")
    assert not list((config.parent / "out").rglob(".*"))


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, checkpoint: Path) -> None:
    config = write_config(tmp_path, pause=0.4)
    process = start(config, checkpoint)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command continues" in messages and "Traceback" not in messages
    assert "Not run yet" in (tmp_path / "out" / "report.html").read_text()


def test_a_second_run_in_the_same_folder_is_refused(config: Path, checkpoint: Path) -> None:
    (config.parent / "out").mkdir()
    with sole_run(config.parent / "out"):
        result = report(config, checkpoint)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1 and "another run is writing there" in result.stderr
    assert not (config.parent / "out" / "parts").exists()


def test_what_a_script_leaves_running_ends_with_it(config: Path, checkpoint: Path) -> None:
    idle = "import time; time.sleep(100)"
    code = f"import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', {idle!r}]).pid)\nsys.exit(1)\n"
    (config.parent / "broken.py").write_text(code)
    begin = time.monotonic()
    report(config, checkpoint, "--only", "broken")
    assert time.monotonic() - begin < 50, "nobody waits for it"
    left = int(next(config.parent.glob("out/parts/broken-*/stdout.txt")).read_text())
    status = Path(f"/proc/{left}/status")
    assert not status.exists() or "Z (zombie)" in status.read_text()


# --- the page ----------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The elements of a page as a browser sees them, and all text outside of the style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def page(config: Path, checkpoint: Path, tmp_path: Path) -> str:
    hostile = tmp_path / EVIL
    shutil.copytree(checkpoint, hostile)
    report(config, hostile)
    return (config.parent / "out" / "report.html").read_text(encoding="utf-8")


def test_the_page_takes_everything_for_text(page: str) -> None:
    elements = Elements(page)
    assert not elements.named("script") and not elements.named("i"), "of the message"
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert elements.text.count(EVIL) >= 6, "title, question, captions, checkpoint"
    assert "it is <i>broken</i>" in elements.text and "<b>five steps</b>" in elements.text


def test_the_page_fetches_nothing(page: str) -> None:
    elements = Elements(page)
    (policy,) = [each["content"] for each in elements.named("meta") if "http-equiv" in each]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert policy and style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none';") and f"style-src 'sha256-{digest}'" in policy
    assert "script-src" not in policy
    assert all(image["src"] and image["src"].startswith("data:image/") for image in elements.named("img"))
    assert [image["alt"] for image in elements.named("img")] == [f"A pixel {EVIL}."]
    links = [each["href"] or "" for tag in ("a", "link") for each in elements.named(tag)]
    assert all(re.match(r"#|data:|(tables|figures)/", link) for link in links)
    inside = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    assert {link[1:] for link in links if link.startswith("#")} <= inside


def test_the_page_says_what_stands_behind_a_table(page: str, config: Path, checkpoint: Path) -> None:
    text = Elements(page).text
    weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    for wanted in (
        weights,
        weights[:12],
        "Protocol: steps of --pause seconds.",
        "python ",
        "1 of 3 parts done, 1 failed",
    ):
        assert wanted in text
    assert "<li><code>value</code>: a number, on two lines.</li>" in page
    assert "python steps.py" not in text, "the command is there in full instead"


def test_the_best_numbers_are_bold(page: str) -> None:
    rows = re.findall(r"<tr>(<td.*?)</tr>", page)
    cells = [re.findall(r'<td( class="number")?>(.*?)</td>', row) for row in rows]
    number = ' class="number"'
    assert cells == [
        [("", "&lt;b&gt;a&lt;/b&gt;"), (number, "<b>0.25</b>"), (number, "<b>3</b>")],
        [("", "b"), (number, "−1.50"), (number, "12")],
        [("", "c"), (number, "<b>0.25</b>"), (number, "–")],
        [("", "human"), (number, "9.00"), (number, "1")],
    ]


def test_the_page_in_a_browser(page: str, config: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("needs chromium")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", "--enable-logging=stderr", "--v=0"]
    flags.append(f"--user-data-dir={config.parent / 'browser'}")
    address = (config.parent / "out" / "report.html").as_uri()
    done = subprocess.run([browser, *flags, address], capture_output=True, text=True, timeout=60, check=True)
    assert "Steps &amp; &lt;img" in done.stdout
    assert "CONSOLE" not in done.stderr, "nothing that the policy had to stop"


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "steps"', 'name = "Steps"', "part Steps: names are of lower-case letters"),
        ('name = "broken"', 'name = "steps"', "part steps: steps is there already"),
        ('script = "steps.py"', 'script = "none.py"', "part steps: there is no script"),
        ('script = "steps.py"', 'module = "some.steps"', "part steps: there is no module some.steps below its folder"),
        ("{photos}", "{films}", "part needy: {films} is unknown; there are checkpoint, results, work, photos"),
        ('file = "steps.csv"', 'file = "../steps.csv"', "../steps.csv has to be the name of a .csv file"),
        ('file = "steps.png"', 'file = "steps.exe"', "has to be the name of a .png or .svg file"),
        ('question = "Does it work?"', "", "part broken: missing required field question"),
        ("higher = ", "best = ", "part steps, tables 1: contains unknown field best; there are file, caption, higher"),
        ('["value"]', '"value"', "part steps, tables 1, higher: expected array, got str"),
        ('"--pause 0"', '"--pause \'0"', "part steps: quick: No closing quotation"),
        ("title =", "titel =", "the file: contains unknown field titel; there are title, parts, data"),
        ("[[parts]]", "[[parts", "not TOML"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be_meant(config: Path, checkpoint: Path, old: str, new: str, message: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    result = report(config, checkpoint)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {config}: ") and message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (config.parent / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nothing"], "there is no part nothing; there are steps, broken, needy"),
        (["--only", "needy"], "part needy needs photos: pass --data photos=PATH"),
        (["--data", "films=."], "there is no data set films; there are: photos"),
        (["--data", "photos=/nowhere"], "photos: there is no /nowhere"),
    ],
)
def test_wishes_that_cannot_be_met(config: Path, checkpoint: Path, options: list[str], message: str) -> None:
    result = report(config, checkpoint, *options)
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (config.parent / "out").exists()


def test_one_of_config_and_all(config: Path, checkpoint: Path) -> None:
    assert report(config, checkpoint, "--all").exit_code == 2
    assert CliRunner().invoke(main, ["report"]).exit_code == 2
    assert report(config.parent / "none.toml", checkpoint).stderr.startswith(f"error: {config.parent / 'none.toml'}: ")


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="needs a user other than root, who may write everywhere"
)
def test_a_folder_that_cannot_be_written_is_found_before_the_work(config: Path, checkpoint: Path) -> None:
    (config.parent / "out").mkdir(mode=0o500)
    assert "cannot write there" in report(config, checkpoint).stderr
    assert not steps_done(config)


# --- the benchmarks themselves -----------------------------------------------------------------------


def test_a_real_benchmark(repository: Path, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["report", str(repository / "evals" / "report.toml"), "--quick", "--only", "layers-speed",
                 "--checkpoint", str(checkpoint), "-o", str(tmp_path / "out")]  # fmt: skip
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    with (tmp_path / "out" / "tables" / "layers_speed.csv").open(newline="") as file:
        assert [row["part"] for row in csv.DictReader(file)] == ["forward", "layers", "metrics", "files"]
    (part,) = json.loads((tmp_path / "out" / "report.json").read_text())["parts"]
    assert "Protocol: the bundled photograph" in part["protocol"]


def test_every_benchmark_knows_its_arguments(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in read_config(repository / "evals" / "report.toml").parts:
        script: click.Command = runpy.run_path(str(part.script))["main"]
        known = {option for parameter in script.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word for word in part.words(quick=True) if word.startswith("-")}
        assert used <= known, part.name
