"""The page `index.html`: what it says, by Python, and how it behaves, in a real browser."""

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from reg.errors import InputError
from reg.provenance import Code
from reg.report import web
from reg.report.page import FigureEntry, TableEntry, Weights
from reg.report.sheets import Cell, Sheet
from reg.report.words import WORDS
from reg.statistics import paired_difference

COLUMNS = ["task", "method", "seed", "image", "iteration", "metric", "value"]
TASKS = ("deblur-k5-2.55", "inpaint-20")
IMAGES = ("boat", "cat", "tree")
METHODS = {"start": -8.0, "pnp-gd": 0.0, "red": -1.5}
ITERATIONS = 200
SIZE = (60, 48)  # width, height


def claim(name: str, verdict: str, **other: object) -> dict[str, Any]:
    return {
        "id": name,
        "claim": f"What {name} claims & <more>.",
        "published": None,
        "published_note": "curves, no number",
        "measured": -0.4321,
        "unit": "dB",
        "interval": [-0.7654, 0.1234],
        "effect_size": -0.5,
        "images": 3,
        "seeds": [0],
        "trained": "1 training seed",
        "verdict": verdict,
        "statistic": "PSNR of one minus that of the other",
        "rule": "reproduced if the interval lies above 0",
        "rule_changed": "",
        "caution": "only 3 images",
        "evidence": {
            "files": ["results/tiny/evaluate_restoration/table.csv"],
            "stages": ["evaluate_restoration"],
            "command": "dvc repro evaluate_restoration",
            "why": f"The difference of {name} is -0.43 dB [-0.77, +0.12].",
        },
        "parts": {"inpaint-20": {"rival": "pnp-admm", "interval": [-0.75, 0.5]}},
    } | other


CLAIMS = [
    claim("restoration", "not reproduced"),
    claim(
        "update-denoiser",
        "reproduced",
        rule_changed="it was another one",
        published=1.74,
        measured=2.5,
        interval=[1.0, 4.0],
    ),
    claim("visual", "inconclusive", interval=None, effect_size=None, unit="", parts={}),
]
FIGURES = (
    FigureEntry("overview", "All of it", "What is drawn.", ("results/tiny/*/table.csv",), ("tune",),
                "It says +1 and -2."),
    FigureEntry("wide", "More of it", "A wide one.", (), ("prepare",)),
)  # fmt: skip
CODE = {
    "tune": Code(("reg/tuning.py", "stages/tune.py"), "c0" * 32),
    "prepare": Code(("stages/prepare.py",), "c1" * 32),
}
SHEET = Sheet(
    "levels",
    "Levels by method.",
    ("Method", "PSNR\n(dB)", "SSIM"),
    (("Block", ((Cell("one"), Cell("27.00", 1), Cell("0.8")),
                (Cell("two"), Cell("26.00", 2), Cell("0.7")))),),
    pd.DataFrame(),
)  # fmt: skip


def restoration() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows: list[tuple[Any, ...]] = []
    for task in TASKS:
        for method, gain in METHODS.items():
            for k, image in enumerate(IMAGES):
                psnr = 26 + 2 * k + gain + draw.normal(scale=0.2)
                rows += [
                    (task, method, 0, image, 30, "psnr", psnr),
                    (task, method, 0, image, 30, "ssim", psnr / 40),
                ]
    return pd.DataFrame(rows, columns=COLUMNS)


def curves() -> pd.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for method, limit in (("pnp-gd", 28.0), ("pnp-admm", 27.0)):
        for k, image in enumerate(IMAGES):
            for i in range(1, ITERATIONS + 1):
                rows += [
                    (TASKS[0], method, 0, image, i, "psnr", limit + k - 8 * np.exp(-i / 9)),
                    (TASKS[0], method, 0, image, i, "msd", 1e-3 * 10 ** (-k) * np.exp(-i / 20)),
                ]
    return pd.DataFrame(rows, columns=COLUMNS)


def keep_images(folder: Path, size: tuple[int, int] = SIZE) -> None:
    """A picture of every task, method and image; no two have the same pixels."""
    draw = np.random.default_rng(1)
    for task in TASKS:
        for method in ("truth", *METHODS):
            for image in IMAGES:
                path = folder / task / method / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(noise).save(path)


