"""report.html and report.md of whole run folders: what they say, that they are the same every time, and safe."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from written_trainings import falling, write_training

from toolkit.errors import DataError
from toolkit.report import write_report

VOID = {"meta", "br", "link", "img", "hr"}
SCENES = ("full", "smoke", "refused", "single", "margin", "bare", "tuned")


class Page(HTMLParser):
    """Collects text, tags and attributes; fails on tags that do not close."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.texts.append(data)


def scene(name, fake_run):
    if name == "single":
        return fake_run(names=("rag",), plans=(), baseline=None)
    run = fake_run(n=24, groups=24) if name in ("smoke", "bare") else fake_run()
    if name == "smoke":
        run.smoke = True
    if name == "refused":
        run.trials = {"lora": 3}
    if name == "margin":
        run.margin = 0.3
    if name == "bare":
        run.timed, run.drop_ledger, run.baseline = 8, ("rag",), None
        run.plans = run.plans[4:]
    return run


@pytest.fixture(scope="module", params=SCENES)
def written(request, tmp_path_factory, fake_run):
    root = tmp_path_factory.mktemp("runs") / "handbook-8d1f0c2e"
    comparison = scene(request.param, fake_run).write(root)
    if request.param == "tuned":
        for name in ("lora", "lora_rag"):
            looks = [[0, 0.1], [10, 0.3], [20, 0.2]]
            write_training(root, name, falling(20), looks=looks, kept_step=10, notices=["a <notice> of `its` own"])
    write_report(root)
    return request.param, root, comparison


def parsed(root):
    page = Page()
    page.feed((root / "report.html").read_text(encoding="utf-8"))
    page.close()
    return page


def plain(markdown):
    return markdown.replace("\\", "").replace("&lt;", "<").replace("&amp;", "&")


def test_every_sentence_and_what_would_flip_it_stand_in_both_files(written):
    _, root, comparison = written
    html, markdown = "".join(parsed(root).texts), plain((root / "report.md").read_text(encoding="utf-8"))
    for contrast in comparison["contrasts"]:
        for text in (contrast["sentence"], contrast["flips_when"], contrast["refused"] or ""):
            assert text in html
            assert text in markdown


def test_every_strategy_and_section_stands_in_both_files(written):
    name_of_scene, root, comparison = written
    page, markdown = parsed(root), (root / "report.md").read_text(encoding="utf-8")
    for name in comparison["strategies"]:
        assert name in page.texts
        assert name in markdown
    sections = [line[3:] for line in markdown.splitlines() if line.startswith("## ")]
    assert len(sections) == 8 + (name_of_scene == "tuned")
    assert all(section in page.texts for section in sections)


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(written):
    _, root, _ = written
    page = parsed(root)
    html = (root / "report.html").read_text(encoding="utf-8")
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|\son[a-z]+=", html)
    links = [value for name, value in page.attributes if name in ("href", "xlink:href", "src")]
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link for link in links if not link.startswith("#")} == set()
    assert {link[1:] for link in links} <= set(ids)


def test_the_same_folder_gives_the_same_bytes(written, tmp_path):
    _, root, _ = written
    copy = tmp_path / root.name
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("report.*"))
    code = f"from pathlib import Path; from toolkit.report import write_report; write_report(Path({str(copy)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "7", "PYTHONPATH": "."})
    for name in ("report.html", "report.md"):
        assert (copy / name).read_bytes() == (root / name).read_bytes()


def test_the_banner_stands_on_smoke_runs_only(written):
    name, root, _ = written
    for file in ("report.html", "report.md"):
        assert ("SMOKE RUN" in (root / file).read_text(encoding="utf-8")) == (name == "smoke")


def test_the_headline_fits_the_run(written):
    name, root, _ = written
    starts = {
        "full": "lora_rag wins: +",
        "smoke": "No verdict: a smoke run on 24 examples.",
        "refused": "lora_rag leads: +",
        "single": "rag scores ",
        "margin": "lora_rag wins: +",
        "bare": "lora_rag wins: +",
        "tuned": "lora_rag wins: +",
    }
    text = (root / "report.md").read_text(encoding="utf-8")
    assert re.search(rf"^\*\*{re.escape(starts[name])}", text, re.MULTILINE)


