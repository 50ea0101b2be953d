"""What pages say of faces, on reports made up by rules that the tests can compute."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy import stats

from horkd import paper, storage
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.looks import Look, known_looks
from horkd.lab.store import Run
from horkd.networks.network import ModelSpec, macs_of
from horkd.protocols.verification import summary, tar_at_far
from horkd.studies import report
from horkd.studies.arm import subsets
from horkd.studies.claims import as_lines
from horkd.studies.faces import figures as face_figures
from horkd.studies.faces import page as face_page
from horkd.studies.faces import tables as face_tables
from horkd.studies.presets import get_preset
from horkd.studies.results import Source, recorded
from horkd.studies.study import configure, seeds, study

mpl.use("Agg")
EACH = 200  # pairs of a fold, half of them same
FOLDS = range(1, 11)

# Reports made up for the purpose ------------------------------------------------------------------


def percent(wrong: int) -> float:
    """The accuracy of a fold with so many wrong pairs."""
    return 100 - 100 * wrong / EACH


def found(wrong: list[int], tested: int | None = None) -> dict:
    """A verification with so many same pairs of each fold rejected; `tested` counts from 1."""
    scores, same, fold = [], [], []
    for k, count in enumerate(wrong):
        scores += [0.2] * count + [0.8] * (EACH // 2 - count) + [0.2] * (EACH // 2)
        same += [True] * (EACH // 2) + [False] * (EACH // 2)
        fold += [k] * EACH
    return summary(scores, same, fold, None if tested is None else [tested - 1])


def identified(error: float, what: str, unknown: bool = True) -> dict:
    result = {
        "rank1_error": error, "rank5_error": error / 2, "subjects": 30, "gallery": 120,
        "probes": 30, "what": what,
    }  # fmt: skip
    rates = [{"far": 0.1, "dir": 0.5}, {"far": 0.01, "dir": 0.25}]
    return {**result, "dir": rates} if unknown else result


#: Wrong pairs of the first fold and seed, of 200; other arms have 44.
WRONG = {
    "student 16": 40, "student 16 alone": 50, "tuned 16": 30, "student 16 with names": 38,
    "student 16 slim": 35, "student 32": 22, "student 32 alone": 22, "tuned 32": 12,
    "student": 30, "student alone": 36, "student, no labels": 33, "student alone, margin": 36,
    "student, margin": 40,
}  # fmt: skip
SHARE = 0.875  # of order 1 in the gradients of every distilled network
FED = {224: 1, 112: 2, 64: 4, 32: 20, 24: 30, 16: 60, 12: 70, 8: 90}


def wrong_of(arm: str, pixels: int, fold: int = 1, seed: int = 0) -> int:
    """The rule: how many pairs an arm gets wrong."""
    if arm == "teacher":
        return FED[pixels] + fold % 2
    more = 2 * seed if arm.endswith("alone") else seed
    return WRONG.get(arm.partition(", fold")[0], 44) + fold % 3 + more


class Made:
    """A folder of finished runs without networks, and the report that keeps their records."""

    def __init__(self, folder: Path, preset) -> None:
        self.folder, self.preset = folder, preset
        self.runs: list[Run] = []

    def add(self, arm, seed: int, looks: Mapping[Look, dict]) -> Run:
        config = configure(self.preset, arm, seed)
        place = self.folder / "runs" / config.name
        record = {
            "key": config.key,
            "config": json.loads(json.dumps(asdict(config))),
            "results": {"test": {"accuracy": 50.0}},
            "history": [{"gradient_shares": {"order1": SHARE} if config.orders else {}}],
            "cost": {"parameters": 1_230_000, "macs": 10**6},
            "seconds": {"total": 90.0, "frozen_answers_read": []},
            "machine": {"name": "a machine", "threads": 1},
        }
        storage.save_json(place / "record.json", record)
        listed = [{"look": asdict(look), "result": r} for look, r in looks.items()]
        content = {"key": config.key, "files": {}, "looks": listed}
        storage.save_json(place / "open_set.json", content)
        run = Run(config, place, record)
        self.runs.append(run)
        return run

    def source(self) -> Source:
        report.save_records(self.runs, self.folder / "report")
        return recorded(self.folder / "report")


def fed_view(preset, pixels: int) -> Degradation:
    return Degradation(pixels, upsample=pixels < face_tables.side(preset))


def teacher_looks(preset) -> dict[Look, dict]:
    """All that is asked of a teacher of faces: single folds, the whole, mixed pairs."""
    looks = {}
    for pixels in (112, 64, 32, 16, 8):
        wrong = [wrong_of("teacher", pixels, fold) for fold in FOLDS]
        view = fed_view(preset, pixels)
        looks[Look("verification", "lfw-1", view)] = found(wrong, 1)
        looks[Look("verification", "lfw", view)] = found(wrong)
        looks[Look("verification", "xqlfw", view)] = found([w + 4 for w in wrong])
        looks[Look("identification", "lfw-1", view)] = identified(pixels, "LFW, 30 people")
        looks[Look("identification", "uccs", view)] = identified(pixels, "UCCS", unknown=False)
    for pixels in (16, 32):
        view = fed_view(preset, pixels)
        one = Look("verification", "lfw-1", view, Degradation(112))
        looks[one] = found([10] * 10, 1)
        looks[Look("verification", "lfw-1", view, flip=True)] = found([50] * 10, 1)
    return looks


def arm_looks(preset, arm, seed: int) -> dict[Look, dict]:
    """What is asked of an arm that is trained here."""
    config = configure(preset, arm, seed)
    fold = arm.fold or 1
    wrong = [wrong_of(arm.name, config.degradation.size, k, seed) for k in FOLDS]
    looks = {Look("verification", f"lfw-{fold}", config.degradation): found(wrong, fold)}
    if not arm.fold:
        what = "LFW, 30 people"
        looks[Look("identification", "lfw-1", config.degradation)] = identified(20 + seed, what)
    return looks


def faces(folder: Path, leave_out=(), preset=None, only=()) -> tuple:
    """Preset, arms and source of a report on LFW whose every arm scores by the rule."""
    preset = preset or get_preset("faces")
    made = Made(folder, preset)
    seen = set()
    for arm in study(preset, "faces").values():
        for seed in seeds(preset, arm):
            key = configure(preset, arm, seed).key
            out = arm.name in leave_out or (arm.name, seed) in leave_out
            if out or key in seen or (only and arm.name not in only):
                continue
            seen.add(key)
            teacher = arm.name == "teacher"
            looks = teacher_looks(preset) if teacher else arm_looks(preset, arm, seed)
            made.add(arm, seed, looks)
    source = made.source()
    return preset, face_tables.face_arms(preset, source), source


SMOKE = replace(get_preset("smoke", seeds=3), repeat_all=True)


def glyphs(folder: Path, leave_out=(), preset=SMOKE) -> tuple:
    """The same on the embedded set, whose folds are all tested at once."""
    made = Made(folder, preset)
    for name in ("two_stage", "faces"):
        for arm in study(preset, name).values():
            for seed in seeds(preset, arm):
                if arm.name in leave_out or (arm.name, seed) in leave_out:
                    continue
                view = configure(preset, arm, seed).degradation
                size = view.size
                wrong = [wrong_of(arm.name, size, k, seed) for k in FOLDS]
                looks = {Look("verification", "glyphs", view): found(wrong)}
                what = "30 characters never trained on"
                looks[Look("identification", "glyphs", view)] = identified(20 + seed, what)
                if arm.name == "teacher":
                    looks = {}
                    for pixels in (32, 24, 16, 12, 8):
                        wrong = [wrong_of("teacher", pixels, k) for k in FOLDS]
                        at = fed_view(preset, pixels)
                        looks[Look("verification", "glyphs", at)] = found(wrong)
                        looks[Look("identification", "glyphs", at)] = identified(pixels, what)
                made.add(arm, seed, looks)
    source = made.source()
    return preset, face_tables.face_arms(preset, source), source


@pytest.fixture(scope="module")
def lfw(tmp_path_factory) -> tuple:
    return faces(tmp_path_factory.mktemp("lfw"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> tuple:
    return glyphs(tmp_path_factory.mktemp("glyphs"))


def over_seeds(arm: str, pixels: int, count: int = 3) -> str:
    """The cell of an arm that is tested on the first fold with some seeds."""
    values = [percent(wrong_of(arm, pixels, 1, seed)) for seed in range(count)]
    mean = f"{np.mean(values):.2f}"
    return mean if count == 1 else f"{mean} ± {np.std(values, ddof=1):.2f}"


def by_fold(arm: str, pixels: int) -> np.ndarray:
    return np.array([percent(wrong_of(arm, pixels, fold)) for fold in FOLDS])


def in_turn(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}"


def judged(values: np.ndarray) -> str:
    """The verdict by Student's t, without the project's own table of quantiles."""
    n, mean = len(values), values.mean()
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    if abs(mean) <= half:
        return "not shown"
    return "holds" if mean > 0 else "does not hold"


def test_the_made_up_results_follow_their_rule():
    result = found([10, 20, 30], 2)
    assert result["accuracies"] == [90.0]
    assert result["standard_error"] is None
    assert result["n"] == EACH
    assert found([10, 20, 30])["accuracies"] == [95.0, 90.0, 85.0]
    content = {"looks": [{"look": asdict(Look("verification", "lfw", Degradation(8))),
                          "result": result}]}  # fmt: skip
    assert known_looks(json.loads(json.dumps(content))) == {
        Look("verification", "lfw", Degradation(8)): result
    }


# Sizes


def test_resolutions_of_both_kinds_of_preset():
    lfw, small, large = get_preset("faces"), get_preset("smoke"), get_preset("faces-paper")
    assert [face_tables.side(p) for p in (lfw, small, large)] == [112, 32, 224]
    assert face_tables.lows(lfw) == (16, 32)
    assert face_tables.lows(small) == (16,)
    assert face_tables.ladder(lfw) == (112, 64, 32, 16, 8)
    assert face_tables.ladder(small) == (32, 24, 16, 12, 8)
    assert face_tables.ladder(large)[0] == 224
    tiny = replace(lfw, data="lfw@16")
    assert face_tables.ladder(tiny) == (16, 8)
    assert face_tables.tested_on(lfw) == "lfw-1"
    assert face_tables.tested_on(tiny) == "lfw-1@16"
    assert face_tables.tested_on(large) == "lfw@224"
    assert face_tables.tested_on(small) == "glyphs"


def test_the_first_fold_of_the_preset_is_the_one_compared_on():
    preset = replace(get_preset("faces"), folds=(4, 2, 9))
    assert face_tables.tested_on(preset) == "lfw-4"
    student = configure(preset, study(preset, "faces")["student 16"])
    assert student.data == "lfw-4"


# Verification


def test_every_arm_is_a_row_and_folds_are_none(lfw):
    preset, arms, source = lfw
    table = face_tables.verification_table(preset, arms, source)
    fed = [f"teacher fed {r} px" for r in (64, 32, 16, 8)]
    own = [a.name for a in study(preset, "faces").values() if not a.fold and a.name != "teacher"]
    assert table["network"].tolist() == ["teacher, 112 px", *fed, *own]
    assert face_page.missing(preset, arms, source) == ""


def test_accuracy_spread_seeds_and_cost_of_a_row(lfw):
    preset, arms, source = lfw
    table = face_tables.verification_table(preset, arms, source).set_index("network")
    cell = "LFW, first held-out fold %"
    for arm, pixels, count in (("student 16", 16, 3), ("student 16 alone", 16, 3),
                               ("student 32", 32, 3), ("tuned 16", 16, 1),
                               ("student 16 slim", 16, 1), ("{1,C} 16", 16, 1)):  # fmt: skip
        row = table.loc[arm]
        assert row[cell] == over_seeds(arm, pixels, count), arm
        assert (row["px"], row["seeds"]) == (str(pixels), str(count)), arm
        assert row["parameters (M)"] == "1.23"
    assert table.loc["student 16", cell] == "79.00 ± 0.50"  # 41, 42 and 43 of 200 wrong
    assert table.loc["teacher, 112 px", cell] == "98.50"
    assert table.loc["teacher fed 8 px", cell] == "54.50"
    assert table.loc["student 16", "architecture"] == "resnet8x2"
    student, teacher = ModelSpec("resnet8x2", 0, 128), ModelSpec("mobilefacenet", 0)
    assert table.loc["student 16", "MACs (M)"] == f"{macs_of(student, 16) / 1e6:.1f}"
    for name in ("teacher, 112 px", "teacher fed 8 px", "tuned 32"):  # all see 112 pixels
        assert table.loc[name, "MACs (M)"] == f"{macs_of(teacher, 112) / 1e6:.1f}", name


def test_rates_that_too_few_pairs_show_stand_in_parentheses(lfw):
    preset, arms, source = lfw
    row = face_tables.verification_table(preset, arms, source).set_index("network").loc["tuned 16"]
    assert row["TAR % at FAR 0.1"] == "69.0"  # 31 of 100 same pairs rejected
    assert row["TAR % at FAR 0.01"] == "69.0"  # one false accept in a hundred pairs
    assert row["TAR % at FAR 0.001"] == "(69.0)"


@pytest.mark.parametrize(("different", "sure"), [(3000, 3), (1000, 3), (999, 2), (100, 2), (9, 0)])
def test_a_rate_is_the_one_asked_for(different, sure):
    rng = np.random.default_rng(different)
    scores = np.concatenate([rng.normal(1, 1, 500), rng.normal(0, 1, different)])
    same = np.arange(len(scores)) < 500
    result = summary(scores, same, np.arange(len(scores)) % 2)
    expected = tar_at_far(scores, same, face_tables.FARS)
    cells = [face_tables._rate([result], far) for far in face_tables.FARS]
    for place, (cell, row) in enumerate(zip(cells, expected, strict=True)):
        text = f"{100 * row['tar']:.1f}"
        assert cell == (text if place < sure else f"({text})")


def test_folds_in_turn(lfw):
    preset, arms, source = lfw
    table = face_tables.verification_table(preset, arms, source).set_index("network")
    cells = table["LFW, folds in turn %"]
    for arm, pixels in (("student 16", 16), ("student 32", 32), ("tuned 16", 16), ("tuned 32", 32)):
        assert cells[arm] == in_turn(by_fold(arm, pixels)), arm
        whole = face_tables.all_folds(preset, source, arms, arm)
        assert whole["folds"] == list(FOLDS)
        assert whole["accuracies"] == pytest.approx(by_fold(arm, pixels))
    for pixels in (64, 32, 16, 8):
        assert cells[f"teacher fed {pixels} px"] == in_turn(by_fold("teacher", pixels))
    assert cells["teacher, 112 px"] == in_turn(by_fold("teacher", 112))
    assert cells["student 16 alone"] == cells["{1} 16"] == cells["student 16 slim"] == "–"


def test_some_folds_are_counted_and_two_are_none(tmp_path):
    out = [f"student 16, fold {k}" for k in (3, 5, 6, 7, 8, 9, 10)]
    out += [f"tuned 32, fold {k}" for k in range(3, 11)]
    preset, arms, source = faces(tmp_path, out)
    whole = face_tables.all_folds(preset, source, arms, "student 16")
    assert whole["folds"] == [1, 2, 4]
    values = by_fold("student 16", 16)[[0, 1, 3]]
    table = face_tables.verification_table(preset, arms, source).set_index("network")
    cells = table["LFW, folds in turn %"]
    assert cells["student 16"] == f"{in_turn(values)} (3 folds)"
    assert cells["tuned 32"] == "–"
    assert face_tables.all_folds(preset, source, arms, "tuned 32") is None
    claims = face_page.claims(preset, arms, source).set_index("claim")
    row = claims.loc["student 16 beats the teacher fed 16 px, over folds"]
    differences = values - by_fold("teacher", 16)[[0, 1, 3]]
    assert row["difference"].endswith("points (n = 3 folds)")
    assert row["difference"].startswith(f"{differences.mean():+.2f} ± ")
    assert "tuned 32 beats the teacher fed 32 px, over folds" not in claims.index


def test_the_embedded_set_has_ten_folds_at_once(embedded):
    preset, arms, source = embedded
    table = face_tables.verification_table(preset, arms, source)
    own = [*study(preset, "two_stage"), *study(preset, "faces")]
    fed = [f"teacher fed {r} px" for r in (24, 16, 12, 8)]
    assert table["network"].tolist() == ["teacher, 32 px", *fed, *own[1:]]
    assert "LFW, folds in turn %" not in table.columns
    row = table.set_index("network").loc["student"]
    means = [np.mean([percent(wrong_of("student", 16, k, s)) for k in FOLDS]) for s in range(3)]
    assert row["accuracy %"] == f"{np.mean(means):.2f} ± {np.std(means, ddof=1):.2f}"
    error = by_fold("student", 16).std(ddof=1) / np.sqrt(10)
    assert row["± over folds"] == f"{error:.2f}"
    assert face_tables.all_folds(preset, source, arms, "student") is None
    assert face_tables.fed(preset, source, arms, 16) is None


def test_a_network_that_was_not_looked_at_is_no_row(tmp_path):
    preset = get_preset("faces")
    made = Made(tmp_path, preset)
    kinds = study(preset, "faces")
    made.add(kinds["teacher"], 0, teacher_looks(preset))
    for seed in range(3):
        looks = arm_looks(preset, kinds["student 16"], seed) if seed < 2 else {}
        made.add(kinds["student 16"], seed, looks)
    source = made.source()
    arms = face_tables.face_arms(preset, source)
    assert len(arms["student 16"]) == 3
    # the other run of two seeds is the same configuration under the name of a subset
    shown = {row.arm for row in face_tables.tested(preset, arms, source)}
    assert shown == {"teacher", "{1,2,3} 16"}


# Claims


def claims_of(made: tuple):
    return face_page.claims(*made).set_index("claim")


def test_claims_are_paired_by_seed(lfw):
    table = claims_of(lfw)
    row = table.loc["distillation beats the names at 16 px"]
    assert row["compared"] == "student 16 − student 16 alone"
    # 41, 42, 43 wrong against 51, 53, 55
    assert row["difference"] == "+5.50 ± 0.50 points (n = 3 seeds)"
    assert row["verdict"] == "holds"
    row = table.loc["a native student beats the teacher fed 32 px"]
    assert row["compared"] == "student 32 − teacher fed 32 px"
    # 23, 24, 25 against the one teacher's 21
    assert row["difference"] == "-1.50 ± 0.50 points (n = 3 seeds)"
    assert row["verdict"] == "does not hold"
    row = table.loc["distillation beats the names at 32 px"]  # 0, +0.5, +1
    assert row["difference"] == "+0.50 ± 0.50 points (n = 3 seeds)"
    assert row["verdict"] == "not shown"


def test_one_seed_shows_nothing(lfw):
    table = claims_of(lfw)
    row = table.loc["tuning the teacher to 16 px helps it"]
    assert row["difference"] == "+15.00 points (n = 1 seed)"
    assert row["verdict"] == "not shown"
    single = table[table["difference"].str.contains("n = 1 ")]
    assert set(single["verdict"]) == {"not shown"}
    # a control of one seed is paired with that seed alone
    row = table.loc["names add to the relations"]
    assert row["difference"] == "+1.00 points (n = 1 seed)"


def test_claims_over_folds(lfw):
    table = claims_of(lfw)
    for arm, pixels in (("student 16", 16), ("tuned 16", 16), ("student 32", 32), ("tuned 32", 32)):
        row = table.loc[f"{arm} beats the teacher fed {pixels} px, over folds"]
        values = by_fold(arm, pixels) - by_fold("teacher", pixels)
        expected = f"{values.mean():+.2f} ± {values.std(ddof=1):.2f} points (n = 10 folds)"
        assert row["difference"] == expected
        assert row["verdict"] == judged(values)
    verdicts = table["verdict"]
    assert verdicts["student 16 beats the teacher fed 16 px, over folds"] == "holds"
    assert verdicts["student 32 beats the teacher fed 32 px, over folds"] == "does not hold"


def test_every_question_about_faces_is_answered_once(lfw):
    preset, arms, source = lfw
    table = face_page.claims(preset, arms, source)
    asked = [claim for claim, *_ in face_page._questions(preset)]
    assert len(set(asked)) == len(asked)
    assert table["claim"].tolist()[: len(asked)] == asked
    assert len(table) == len(asked) + 4


def test_questions_are_about_arms_that_there_are():
    for name in ("smoke", "quick", "faces", "faces-paper"):
        preset = replace(get_preset(name), omit=())
        known = {*study(preset, "two_stage"), *study(preset, "faces")}
        known |= {f"teacher fed {r} px" for r in face_tables.ladder(preset)[1:]}
        for claim, arm, control in face_page._questions(preset):
            assert {arm, control} <= known, claim


def test_seeds_that_are_missing_are_not_compared(tmp_path):
    out = [("student 16 alone", 0), ("student 16 alone", 2), ("student 32", 1), ("student 32", 2)]
    out += [("student 32 alone", 0), "small teacher"]  # one run under two names
    made = faces(tmp_path, out)
    table = claims_of(made)
    row = table.loc["distillation beats the names at 16 px"]  # seed 1: 42 against 53
    assert row["difference"] == "+5.50 points (n = 1 seed)"
    assert row["verdict"] == "not shown"
    assert "distillation beats the names at 32 px" not in table.index  # no seed in common
    verification = face_tables.verification_table(*made).set_index("network")
    assert verification.loc["student 16 alone", "seeds"] == "1"
    assert verification.loc["student 16", "seeds"] == "3"


def test_a_missing_control_makes_no_claim(tmp_path):
    made = faces(tmp_path, ("student 16 alone", "scratch teacher", "tuned 16"))
    table = claims_of(made)
    assert "distillation beats the names at 16 px" not in table.index
    assert "tuning the teacher to 16 px helps it" not in table.index
    row = table.loc["tuned 16 beats the teacher fed 16 px, over folds"]  # the other nine
    assert row["difference"].endswith("(n = 9 folds)")
    claim = "a teacher trained by others is worth more than its own network trained on the names"
    assert claim in table.index  # of the student of it
    assert table.loc["distillation beats the names at 32 px", "verdict"] == "not shown"


def test_claims_of_the_embedded_set(embedded):
    table = claims_of(embedded)
    assert len(table) == 5
    row = table.loc["distillation helps to verify what was never seen"]
    assert row["difference"] == "+3.50 ± 0.50 points (n = 3 seeds)"
    assert row["verdict"] == "holds"
    row = table.loc["the student beats its teacher fed small images"]
    assert row["compared"] == "student − teacher fed 16 px"
    means = [np.mean([percent(wrong_of("student", 16, k, s)) for k in FOLDS]) for s in range(3)]
    gap = np.mean(means) - by_fold("teacher", 16).mean()
    assert row["difference"] == f"{gap:+.2f} ± 0.50 points (n = 3 seeds)"


def test_without_claims_there_is_an_empty_table(tmp_path):
    table = face_page.claims(*faces(tmp_path, only=("teacher",)))
    assert table.empty
    assert as_lines(table) == ""


# Published numbers


PRINTED = [
    ("DeepFace", "97.35", "152×152", "120 M"),
    ("FaceNet", "99.63", "96×96", "140 M"),
    ("ShiftFaceNet", "96.00", "224×224", "0.78 M"),
    ("VGGFace2 (teacher)", "99.53", "224×224", "26 M"),
    ("ArcFace", "99.82", "112×112", "37.8 M"),
    ("OUR-32-R", "93.83", "32×32", "7.8 M"),
    ("OUR-16-R", "90.03", "16×16", "7.8 M"),
]


def test_table_2_is_printed_whole_and_ours_stand_below(lfw):
    table = face_tables.published(*lfw)
    theirs = table[table["source"] == "paper"]
    assert theirs["model"].tolist() == [row.model for row in paper.TABLE_2]
    assert len(theirs) == 15
    assert theirs.index.tolist() == list(range(15))
    rows = theirs.set_index("model")
    for model, accuracy, resolution, parameters in PRINTED:
        row = rows.loc[model]
        cells = (row["LFW accuracy %"], row["resolution"], row["parameters"])
        assert cells == (accuracy, resolution, parameters), model
    assert rows.loc["OUR-16-R", "trained on"] == "UMDFaces"
    assert rows.loc["DeepFace", "trained on"] == "–"


def test_ours_stand_in_table_2_with_the_folds_that_were_tested(lfw):
    table = face_tables.published(*lfw)
    ours = table[table["source"] != "paper"].set_index("model")
    fed = [f"ours: teacher fed {r} px" for r in (64, 32, 16, 8)]
    students = [f"ours: {kind} {r}" for r in (16, 32) for kind in ("student", "tuned")]
    assert ours.index[:5].tolist() == ["ours: teacher, 112 px", *fed]
    assert set(students) <= set(ours.index)
    assert not any(name.startswith("ours: {") for name in ours.index), "subsets are for Fig. 4"
    alone = ours.loc["ours: student 16 alone", "LFW accuracy %"]
    assert alone.endswith(" (fold 1 alone)")
    assert "fold" not in ours.loc["ours: student 16", "LFW accuracy %"], "all ten"
    assert ours.loc["ours: student 16", "LFW accuracy %"] == in_turn(by_fold("student 16", 16))
    assert ours.loc["ours: student 16", "resolution"] == "16×16"
    assert ours.loc["ours: student 16", "parameters"] == "1.23 M"
    assert ours.loc["ours: student 16", "source"] == "here, resnet8x2"
    assert ours.loc["ours: student 16", "trained on"] == "LFW, nine folds"
    assert ours.loc["ours: teacher fed 8 px", "trained on"] == "by others"


def test_the_embedded_set_has_no_row_in_table_2(embedded):
    assert len(face_tables.published(*embedded)) == 15


def test_without_folds_table_2_has_the_first_one(tmp_path):
    made = faces(tmp_path, only=("student 16", "student 16 alone"))
    ours = face_tables.published(*made)[15:]
    assert ours["model"].tolist() == ["ours: student 16", "ours: student 16 alone"]
    assert ours["LFW accuracy %"].str.endswith("(fold 1 alone)").all()


def test_table_3_as_printed():
    table = face_tables.published_identification().set_index("model")
    assert table.index.tolist() == ["VLRR", "SKD", "OUR-16-R"]
    assert table["top-1 error %"].tolist() == ["40.97", "32.75", "22.19"]
    assert table["top-5 error %"].tolist() == ["22.35", "18.30", "10.23"]
    assert set(table["resolution"]) == {"16×16"}


# Identification, other sets, mixed pairs, subsets


def test_identification(lfw):
    preset, arms, source = lfw
    table = face_tables.identification_table(preset, arms, source).set_index("network")
    row = table.loc["student 16"]
    assert row["rank-1 error %"] == "21.00 ± 1.00"
    assert row["rank-5 error %"] == "10.50 ± 0.50"
    assert row["seeds"] == "3"
    assert (row["DIR % at FAR 0.1"], row["DIR % at FAR 0.01"]) == ("50.0", "25.0")
    assert row["subjects / gallery / probes"] == "30 / 120 / 30"
    assert table.loc["tuned 32", "rank-1 error %"] == "20.00"
    assert table.loc["teacher, 112 px", "rank-1 error %"] == "112.00"
    assert table.loc["teacher fed 8 px", "rank-1 error %"] == "8.00"
    verified = face_tables.verification_table(preset, arms, source)["network"]
    assert table.index.tolist() == verified.tolist()


def test_identification_on_a_set_of_its_own(lfw):
    table = face_tables.identification_table(*lfw, "uccs")
    assert table["network"].tolist()[0] == "teacher, 112 px"
    assert len(table) == 5  # only the teacher was asked
    assert not [column for column in table.columns if column.startswith("DIR")]
    assert face_tables.identification_table(*lfw, "tinyface").empty


def test_verification_elsewhere(lfw):
    table = face_tables.elsewhere_table(*lfw, "xqlfw").set_index("network")
    fed = [f"teacher fed {r} px" for r in (64, 32, 16, 8)]
    assert table.index.tolist() == ["teacher, 112 px", *fed]  # others have seen its people
    # four more wrong in each of ten folds
    assert (
        table.loc["teacher fed 16 px", "accuracy %"] == f"{by_fold('teacher', 16).mean() - 2:.2f}"
    )
    assert table.loc["teacher fed 16 px", "seeds"] == "1"
    assert face_tables.elsewhere_table(*lfw, "another").empty


def test_mixed_pairs(lfw):
    table = face_tables.mixed_table(*lfw)
    assert table.to_dict("records") == [
        {"px": "16", "both small %": "69.50", "one small, one at 112 px %": "95.00",
         "both small, mirror images added %": "75.00"},
        {"px": "32", "both small %": "89.50", "one small, one at 112 px %": "95.00",
         "both small, mirror images added %": "75.00"},
    ]  # fmt: skip


def test_mixed_pairs_of_the_embedded_set(embedded):
    preset, arms, source = embedded
    table = face_tables.mixed_table(preset, arms, source)
    assert table.columns.tolist() == ["px", "both small %", "one small, one at 32 px %"]
    assert table.loc[0, "both small %"] == f"{by_fold('teacher', 16).mean():.2f}"
    assert table.loc[0, "one small, one at 32 px %"] == "–"  # not asked
    assert face_tables.mixed_table(preset, {}, source).empty


def test_subsets_are_in_the_order_of_the_study(lfw):
    preset, arms, source = lfw
    table = face_tables.subset_table(preset, arms, source)
    names = [f"{{{','.join(orders)}}}" for orders in subsets() if orders]
    assert table["orders"].drop_duplicates().tolist() == ["{1,2,3}", *names[:10], *names[11:]]
    first = table.iloc[0]  # the student itself, with all its seeds
    assert first["accuracy %"] == over_seeds("student 16", 16)
    assert first["seeds"] == "3"
    assert set(table["share of order 1 %"]) == {f"{100 * SHARE:.0f}"}
    row = table.set_index("orders").loc["{1,C}"]
    assert row["accuracy %"] == over_seeds("{1,C} 16", 16, 1)
    assert row["seeds"] == "1"


def test_a_subset_is_one_row(lfw):
    table = face_tables.subset_table(*lfw)
    assert not table["orders"].duplicated().any()
    assert len(table) == 15


def test_the_embedded_set_has_no_table_of_subsets(embedded):
    assert face_tables.subset_table(*embedded).empty


# The page


def test_what_became_of_the_papers_numbers(lfw):
    preset, arms, source = lfw
    high, low = face_page.aims(preset, arms, source).splitlines()
    assert high == (
        f"- Best student at 32 px: tuned 32, 93.50 % on the first fold (n = 1), "
        f"{in_turn(by_fold('tuned 32', 32))} % over folds; the teacher fed 32 px "
        f"{by_fold('teacher', 32).mean():.2f} % over ten folds. The paper prints 93.83 % for a "
        "student trained on UMDFaces with another teacher."
    )
    assert low.startswith("- Best student at 16 px: tuned 16, 84.50 % on the first fold (n = 1), ")
    assert low.endswith("90.03 % for a student trained on UMDFaces with another teacher.")


def test_without_tuned_students_another_one_is_best(tmp_path):
    preset, arms, source = faces(tmp_path, only=("student 16", "student 16 slim", "{1} 16"))
    (line,) = face_page.aims(preset, arms, source).splitlines()
    assert line == (
        "- Best student at 16 px: student 16 slim, 82.00 % on the first fold (n = 1). The paper "
        "prints 90.03 % for a student trained on UMDFaces with another teacher."
    )


def test_subsets_and_controls_are_no_students_to_boast_of(tmp_path):
    preset, arms, source = faces(tmp_path, only=("teacher", "{1} 16", "student 16 alone"))
    assert face_page.aims(preset, arms, source) == ""


def test_the_embedded_set_has_no_number_of_the_paper_to_reach(embedded):
    assert face_page.aims(*embedded) == ""


def check_page(text: str) -> None:
    assert not re.search(r"\bnan\b", text.lower())
    assert "None" not in text
    assert "\n\n\n" not in text
    assert text == text.strip()


def test_the_page_shows_every_table(lfw):
    preset, arms, source = lfw
    text = face_page.faces_page(preset, arms, source)
    check_page(text)
    for table in (
        face_tables.verification_table(preset, arms, source),
        face_tables.identification_table(preset, arms, source),
        face_tables.identification_table(preset, arms, source, "uccs"),
        face_tables.elsewhere_table(preset, arms, source, "xqlfw"),
        face_tables.mixed_table(preset, arms, source),
        face_tables.subset_table(preset, arms, source),
    ):
        assert report.markdown(table) in text
    for _, row in face_page.claims(preset, arms, source).iterrows():
        assert f"- **{row['claim']}: {row['verdict']}.** {row['compared']}: " in text
    assert "**Verification.** Preset `faces`: teacher mobilefacenet" in text
    assert "weights {1: 1000, 2: 25, 3: 50}, without names unless said" in text
    count = sum(map(len, arms.values()))
    assert f"{count} runs, " in text
    assert "on a machine." in text
    assert "**Identification** (LFW, 30 people)" in text
    assert "**Identification on uccs:**" in text
    assert "tinyface" not in text
    assert "**Verification on xqlfw:**" in text
    assert face_page.aims(preset, arms, source) in text
    assert text.endswith("**Model card.** " + face_page.model_card(preset))


def papers(folder: Path) -> tuple:
    """A report of faces-paper: a teacher and students that are tested on all of LFW at once."""
    preset = get_preset("faces-paper")
    made, kinds = Made(folder, preset), study(preset, "faces")
    for name in ("teacher", "student 16", "student 16 alone"):
        config = configure(preset, kinds[name], 0)
        looks = {}
        for pixels in face_tables.ladder(preset) if name == "teacher" else (16,):
            wrong = [wrong_of(name, pixels, k) for k in FOLDS]
            view = fed_view(preset, pixels) if name == "teacher" else config.degradation
            for data, more in (("lfw@224", 0), ("xqlfw@224", 4)):
                looks[Look("verification", data, view)] = found([w + more for w in wrong])
        made.add(kinds[name], 0, looks)
    source = made.source()
    return preset, face_tables.face_arms(preset, source), source


def test_the_page_of_a_large_training_set(tmp_path):
    preset, arms, source = papers(tmp_path)
    text = face_page.faces_page(preset, arms, source)
    check_page(text)
    values = by_fold("student 16", 16)
    table = face_tables.verification_table(preset, arms, source).set_index("network")
    row = table.loc["student 16"]
    assert (row["accuracy %"], row["seeds"]) == (f"{values.mean():.2f}", "1")
    assert row["mean ± error over folds"] == in_turn(values)
    assert not [column for column in table.columns if "fold" in column and "mean" not in column]
    whole = face_tables.all_folds(preset, source, arms, "student 16")
    assert whole["folds"] == list(FOLDS)
    assert whole["accuracies"] == pytest.approx(values)
    assert face_tables.all_folds(preset, source, arms, "student 32") is None  # not run
    ours = face_tables.published(preset, arms, source).set_index("model")
    row = ours.loc["ours: student 16"]
    assert (row["trained on"], row["LFW accuracy %"]) == ("umdfaces", in_turn(values))
    assert ours.loc["ours: teacher, 224 px", "trained on"] == "by others"
    claims = face_page.claims(preset, arms, source).set_index("claim")
    row = claims.loc["student 16 beats the teacher fed 16 px, over folds"]
    assert row["difference"].endswith("points (n = 10 folds)")
    assert f"{values.mean():.2f} % on all of LFW (n = 1), {in_turn(values)} % over folds" in text
    assert "Trained on umdfaces@224, tested on the ten folds of LFW" in text
    assert "first fold" not in text
    elsewhere = face_tables.elsewhere_table(preset, arms, source, "xqlfw@224").set_index("network")
    assert elsewhere.loc["student 16", "accuracy %"] == f"{values.mean() - 2:.2f}"
    assert "**Verification on xqlfw:**" in text
    left = [name for name in study(preset, "faces") if name not in arms]
    assert left
    card = "**Model card.** " + face_page.model_card(preset)
    assert text.endswith(f"Not run: {', '.join(left)}.\n\n{card}")


def test_the_page_of_the_embedded_set(embedded):
    preset, arms, source = embedded
    text = face_page.faces_page(preset, arms, source)
    check_page(text)
    assert report.markdown(face_tables.verification_table(preset, arms, source)) in text
    assert report.markdown(face_tables.identification_table(preset, arms, source)) in text
    assert report.markdown(face_tables.mixed_table(preset, arms, source)) in text
    assert "resnet14x0.5 → resnet8x0.5, glyphs" in text
    assert "LFW" not in text
    assert "(30 characters never trained on)" in text


@pytest.mark.parametrize("kind", ["faces", "glyphs"])
def test_the_page_is_a_function_of_the_records(kind, tmp_path, lfw, embedded):
    """Copied to another report and read again, they give the same page."""
    preset, arms, source = lfw if kind == "faces" else embedded
    first = face_page.faces_page(preset, arms, source)
    folder = arms["teacher"][0].folder  # of the report's records
    for path in folder.glob("*.json"):
        target = tmp_path / "records" / path.name
        storage.save_json(target, storage.load_json(path))
    again = recorded(tmp_path)
    assert face_page.faces_page(preset, face_tables.face_arms(preset, again), again) == first


def test_looking_at_all_is_enough_for_every_table(lfw, embedded):
    """Features are computed once, where all questions are asked in one go."""
    for preset, arms, source in (lfw, embedded):
        asked, more = set(), []

        def note(run, wanted, source=source, asked=asked):
            asked.update((run.config.key, look) for look in wanted)
            return source.looks(run, wanted)

        face_tables.look_at_all(preset, arms, replace(source, looks=note))

        def late(run, wanted, source=source, asked=asked, more=more):
            more += [look for look in wanted if (run.config.key, look) not in asked]
            return source.looks(run, wanted)

        later = replace(source, looks=late)
        face_page.faces_page(preset, arms, later)
        face_tables.published(preset, arms, later)
        face_tables.curves(preset, arms, later)
        assert more == []


def asked_of(preset) -> list[Look]:
    """All looks at the networks of a preset, none of which is trained."""
    arms = {
        name: [Run(configure(preset, arm), Path(), {})]
        for name, arm in study(preset, "faces").items()
    }
    looks = []
    source = replace(
        recorded(Path("nowhere")),
        looks=lambda run, wanted: looks.extend(wanted) or [None] * len(wanted),
    )
    face_tables.look_at_all(preset, arms, source)
    return looks


BOTH = [
    "faces",
    pytest.param("faces-paper"),
]  # fmt: skip


@pytest.mark.parametrize("name", BOTH)
def test_people_are_only_sought_where_there_are_some(name):
    """All of LFW and the large training sets have no fold of people kept apart."""
    sought = {look.data for look in asked_of(get_preset(name)) if look.task == "identification"}
    assert {data.partition("@")[0].partition("-")[0] for data in sought} <= {
        *("lfw", "uccs", "tinyface")
    }
    assert not {"lfw", "lfw@224"} & sought


@pytest.mark.parametrize("name", BOTH)
def test_no_view_is_larger_than_the_images(name):
    for look in asked_of(get_preset(name)):
        size = int(look.data.partition("@")[2] or 112)
        assert look.degradation.size <= size, look


@pytest.mark.parametrize("name", BOTH)
def test_networks_are_tested_on_folds_of_lfw(name):
    """A training set of its own is not read to be tested on."""
    pairs = {look.data for look in asked_of(get_preset(name)) if look.task == "verification"}
    assert all(data.startswith(("lfw", "xqlfw")) for data in pairs), pairs


@pytest.mark.parametrize(
    ("name", "asked"), [("faces", {"lfw"}), ("faces-paper", {"umdfaces", "lfw"})]
)
def test_xqlfw_is_not_asked_of_networks_that_saw_its_people(name, asked):
    """Its photos are of the people of LFW, nine folds of whom are trained on."""
    preset = get_preset(name)
    trained = set()

    def note(run, wanted):
        if any(look.data.startswith("xqlfw") for look in wanted):
            trained.add(run.config.data.partition("@")[0])
        return [None] * len(wanted)

    arms = {name: [Run(configure(preset, arm), Path(), {})]
            for name, arm in study(preset, "faces").items()}  # fmt: skip
    source = replace(recorded(Path("nowhere")), looks=note)
    face_tables.look_at_all(preset, arms, source)
    assert trained == asked


# Gaps


def test_an_empty_report_is_one_line(tmp_path):
    for name, wanted in (("faces", "faces"), ("smoke", "two_stage"), ("quick", "two_stage")):
        with pytest.raises(HorkdError, match=rf"no run of study {wanted} is finished") as error:
            face_tables.face_arms(get_preset(name), recorded(tmp_path))
        assert "\n" not in str(error.value)
        assert f"horkd work --preset {name}" in str(error.value)


@pytest.mark.parametrize("name", ["cpu", "paper", "paper-short"])
def test_cifar_has_nothing_that_was_never_trained_on(tmp_path, name):
    with pytest.raises(HorkdError, match="CIFAR-100 has no classes that are never trained") as e:
        face_tables.face_arms(get_preset(name), recorded(tmp_path))
    assert "\n" not in str(e.value)


def test_a_report_of_the_teacher_alone(tmp_path):
    preset, arms, source = faces(tmp_path, only=("teacher",))
    assert list(arms) == ["teacher"]
    text = face_page.faces_page(preset, arms, source)
    check_page(text)
    assert text.startswith("**Verification.**")
    assert "Orders without names" not in text
    assert len(face_tables.verification_table(preset, arms, source)) == 5
    left = [name for name in study(preset, "faces") if name != "teacher"]
    assert face_page.missing(preset, arms, source) == f"Not run: {', '.join(left)}."


def test_a_report_without_the_teacher(tmp_path):
    preset, arms, source = faces(tmp_path, only=("student 16", "student 16 alone"))
    text = face_page.faces_page(preset, arms, source)
    check_page(text)
    assert "distillation beats the names at 16 px: holds" in text
    assert "one image small or both" not in text
    assert face_tables.fed(preset, source, arms, 16) is None
    assert face_page.missing(preset, arms, source).startswith("Not run: teacher, ")


def test_a_report_of_records_without_looks(tmp_path):
    preset = get_preset("faces")
    made = Made(tmp_path, preset)
    made.add(study(preset, "faces")["student 16"], 0, {})
    source = made.source()
    arms = face_tables.face_arms(preset, source)
    assert list(arms) == ["student 16", "{1,2,3} 16"]  # one run under two names
    assert face_tables.tested(preset, arms, source) == []
    check_page(face_page.faces_page(preset, arms, source))
    assert len(face_tables.published(preset, arms, source)) == 15
    assert face_tables.curves(preset, arms, source) == {}


def test_a_report_of_faces_alone_on_the_embedded_set(tmp_path):
    two_stage = study(SMOKE, "two_stage")
    preset, arms, source = glyphs(tmp_path, tuple(two_stage))
    assert list(arms) == list(study(SMOKE, "faces"))
    check_page(face_page.faces_page(preset, arms, source))


def test_other_weights_are_another_teacher(tmp_path):
    """Records of students of one file are not those of another one."""
    preset, _, source = faces(tmp_path, only=("teacher", "student 16"))
    other = replace(preset, weights="0" * 16)
    with pytest.raises(HorkdError, match="no run of study faces"):
        face_tables.face_arms(other, source)


# Figures


def test_curves_by_resolution(lfw, embedded):
    panels = face_tables.curves(*lfw)
    assert list(panels) == [112, 64, 32, 16, 8]
    assert list(panels[16]) == ["teacher fed 16 px", "student 16", "student 16 alone", "tuned 16"]
    assert list(panels[112]) == ["teacher, 112 px"]
    kinds = {label: kind for label, (kind, _) in panels[16].items()}
    assert kinds == {"teacher fed 16 px": "teacher", "student 16": "student",
                     "student 16 alone": "alone", "tuned 16": "student"}  # fmt: skip
    assert panels[16]["student 16"][1]["accuracy"] == percent(41)
    small = face_tables.curves(*embedded)
    assert set(small[16]) == {
        *("teacher fed 16 px", "student", "student alone", "student, no labels")
    }


def test_the_figure_of_a_panel(lfw):
    panel = face_tables.curves(*lfw)[16]
    figure, ax = plt.subplots()
    face_figures.plot_roc(panel, ax)
    assert ax.get_xlim() == pytest.approx((0.01, 1))  # one of 100 different pairs
    assert ax.get_xscale() == "log"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"{label} (AUC {found['auc']:.3f})" for label, (_, found) in panel.items()]
    for line in ax.get_lines():
        x, y = line.get_data()
        assert x.min() >= 0.01
        assert 0 <= y.min() <= y.max() == 100
    assert len({line.get_color() for line in ax.get_lines()}) == 4
    figure.canvas.draw()
    plt.close(figure)


def test_the_figure_of_resolutions(lfw):
    rows = face_tables.tested(*lfw)
    figure, ax = plt.subplots()
    face_figures.plot_faces(rows, ax)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "16", "32", "64", "112"]
    teacher, *marks = ax.get_lines()
    expected = [percent(wrong_of("teacher", r)) for r in (8, 16, 32, 64, 112)]
    assert teacher.get_ydata() == pytest.approx(expected)
    assert teacher.get_xdata() == pytest.approx(range(5))
    drawn = {tuple(line.get_ydata()) for line in marks}
    own = {row.label: row for row in rows}
    names = [f"{kind} {r}{end}" for r in (16, 32)
             for kind, end in (("student", ""), ("student", " alone"), ("tuned", ""))]  # fmt: skip
    assert drawn == {tuple(own[name].accuracies) for name in names}
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["teacher, fed enlarged images", "student", "student, labels only",
                      "teacher's weights, tuned"]  # fmt: skip
    figure.canvas.draw()
    plt.close(figure)


def test_the_figure_of_the_embedded_set(embedded):
    figure, ax = plt.subplots()
    face_figures.plot_faces(face_tables.tested(*embedded), ax)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[1:] == ["student", "student, labels only", "student, no labels"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "12", "16", "24", "32"]
    plt.close(figure)


def test_a_figure_without_a_teacher(tmp_path):
    rows = face_tables.tested(*faces(tmp_path, only=("student 16", "student 16 alone")))
    figure, ax = plt.subplots()
    face_figures.plot_faces(rows, ax)
    figure.canvas.draw()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["16"]
    plt.close(figure)


@pytest.mark.parametrize(
    ("label", "look"),
    [
        ("teacher, 112 px", "teacher"),
        ("teacher fed 16 px", "teacher"),
        ("student 16", "student"),
        ("student 16 alone", "alone"),
        ("student alone", "alone"),
        ("student, no labels", "no labels"),
        ("tuned 32", "tuned"),
        ("student 16 slim", "student"),
        pytest.param("student 16 of the scratch teacher", "student"),
    ],
)
def test_looks_of_lines(label, look):
    assert face_figures.face_look(label) == face_figures.FACE_LOOKS[look]