def build(root: Path, **other: Any) -> str:
    arguments: dict[str, Any] = {
        "figure_folder": root / "figures",
        "results": root / "results",
        "restoration": restoration(),
        "curves": {"evaluate_convergence": curves()},
        "manifest": root / "manifest.csv",
        "parameters": {"all stages": {"seed": 0}, "evaluate_restoration": {"iterations": 30}},
        "code": CODE,
        "cropped_from": "",
        "paper": TableEntry("Beside the paper", replace(SHEET, name="paper"), (), ("report",)),
        "again": "Set `profile: <tiny>` anew.",
    }
    table = TableEntry("Levels", SHEET, ("results/*/evaluate_restoration/table.csv",), ("tune",))
    weights = [Weights("models/tiny/d.safetensors", "4.3", "ab" * 32)]
    return web.web_page("tiny", CLAIMS, FIGURES, [table], weights, **(arguments | other))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("web")
    keep_images(root / "results" / "evaluate_restoration" / "images")
    (root / "manifest.csv").write_text("name,role\n")
    (root / "figures").mkdir()
    for entry, width in zip(FIGURES, (700, 1400), strict=True):
        shade = np.linspace(0, 255, width, dtype=np.uint8)
        pixels = np.broadcast_to(shade[None, :, None], (300, width, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(root / "figures" / f"{entry.name}.png")
    (root / "index.html").write_text(build(root), encoding="utf-8")
    return root


def text_of(html: str) -> str:
    """What a reader sees, without markup."""
    shown = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", shown))


# --- what it says --------------------------------------------------------------------------


def test_rules_say_when_they_were_written_and_what_was_changed(tree: Path) -> None:
    text = text_of((tree / "index.html").read_text(encoding="utf-8"))
    assert "fixed before" not in text
    assert text.count("Rule, written beforehand") == 2
    assert text.count("Rule, as changed") == 1
    assert text.count("Changed after results were seen It was another one.") == 1


def test_committed_numbers_and_the_table_beside_the_paper_are_linked(tree: Path) -> None:
    html = (tree / "index.html").read_text(encoding="utf-8")
    claims, _, rest = html.partition('<section id="compare"')
    assert claims.count('<a href="tables/levels.csv">tables/levels.csv</a>') == len(CLAIMS)
    assert '<article id="table-paper">' in claims
    assert 'id="table-levels"' in rest
    assert "Set <code>profile: &lt;tiny&gt;</code> anew." in rest
    for term, _ in WORDS:
        assert f"<dt>{term}</dt>" in html


def test_the_same_inputs_give_the_same_page(tree: Path) -> None:
    html = (tree / "index.html").read_text(encoding="utf-8")
    assert build(tree) == html
    assert len(html.encode()) < 8e6


def test_every_claim_stands_with_verdict_numbers_and_evidence(tree: Path) -> None:
    text = text_of((tree / "index.html").read_text(encoding="utf-8"))
    for wanted in (
        "What restoration claims &amp; &lt;more&gt;.",
        "−0.432 dB",
        "−0.765 to +0.123",
        "The difference of restoration is −0.43 dB [−0.77, +0.12].",
        "+1.74 dB",
        "dvc repro evaluate_restoration",
        "iterations: 30",
        "Best rival",
        "PnP-ADMM",
        "[−0.750, 0.500]",
        "ab" * 32,
        "It says +1 and −2.",
    ):
        assert wanted in text, wanted
    for verdict in ("reproduced", "not reproduced", "inconclusive"):
        assert f"1 {verdict}" in text


def test_nothing_comes_from_elsewhere(tree: Path) -> None:
    html = (tree / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<link[^>]*href=\"(?!data:)", html) == []
    assert re.findall(r"\ssrc=\"(?!data:)", html) == []
    assert re.findall(r"url\(|@import", html) == []
    assert "default-src 'none'" in html
    assert str(tree) not in text_of(html).replace(f"{tree}/manifest.csv", "").replace(
        f"{tree}/results/", ""
    )


def test_names_cannot_break_out_of_the_page(tree: Path) -> None:
    broken = "</script><b>"
    renamed = restoration().replace({"image": {"boat": broken}})
    html = build(tree, restoration=renamed, curves={"ablate": curves().replace("boat", broken)})
    assert broken not in html
    assert html.count("<script") == html.count("</script>") == 3


def test_means_and_intervals_are_those_of_the_statistics() -> None:
    table = restoration()
    row = next(
        r
        for r in web.result_rows(table)
        if (r.task, r.method, r.metric) == ("Inpainting 20 %", "RED", "PSNR (dB)")
    )
    chosen = (table["task"] == "inpaint-20") & (table["method"] == "red")
    values = table.loc[chosen & (table["metric"] == "psnr"), "value"]
    found = paired_difference(values.to_numpy()[None], np.zeros((1, 3)))
    assert row.mean == pytest.approx(values.mean())
    assert row.interval == f"{found.low:.2f} to {found.high:.2f}"
    assert [name for name, _ in row.images] == list(IMAGES)
    assert row.bar is not None
    assert 0 <= row.bar[0] < row.bar[1] < row.bar[2] <= 100


def test_results_are_means_over_training_seeds() -> None:
    once = restoration()
    again = once[once["method"] == "pnp-gd"].assign(seed=1, value=lambda t: t["value"] + 1)
    first = {(r.method, r.task, r.metric): r.mean for r in web.result_rows(once)}
    for row in web.result_rows(pd.concat([once, again], ignore_index=True)):
        assert row.mean is not None
        more = row.mean - (first[row.method, row.task, row.metric] or 0)
        assert more == pytest.approx(0.5 if row.method == "PnP-GD (ReG)" else 0)


def test_a_diverged_run_has_no_mean_and_one_image_no_interval() -> None:
    table = restoration()
    table.loc[(table["method"] == "red") & (table["image"] == "cat"), "value"] = np.inf
    lost = [r for r in web.result_rows(table) if r.method == "RED"]
    assert [(r.mean, r.text, r.interval, r.bar) for r in lost] == [(None, "–", None, None)] * 4
    alone = web.result_rows(table[table["image"] == "boat"])
    assert {r.interval for r in alone} == {None}
    assert all(r.mean is not None for r in alone)


def test_thinned_iterations_keep_the_ends_and_the_beginning() -> None:
    assert web.thinned([0, 1, 2, 3], 50) == [1, 2, 3]
    thin = web.thinned(range(1501), 60)
    assert thin[:6] == [1, 2, 3, 4, 5, 6]
    assert thin[-1] == 1500
    assert thin == sorted(set(thin))
    assert len(thin) <= 60


def test_curves_are_means_with_the_range_over_images() -> None:
    table = curves()
    table.loc[(table["image"] == "cat") & (table["metric"] == "msd"), "value"] = np.inf
    (study,) = web.convergence("group", table)
    gd = study["methods"][0]
    assert gd["name"] == "PnP-GD (ReG)"
    assert gd["iterations"][-1] == ITERATIONS
    rows = table[(table["method"] == "pnp-gd") & (table["iteration"] == ITERATIONS)]
    psnr = rows.loc[rows["metric"] == "psnr", "value"]
    end = [gd["psnr"][key][-1] for key in ("mean", "low", "high")]
    assert end == pytest.approx([psnr.mean(), psnr.min(), psnr.max()], abs=0.006)
    # a diverged run counts as the largest step that is told apart
    steps = rows.loc[rows["metric"] == "msd", "value"].clip(*web.MSD_RANGE)
    assert gd["msd"]["mean"][-1] == pytest.approx(np.log10(steps).mean(), abs=0.006)
    json.dumps(study, allow_nan=False)


def test_zero_interval_and_published_stand_in_their_order() -> None:
    plot = web.interval_plot(CLAIMS[1])
    order = ("zero", "low", "published", "measured", "high")
    assert [0, *sorted(plot.values()), 100] == [0, *[plot[name] for name in order], 100]
    assert set(web.interval_plot(CLAIMS[2])) == {"zero", "low", "high", "measured"}


def test_parts_go_down_where_they_are_many() -> None:
    deep = {"inpaint-20": {"psnr": {"last": {"original": 26.53, "updated": 25.0}, "verdict": "no"}}}
    table = web.parts_table(deep)
    assert table.header == ["", "Inpainting 20 %"]
    assert table.rows[0] == ["PSNR, last (dB), original D", "26.530"]
    wide = {f"deblur-k{k}-2.55": {"difference": -0.5} for k in range(3)}
    assert web.parts_table(wide).header == ["", "Difference"]
    assert web.parts_table({"rival": "red"}).rows == [["Best rival", "RED"]]


def pictures_of(folder: Path, side: int, budget: int = web.PICTURE_BYTES) -> dict[str, Any]:
    return web.comparison(folder, restoration(), side, budget)


def decode(method: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(method["uri"].partition(",")[2])))


def test_small_images_are_embedded_without_loss(tree: Path) -> None:
    folder = tree / "results" / "evaluate_restoration" / "images"
    pictures = pictures_of(folder, 40)
    assert pictures["quality"] == "without loss"
    cat = pictures["tasks"][1]["images"][1]
    assert (cat["name"], tuple(cat["size"])) == ("cat", SIZE)
    assert [m["id"] for m in cat["methods"]] == ["truth", "start", "pnp-gd", "red"]
    whole = Image.open(folder / "inpaint-20" / "red" / "cat.png")
    crop = whole.crop((10, 4, 50, 44))
    np.testing.assert_array_equal(np.asarray(decode(cat["methods"][3])), np.asarray(crop))
    table = restoration().set_index(["task", "method", "image", "metric"])["value"]
    assert cat["methods"][3]["psnr"] == f"{table['inpaint-20', 'red', 'cat', 'psnr']:.2f}"


def test_scores_are_those_of_the_seed_whose_images_were_kept(tree: Path) -> None:
    folder = tree / "results" / "evaluate_restoration" / "images"
    table = restoration()
    both = pd.concat([table, table.assign(seed=7, value=0.0)], ignore_index=True)
    assert web.comparison(folder, both, 40) == pictures_of(folder, 40)


def test_many_or_large_images_become_crops_then_fewer(tmp_path: Path) -> None:
    keep_images(tmp_path, (250, 250))
    whole = pictures_of(tmp_path, 240, 10**7)
    assert (whole["side"], whole["shown"], whole["kept"]) == (240, 3, 3)
    for budget, side, shown in ((1_200_000, 160, 3), (200_000, 96, 2), (1, 96, 1)):
        pictures = pictures_of(tmp_path, 240, budget)
        assert (pictures["side"], pictures["shown"]) == (side, shown)
        assert all(len(task["images"]) == shown for task in pictures["tasks"])


def test_photographs_of_others_appear_as_crops_only(tree: Path, tmp_path: Path) -> None:
    keep_images(tmp_path / "evaluate_restoration" / "images", (250, 250))
    html = build(tree, results=tmp_path, cropped_from="kodak, set5")
    assert "from kodak, set5" in text_of(html)
    assert "from kodak" not in text_of(build(tree))
    data = json.loads(re.findall(r'id="pictures">(.*?)</script>', html, re.DOTALL)[0])
    methods = [m for task in data["tasks"] for i in task["images"] for m in i["methods"]]
    assert {decode(m).size for m in methods} == {(160, 160)}


def test_every_figure_and_table_has_the_hash_of_its_code_and_the_way_to_its_commit(
    tree: Path,
) -> None:
    html = build(tree)
    for article, stage in (("figure-overview", "tune"), ("figure-wide", "prepare"),
                           ("table-levels", "tune")):  # fmt: skip
        block = html.split(f'id="{article}"')[1].split("</article>")[0]
        assert CODE[stage].sha256 in block
        assert f'href="#code-{stage}"' in block
        other = CODE["prepare" if stage == "tune" else "tune"]
        assert other.sha256 not in block
    text = text_of(html.split('id="code-tune"')[1])
    assert "git log -1 --format=%H -- reg/tuning.py stages/tune.py " in text
    assert "git ls-tree -r HEAD -- reg/tuning.py stages/tune.py | sha256sum" in text


def test_missing_images_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image was kept; run dvc repro evaluate_restoration"):
        web.comparison(tmp_path, restoration(), 40)


def test_files_are_named_with_their_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").mkdir()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert web.hashed([f"{tmp_path}/*"]) == [(f"{tmp_path}/a", empty), (f"{tmp_path}/b", "")]


# --- how it behaves ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        missing = "no Chromium is installed; on Debian: apt-get install chromium"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield started
        started.close()


def opened(browser: Browser, tree: Path, **options: Any) -> Page:
    """The page, in a context of its own, which fails on any error and any request."""
    context = browser.new_context(**({"viewport": {"width": 1100, "height": 900}} | options))
    page = context.new_page()
    page.set_default_timeout(20_000)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url))
    url = (tree / "index.html").as_uri()
    page.goto(url)
    page.wait_for_load_state("networkidle")
    assert [text for text in wrong if text != url and not text.startswith("data:")] == []
    return page


@pytest.fixture
def page(browser: Browser, tree: Path) -> Iterator[Page]:
    opened_page = opened(browser, tree)
    failures: list[str] = []
    opened_page.on("pageerror", lambda error: failures.append(str(error)))
    opened_page.on("console", lambda message: failures.append(message.text))
    yield opened_page
    assert failures == []
    opened_page.context.close()


def value(page: Page, selector: str) -> float:
    return float(page.locator(selector).input_value())


def transforms(page: Page) -> set[str]:
    script = "images => images.map(image => getComputedStyle(image).transform)"
    return set(page.eval_on_selector_all(".pane img", script))


def test_the_divider_moves_by_key_and_by_mouse(page: Page) -> None:
    divider = page.locator("#divider")
    divider.focus()
    page.keyboard.press("ArrowRight")
    assert value(page, "#divider") == 51
    page.keyboard.press("Home")
    assert value(page, "#divider") == 0
    assert "100 % PnP-GD" in (divider.get_attribute("aria-valuetext") or "")
    stage = page.locator("#stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 20, steps=3)
    page.mouse.up()
    assert value(page, "#divider") == 75
    clip = page.locator("#pane-right").evaluate("e => getComputedStyle(e).clipPath")
    assert "75%" in clip


def test_zoom_and_position_are_shared_by_both_images(page: Page) -> None:
    before = transforms(page)
    page.locator("#stage").focus()
    for key in ("+", "+", "+", "+"):
        page.keyboard.press(key)
    assert value(page, "#zoom") == 3
    enlarged = transforms(page)
    page.keyboard.press("ArrowLeft")
    moved = transforms(page)
    page.locator("#divider").fill("90")
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 70, steps=3)
    page.mouse.up()
    dragged = transforms(page)
    seen = [before, enlarged, moved, dragged]
    assert all(len(both) == 1 for both in seen)
    assert len(set.union(*seen)) == 4
    assert value(page, "#divider") == 90
    page.locator("#reset").click()
    assert transforms(page) == before
    page.locator("input[value=both]").check()
    expect(page.locator("#divider")).to_be_hidden()
    left, right = (page.locator(f"#pane-{side}").bounding_box() for side in ("left", "right"))
    assert left is not None
    assert right is not None
    assert right["x"] >= left["x"] + left["width"]


def test_scores_are_those_of_the_images_chosen(page: Page) -> None:
    table = restoration().set_index(["task", "method", "image", "metric"])["value"]
    expect(page.locator("#task")).to_have_value("inpaint-20")
    page.locator("#task").select_option(TASKS[0])
    page.locator("#image").select_option("cat")
    page.locator("#left").select_option("truth")
    page.locator("#right").select_option("red")
    psnr, ssim = (table[TASKS[0], "red", "cat", metric] for metric in ("psnr", "ssim"))
    expect(page.locator("#score-right")).to_have_text(f"REDPSNR {psnr:.2f} dB, SSIM {ssim:.3f}")
    expect(page.locator("#pane-right img")).to_have_attribute("alt", "cat: RED")
    # what was chosen stays chosen with another image
    page.locator("#image").select_option("tree")
    expect(page.locator("#right")).to_have_value("red")


def test_results_are_filtered_and_sorted(page: Page) -> None:
    shown = page.locator("#result-table > tbody:not([hidden])")
    expect(shown).to_have_count(6)  # PSNR, two tasks, three methods
    page.locator("#by-method").select_option("RED")
    expect(shown).to_have_count(2)
    expect(page.locator("#count")).to_have_text("2 of 12 rows")
    page.locator("#by-method").select_option("")
    page.locator("#by-task").focus()
    page.keyboard.type("Inp")
    expect(shown).to_have_count(3)
    page.get_by_role("button", name="Mean").focus()
    page.keyboard.press("Enter")
    means = [float(t) for t in shown.locator("td strong").all_inner_texts()]
    assert means == sorted(means, reverse=True)
    expect(page.locator("th[data-key=mean]")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="Mean").click()
    assert [float(t) for t in shown.locator("td strong").all_inner_texts()] == means[::-1]
    page.get_by_role("button", name="Method").click()
    assert shown.first.locator("td").nth(1).inner_text() == "Degraded"
    shown.first.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(shown.first.locator(".images tr")).to_have_count(3)
    expect(shown.first.locator(".images")).to_be_visible()


def test_curves_are_read_by_key_and_by_pointer(page: Page) -> None:
    row = page.locator("#readout tbody tr").first
    rows = curves()
    chosen = (rows["method"] == "pnp-gd") & (rows["metric"] == "psnr")
    mean = rows[chosen].groupby("iteration")["value"].mean()
    expect(page.locator("#at")).to_have_text("At iteration 200")
    expect(row.locator("td").first).to_have_text(f"{mean[200]:.2f}")
    page.locator("#cursor").focus()
    page.keyboard.press("Home")
    expect(page.locator("#at")).to_have_text("At iteration 1")
    expect(row.locator("td").first).to_have_text(f"{mean[1]:.2f}")
    assert "PnP-GD (ReG) " in (page.locator("#cursor").get_attribute("aria-valuetext") or "")
    page.locator("#curve-image").select_option(label="tree")
    tree = rows[chosen & (rows["image"] == "tree")].set_index("iteration")["value"]
    expect(row.locator("td").first).to_have_text(f"{tree[1]:.2f}")
    page.locator("#chart-msd").hover()
    assert page.locator("#at").inner_text() != "At iteration 1"
    drawn = page.locator("#chart-psnr circle")
    expect(drawn).to_have_count(2)
    row.locator("input").uncheck()
    expect(drawn).to_have_count(1)


def test_the_theme_follows_the_system_until_chosen(browser: Browser, tree: Path) -> None:
    def ground(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light, dark = (opened(browser, tree, color_scheme=scheme) for scheme in ("light", "dark"))
    button = light.get_by_role("button", name="Dark")
    expect(button).to_have_attribute("aria-pressed", "false")
    assert ground(light) != ground(dark)
    button.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    assert ground(light) == ground(dark)
    for page in (light, dark):
        page.context.close()


def test_without_javascript_all_but_the_viewers_is_there(browser: Browser, tree: Path) -> None:
    page = opened(browser, tree, java_script_enabled=False)
    expect(page.locator(".claim")).to_have_count(3)
    expect(page.locator("#result-table > tbody")).to_have_count(12)
    expect(page.locator("#stage")).to_be_hidden()
    expect(page.locator("#theme")).to_be_hidden()
    expect(page.get_by_text("The comparison needs JavaScript")).to_be_visible()
    page.context.close()


OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"


@pytest.mark.parametrize("width", [320, 768])
def test_nothing_scrolls_the_page_sideways(browser: Browser, tree: Path, width: int) -> None:
    page = opened(browser, tree, viewport={"width": width, "height": 700})
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("input[value=both]").check()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(browser: Browser, tree: Path, scheme: str) -> None:
    page = opened(browser, tree, color_scheme=scheme, bypass_csp=True)
    page.evaluate(OPEN_ALL)
    found = Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [n["html"][:90] for n in v["nodes"][:3]]) for v in serious] == []
    page.context.close()