def test_limits_follow_from_what_was_not_run(written):
    name, root, _ = written
    text = (root / "report.md").read_text(encoding="utf-8")
    limits = text.split("## What this run cannot say")[1].split("\n## ")[0]
    assert ("smoke run" in limits) == (name == "smoke")
    assert ("declares a margin" in limits) == (name not in ("margin", "single"))
    assert ("One seed:" in limits) == (name != "single")
    assert ("Refused, and so" in limits) == (name == "refused")
    assert ("Without an entry in the ledger: rag" in limits) == (name == "bare")
    assert ("p95 needs 20" in limits) == (name == "bare")
    assert ("no baseline" in limits) == (name in ("single", "bare"))


def test_clusters_fewer_than_forty_are_flagged(tmp_path, fake_run):
    fake_run(groups=12).write(tmp_path)
    write_report(tmp_path)
    assert "Few clusters (12 of the 40" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_markup_in_data_stays_text(tmp_path, fake_run):
    evil = "<script>alert(1)</script> $x_1$ ](https:evil) `rm` | <img src=x onerror=y>"
    run = fake_run()
    run.labels, run.text = {"rag": evil}, evil
    comparison = run.write(tmp_path)
    renamed = json.dumps(comparison).replace('"lora"', '"<script>lora</script>"')
    (tmp_path / "comparison.json").write_text(renamed)
    write_report(tmp_path)
    page = parsed(tmp_path)
    assert page.open == []
    assert not {"script", "img"} & set(page.tags)
    assert any(evil in text for text in page.texts)
    assert any("<script>lora</script>" in text for text in page.texts)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    outside_code = re.sub(r"```text.*?```", "", markdown, flags=re.DOTALL)
    assert "<script" not in outside_code
    assert "<img" not in outside_code
    assert not re.search(r"(?<!\\)\]\(https", outside_code)


def test_markdown_tables_keep_their_columns(written):
    _, root, _ = written
    lines = (root / "report.md").read_text(encoding="utf-8").splitlines()
    for place, line in enumerate(lines):
        if re.fullmatch(r"\|(-+:?\|)+", line):
            width = line.count("|")
            row = place - 1
            while row < len(lines) and lines[row].startswith("|"):
                assert len(re.findall(r"(?<!\\)\|", lines[row])) == width
                row += 1


@pytest.mark.parametrize("content", [None, "", "{torn", "[1]", "{}"])
def test_an_unfinished_run_is_named_with_its_remedy(tmp_path, fake_run, content):
    fake_run(n=12, groups=12).write(tmp_path)
    (tmp_path / "comparison.json").unlink()
    if content is not None:
        (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(DataError, match=r"comparison\.json.*run the recipe to its end"):
        write_report(tmp_path)


def test_a_run_killed_before_its_ledger_is_still_reported(tmp_path, fake_run):
    fake_run(n=24, groups=24).write(tmp_path)
    (tmp_path / "ledger.json").unlink()
    shutil.rmtree(tmp_path / "outputs")
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "This run wrote no ledger" in text
    assert "(no output on file)" in text


def test_factors_that_vary_are_flagged_and_equal_ones_listed_once(tmp_path, fake_run):
    fake_run().write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["strategies"]["rag"]["factors"]["dtype"] = "float32"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    write_report(tmp_path)
    fair = (tmp_path / "report.md").read_text(encoding="utf-8").split("## Was it fair?")[1]
    equal, rest = fair.split("### Not equal")
    assert "decoding: at most 24 new tokens, greedy" in equal
    assert "dtype" not in equal
    assert "| rag | float32 |" in rest


def test_the_reason_for_the_dtype_is_told_without_the_time(tmp_path, fake_run):
    fake_run(n=12, groups=12).write(tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "bfloat16 (auto: amx" in plain(text)


def test_importing_the_report_loads_no_heavy_library():
    code = (
        "import sys, toolkit.report; "
        "heavy = {'torch', 'matplotlib', 'jinja2', 'numpy', 'pyarrow', 'transformers'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
