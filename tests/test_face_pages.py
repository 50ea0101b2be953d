"""What pages say of faces, on results made up by rules that the tests can compute."""

import json
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from records import Made, cell, check_page, judged, make, protocol, recorded

from horkd import paper
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.looks import Look, known_looks
from horkd.networks.network import ModelSpec, macs_of
from horkd.protocols.thresholds import tar_at_far
from horkd.protocols.verification import summary
from horkd.studies import report
from horkd.studies.arm import subsets
from horkd.studies.claims import as_lines
from horkd.studies.faces import figures as face_figures
from horkd.studies.faces import page as face_page
from horkd.studies.faces import tables as face_tables
from horkd.studies.faces.setting import FACES, setting
from horkd.studies.presets import get_preset
from horkd.studies.results import Results, gather
from horkd.studies.study import configure, study

mpl.use("Agg")
EACH = 200  # pairs of a fold, half of them same
FOLDS = range(1, 11)

# Results made up for the purpose ------------------------------------------------------------------


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


def fed_view(preset, pixels: int) -> Degradation:
    return Degradation(pixels, upsample=pixels < setting(preset).side)


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


def arm_looks(arm, seed: int, config) -> dict[Look, dict]:
    """What is asked of an arm that is trained here."""
    fold = arm.fold or 1
    wrong = [wrong_of(arm.name, config.degradation.size, k, seed) for k in FOLDS]
    looks = {Look("verification", f"lfw-{fold}", config.degradation): found(wrong, fold)}
    if not arm.fold:
        what = "LFW, 30 people"
        looks[Look("identification", "lfw-1", config.degradation)] = identified(20 + seed, what)
    return looks


def add_to(made: Made, seed: int, config, looks) -> None:
    """A run whose gradient is that of order 1 for the most part, if it is distilled."""
    history = [{"gradient_shares": {"order1": SHARE} if config.orders else {}}]
    made.add(config, {"accuracy": 50.0}, looks, history=history)


def faces(preset=None, **which) -> Results:
    """Results on LFW whose every arm scores by the rule."""
    preset = preset or get_preset("faces")

    def add(made, arm, seed, config):
        looks = teacher_looks(preset) if arm.name == "teacher" else arm_looks(arm, seed, config)
        add_to(made, seed, config, looks)

    return make(preset, FACES, add, **which)


SMOKE = replace(get_preset("smoke", seeds=3), repeat_all=True)


def glyphs(preset=SMOKE, **which) -> Results:
    """The same on the embedded set, whose folds are all tested at once."""

    def add(made, arm, seed, config):
        looks = {}
        for pixels in setting(preset).ladder if arm.name == "teacher" else (0,):
            view = fed_view(preset, pixels) if pixels else config.degradation
            wrong = [wrong_of(arm.name, view.size, k, seed) for k in FOLDS]
            error = pixels or 20 + seed
            looks[Look("verification", "glyphs", view)] = found(wrong)
            looks[Look("identification", "glyphs", view)] = identified(
                error, "30 characters never trained on"
            )
        add_to(made, seed, config, looks)

    return make(preset, FACES, add, **which)


@pytest.fixture(scope="module")
def lfw() -> Results:
    return faces()


@pytest.fixture(scope="module")
def embedded() -> Results:
    return glyphs()


def over_seeds(arm: str, pixels: int, count: int = 3) -> str:
    """The cell of an arm that is tested on the first fold with some seeds."""
    return cell([percent(wrong_of(arm, pixels, 1, seed)) for seed in range(count)])


def by_fold(arm: str, pixels: int) -> np.ndarray:
    return np.array([percent(wrong_of(arm, pixels, fold)) for fold in FOLDS])


def in_turn(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}"


def test_the_made_up_results_follow_their_rule():
    result = found([10, 20, 30], 2)
    assert result["accuracies"] == [90.0]
    assert result["standard_error"] is None
    assert result["n"] == EACH
    assert found([10, 20, 30])["accuracies"] == [95.0, 90.0, 85.0]
    content = {"looks": [{"look": Look("verification", "lfw", Degradation(8)).as_json(),
                          "result": result}]}  # fmt: skip
    assert known_looks(json.loads(json.dumps(content))) == {
        Look("verification", "lfw", Degradation(8)): result
    }


# Sizes


def test_settings_of_both_kinds_of_preset():
    lfw, small, large = (setting(get_preset(n)) for n in ("faces", "smoke", "faces-paper"))
    assert [here.side for here in (lfw, small, large)] == [112, 32, 224]
    assert (lfw.lows, small.lows) == ((16, 32), (16,))
    assert lfw.ladder == (112, 64, 32, 16, 8)
    assert small.ladder == (32, 24, 16, 12, 8)
    assert large.ladder[0] == 224
    tiny = setting(replace(get_preset("faces"), data="lfw@16"))
    assert tiny.ladder == (16, 8)
    compared = [here.compared for here in (lfw, tiny, large, small)]
    assert compared == ["lfw-1", "lfw-1@16", "lfw@224", "glyphs"]
    assert [here.searched for here in (lfw, large, small)] == [True, False, True]


def with_sizes(preset, **changes):
    """A preset of faces with other sizes."""
    return replace(preset, **changes)


def test_the_first_fold_of_the_preset_is_the_one_compared_on():
    preset = with_sizes(get_preset("faces"), folds=(4, 2, 9))
    assert setting(preset).compared == "lfw-4"
    assert configure(preset, study(preset, "faces")["student 16"]).data == "lfw-4"


# Verification


def test_every_arm_is_a_row_and_folds_are_none(lfw):
    table = face_tables.verification_table(lfw)
    fed = [f"teacher fed {r} px" for r in (64, 32, 16, 8)]
    own = [
        a.name for a in study(lfw.preset, "faces").values() if not a.fold and a.name != "teacher"
    ]
    assert table["network"].tolist() == ["teacher, 112 px", *fed, *own]
    assert lfw.missing() == ""


def test_accuracy_spread_seeds_and_cost_of_a_row(lfw):
    table = face_tables.verification_table(lfw).set_index("network")
    first = "LFW, first held-out fold %"
    for arm, pixels, count in (("student 16", 16, 3), ("student 16 alone", 16, 3),
                               ("student 32", 32, 3), ("tuned 16", 16, 1),
                               ("student 16 slim", 16, 1), ("{1,C} 16", 16, 1)):  # fmt: skip
        row = table.loc[arm]
        assert row[first] == over_seeds(arm, pixels, count), arm
        assert (row["px"], row["seeds"]) == (str(pixels), str(count)), arm
        assert row["parameters (M)"] == "1.23"
    assert table.loc["student 16", first] == "79.00 ± 0.50"  # 41, 42 and 43 of 200 wrong
    assert table.loc["teacher, 112 px", first] == "98.50"
    assert table.loc["teacher fed 8 px", first] == "54.50"
    assert table.loc["student 16", "architecture"] == "resnet8x2"
    student, teacher = ModelSpec("resnet8x2", 0, 128), ModelSpec("mobilefacenet", 0)
    assert table.loc["student 16", "MACs (M)"] == f"{macs_of(student, 16) / 1e6:.1f}"
    for name in ("teacher, 112 px", "teacher fed 8 px", "tuned 32"):  # all see 112 pixels
        assert table.loc[name, "MACs (M)"] == f"{macs_of(teacher, 112) / 1e6:.1f}", name


def test_rates_that_too_few_pairs_show_stand_in_parentheses(lfw):
    row = face_tables.verification_table(lfw).set_index("network").loc["tuned 16"]
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
    cells = [face_tables.rate([result], far) for far in face_tables.FARS]
    for place, (shown, row) in enumerate(zip(cells, expected, strict=True)):
        text = f"{100 * row['tar']:.1f}"
        assert shown == (text if place < sure else f"({text})")


def test_folds_in_turn(lfw):
    table = face_tables.verification_table(lfw).set_index("network")
    cells = table["LFW, folds in turn %"]
    for arm, pixels in (("student 16", 16), ("student 32", 32), ("tuned 16", 16), ("tuned 32", 32)):
        assert cells[arm] == in_turn(by_fold(arm, pixels)), arm
        whole = face_tables.all_folds(lfw, arm)
        assert whole.accuracies == pytest.approx(dict(enumerate(by_fold(arm, pixels), 1)))
    for pixels in (64, 32, 16, 8):
        assert cells[f"teacher fed {pixels} px"] == in_turn(by_fold("teacher", pixels))
    assert cells["teacher, 112 px"] == in_turn(by_fold("teacher", 112))
    assert cells["student 16 alone"] == cells["{1} 16"] == cells["student 16 slim"] == "–"


def test_some_folds_are_counted_and_two_are_none():
    out = [f"student 16, fold {k}" for k in (3, 5, 6, 7, 8, 9, 10)]
    out += [f"tuned 32, fold {k}" for k in range(3, 11)]
    results = faces(leave_out=out)
    whole = face_tables.all_folds(results, "student 16")
    assert list(whole.accuracies) == [1, 2, 4]
    values = by_fold("student 16", 16)[[0, 1, 3]]
    table = face_tables.verification_table(results).set_index("network")
    cells = table["LFW, folds in turn %"]
    assert cells["student 16"] == f"{in_turn(values)} (3 folds)"
    assert cells["tuned 32"] == "–"
    assert face_tables.all_folds(results, "tuned 32") is None
    claims = face_page.claims(results).set_index("claim")
    row = claims.loc["student 16 beats the teacher fed 16 px, over folds"]
    differences = values - by_fold("teacher", 16)[[0, 1, 3]]
    assert row["difference"].endswith("points (n = 3 folds)")
    assert row["difference"].startswith(f"{differences.mean():+.2f} ± ")
    assert "tuned 32 beats the teacher fed 32 px, over folds" not in claims.index


def test_the_embedded_set_has_ten_folds_at_once(embedded):
    table = face_tables.verification_table(embedded)
    own = [*study(embedded.preset, "two_stage"), *study(embedded.preset, "faces")]
    fed = [f"teacher fed {r} px" for r in (24, 16, 12, 8)]
    assert table["network"].tolist() == ["teacher, 32 px", *fed, *own[1:]]
    assert "LFW, folds in turn %" not in table.columns
    row = table.set_index("network").loc["student"]
    means = [np.mean([percent(wrong_of("student", 16, k, s)) for k in FOLDS]) for s in range(3)]
    assert row["accuracy %"] == f"{np.mean(means):.2f} ± {np.std(means, ddof=1):.2f}"
    error = by_fold("student", 16).std(ddof=1) / np.sqrt(10)
    assert row["± over folds"] == f"{error:.2f}"
    assert face_tables.all_folds(embedded, "student") is None
    assert face_tables.fed(embedded, 16) is None


def test_a_network_that_was_not_looked_at_is_no_row():
    results = faces(only=("teacher", "student 16"))
    results.source.looks[configure(results.preset, results.arms["student 16"], 2).key] = {}
    assert len(results.runs("student 16")) == 3
    # the other run of two seeds is the same configuration under the name of a subset
    assert {row.arm for row in face_tables.tested(results)} == {"teacher", "{1,2,3} 16"}


# Claims


def claims_of(made):
    return face_page.claims(made).set_index("claim")


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
    table = face_page.claims(lfw)
    asked = [claim for claim, *_ in face_page.questions(lfw.preset)]
    assert len(set(asked)) == len(asked)
    assert table["claim"].tolist()[: len(asked)] == asked
    assert len(table) == len(asked) + 4


def test_questions_are_about_arms_that_there_are():
    for name in ("smoke", "quick", "faces", "faces-paper"):
        preset = replace(get_preset(name), omit=())
        known = {*study(preset, "two_stage"), *study(preset, "faces")}
        known |= {f"teacher fed {r} px" for r in setting(preset).ladder[1:]}
        for claim, arm, control in face_page.questions(preset):
            assert {arm, control} <= known, claim


def test_seeds_that_are_missing_are_not_compared():
    out = [("student 16 alone", 0), ("student 16 alone", 2), ("student 32", 1), ("student 32", 2)]
    out += [("student 32 alone", 0), "small teacher"]  # one run under two names
    made = faces(leave_out=out)
    table = claims_of(made)
    row = table.loc["distillation beats the names at 16 px"]  # seed 1: 42 against 53
    assert row["difference"] == "+5.50 points (n = 1 seed)"
    assert row["verdict"] == "not shown"
    assert "distillation beats the names at 32 px" not in table.index  # no seed in common
    verification = face_tables.verification_table(made).set_index("network")
    assert verification.loc["student 16 alone", "seeds"] == "1"
    assert verification.loc["student 16", "seeds"] == "3"


def test_a_missing_control_makes_no_claim():
    made = faces(leave_out=("student 16 alone", "scratch teacher", "tuned 16"))
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


def test_without_claims_there_is_an_empty_table():
    table = face_page.claims(faces(only=("teacher",)))
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
    table = face_tables.published(lfw)
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
    table = face_tables.published(lfw)
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


def test_without_folds_table_2_has_the_first_one():
    made = faces(only=("student 16", "student 16 alone"))
    ours = face_tables.published(made)[15:]
    assert ours["model"].tolist() == ["ours: student 16", "ours: student 16 alone"]
    assert ours["LFW accuracy %"].str.endswith("(fold 1 alone)").all()


def test_the_embedded_set_has_no_part_in_what_is_about_the_paper(embedded):
    """No row of Table 2, no subset without labels, no number to reach."""
    assert len(face_tables.published(embedded)) == 15
    assert face_tables.subset_table(embedded).empty
    assert face_page.aims(embedded) == ""


def test_table_3_as_printed():
    table = face_tables.published_identification().set_index("model")
    assert table.index.tolist() == ["VLRR", "SKD", "OUR-16-R"]
    assert table["top-1 error %"].tolist() == ["40.97", "32.75", "22.19"]
    assert table["top-5 error %"].tolist() == ["22.35", "18.30", "10.23"]
    assert set(table["resolution"]) == {"16×16"}


# Identification, other sets, mixed pairs, subsets


def test_identification(lfw):
    table = face_tables.identification_table(lfw).set_index("network")
    row = table.loc["student 16"]
    assert row["rank-1 error %"] == "21.00 ± 1.00"
    assert row["rank-5 error %"] == "10.50 ± 0.50"
    assert row["seeds"] == "3"
    assert (row["DIR % at FAR 0.1"], row["DIR % at FAR 0.01"]) == ("50.0", "25.0")
    assert row["subjects / gallery / probes"] == "30 / 120 / 30"
    assert table.loc["tuned 32", "rank-1 error %"] == "20.00"
    assert table.loc["teacher, 112 px", "rank-1 error %"] == "112.00"
    assert table.loc["teacher fed 8 px", "rank-1 error %"] == "8.00"
    verified = face_tables.verification_table(lfw)["network"]
    assert table.index.tolist() == verified.tolist()


def test_identification_on_a_set_of_its_own(lfw):
    table = face_tables.identification_table(lfw, "uccs")
    assert table["network"].tolist()[0] == "teacher, 112 px"
    assert len(table) == 5  # only the teacher was asked
    assert not [column for column in table.columns if column.startswith("DIR")]
    assert face_tables.identification_table(lfw, "tinyface").empty


def test_verification_elsewhere(lfw):
    table = face_tables.elsewhere_table(lfw, "xqlfw").set_index("network")
    fed = [f"teacher fed {r} px" for r in (64, 32, 16, 8)]
    assert table.index.tolist() == ["teacher, 112 px", *fed]  # others have seen its people
    # four more wrong in each of ten folds
    assert (
        table.loc["teacher fed 16 px", "accuracy %"] == f"{by_fold('teacher', 16).mean() - 2:.2f}"
    )
    assert table.loc["teacher fed 16 px", "seeds"] == "1"
    assert face_tables.elsewhere_table(lfw, "another").empty


def test_mixed_pairs(lfw):
    table = face_tables.mixed_table(lfw)
    assert table.to_dict("records") == [
        {"px": "16", "both small %": "69.50", "one small, one at 112 px %": "95.00",
         "both small, mirror images added %": "75.00"},
        {"px": "32", "both small %": "89.50", "one small, one at 112 px %": "95.00",
         "both small, mirror images added %": "75.00"},
    ]  # fmt: skip


def test_mixed_pairs_of_the_embedded_set(embedded):
    table = face_tables.mixed_table(embedded)
    assert table.columns.tolist() == ["px", "both small %", "one small, one at 32 px %"]
    assert table.loc[0, "both small %"] == f"{by_fold('teacher', 16).mean():.2f}"
    assert table.loc[0, "one small, one at 32 px %"] == "–"  # not asked
    assert face_tables.mixed_table(embedded.only(["student"])).empty


def test_subsets_are_in_the_order_of_the_study(lfw):
    table = face_tables.subset_table(lfw)
    names = [f"{{{','.join(orders)}}}" for orders in subsets() if orders]
    assert table["orders"].tolist() == ["{1,2,3}", *names[:10], *names[11:]]
    first = table.iloc[0]  # the student itself, with all its seeds
    assert first["accuracy %"] == over_seeds("student 16", 16)
    assert first["seeds"] == "3"
    assert set(table["share of order 1 %"]) == {f"{100 * SHARE:.0f}"}
    row = table.set_index("orders").loc["{1,C}"]
    assert row["accuracy %"] == over_seeds("{1,C} 16", 16, 1)
    assert row["seeds"] == "1"


# The page


def test_what_became_of_the_papers_numbers(lfw):
    high, low = face_page.aims(lfw).splitlines()
    assert high == (
        f"- Best student at 32 px: tuned 32, 93.50 % on the first fold (n = 1), "
        f"{in_turn(by_fold('tuned 32', 32))} % over folds; the teacher fed 32 px "
        f"{by_fold('teacher', 32).mean():.2f} % over ten folds. The paper prints 93.83 % for a "
        "student trained on UMDFaces with another teacher."
    )
    assert low.startswith("- Best student at 16 px: tuned 16, 84.50 % on the first fold (n = 1), ")
    assert low.endswith("90.03 % for a student trained on UMDFaces with another teacher.")


def test_without_tuned_students_another_one_is_best():
    results = faces(only=("student 16", "student 16 slim", "{1} 16"))
    (line,) = face_page.aims(results).splitlines()
    assert line == (
        "- Best student at 16 px: student 16 slim, 82.00 % on the first fold (n = 1). The paper "
        "prints 90.03 % for a student trained on UMDFaces with another teacher."
    )
    # subsets and controls are no students to boast of
    assert face_page.aims(faces(only=("teacher", "{1} 16", "student 16 alone"))) == ""


def test_the_page_shows_every_table(lfw):
    text = face_page.faces_page(lfw)
    check_page(text)
    for table in (
        face_tables.verification_table(lfw),
        face_tables.identification_table(lfw),
        face_tables.identification_table(lfw, "uccs"),
        face_tables.elsewhere_table(lfw, "xqlfw"),
        face_tables.mixed_table(lfw),
        face_tables.subset_table(lfw),
    ):
        assert report.markdown(table) in text
    for _, row in face_page.claims(lfw).iterrows():
        assert f"- **{row['claim']}: {row['verdict']}.** {row['compared']}: " in text
    assert "**Verification.** Preset `faces`: teacher mobilefacenet" in text
    assert "weights {1: 1000, 2: 25, 3: 50}, without names unless said" in text
    assert f"{len(lfw.everything())} runs, " in text
    assert "on a machine." in text
    assert "**Identification** (LFW, 30 people)" in text
    assert "**Identification on uccs:**" in text
    assert "tinyface" not in text
    assert "**Verification on xqlfw:**" in text
    assert face_page.aims(lfw) in text
    assert text.endswith("**Model card.** " + face_page.model_card(lfw.preset))


def papers() -> Results:
    """Of faces-paper: a teacher and students that are tested on all of LFW at once."""
    preset = get_preset("faces-paper")

    def add(made, arm, seed, config):
        looks = {}
        for pixels in setting(preset).ladder if arm.name == "teacher" else (16,):
            wrong = [wrong_of(arm.name, pixels, k) for k in FOLDS]
            view = fed_view(preset, pixels) if arm.name == "teacher" else config.degradation
            for data, more in (("lfw@224", 0), ("xqlfw@224", 4)):
                looks[Look("verification", data, view)] = found([w + more for w in wrong])
        add_to(made, seed, config, looks)

    return make(preset, FACES, add, only=("teacher", "student 16", "student 16 alone"))


def test_the_page_of_a_large_training_set():
    results = papers()
    text = face_page.faces_page(results)
    check_page(text)
    values = by_fold("student 16", 16)
    table = face_tables.verification_table(results).set_index("network")
    row = table.loc["student 16"]
    assert (row["accuracy %"], row["seeds"]) == (f"{values.mean():.2f}", "1")
    assert row["mean ± error over folds"] == in_turn(values)
    assert not [column for column in table.columns if "fold" in column and "mean" not in column]
    whole = face_tables.all_folds(results, "student 16")
    assert whole.accuracies == pytest.approx(dict(enumerate(values, 1)))
    assert face_tables.all_folds(results, "student 32") is None  # not run
    ours = face_tables.published(results).set_index("model")
    row = ours.loc["ours: student 16"]
    assert (row["trained on"], row["LFW accuracy %"]) == ("umdfaces", in_turn(values))
    assert ours.loc["ours: teacher, 224 px", "trained on"] == "by others"
    claims = face_page.claims(results).set_index("claim")
    row = claims.loc["student 16 beats the teacher fed 16 px, over folds"]
    assert row["difference"].endswith("points (n = 10 folds)")
    assert f"{values.mean():.2f} % on all of LFW (n = 1), {in_turn(values)} % over folds" in text
    assert "Trained on umdfaces@224, tested on the ten folds of LFW" in text
    assert "first fold" not in text
    elsewhere = face_tables.elsewhere_table(results, "xqlfw@224").set_index("network")
    assert elsewhere.loc["student 16", "accuracy %"] == f"{values.mean() - 2:.2f}"
    assert "**Verification on xqlfw:**" in text
    left = [name for name in study(results.preset, "faces") if name not in results]
    assert left
    card = "**Model card.** " + face_page.model_card(results.preset)
    assert text.endswith(f"Not run: {', '.join(left)}.\n\n{card}")


def test_the_page_of_the_embedded_set(embedded):
    text = face_page.faces_page(embedded)
    check_page(text)
    assert report.markdown(face_tables.verification_table(embedded)) in text
    assert report.markdown(face_tables.identification_table(embedded)) in text
    assert report.markdown(face_tables.mixed_table(embedded)) in text
    assert "resnet14x0.5 → resnet8x0.5, glyphs" in text
    assert "LFW" not in text
    assert "(30 characters never trained on)" in text


def test_the_page_is_a_function_of_the_records(tmp_path, lfw, embedded):
    """Copied to a report and read again, they give the same page."""
    for number, results in enumerate((lfw, embedded)):
        folder = results.source.save(tmp_path / str(number))
        again = recorded(results.preset, FACES, folder)
        assert face_page.faces_page(again) == face_page.faces_page(results)


def test_looking_at_all_is_enough_for_every_table(lfw, embedded):
    """Features are computed once, where all questions are asked in one go."""
    for results in (lfw, embedded):
        asked = results.source.asked
        asked.clear()
        face_tables.look_at_all(results)
        first = {(config.key, look) for config, look in asked}
        face_page.faces_page(results)
        face_tables.published(results)
        assert {(config.key, look) for config, look in asked} == first


def asked_of(name: str) -> list:
    """All looks at the networks of a preset, with their configurations."""
    results = make(get_preset(name), FACES, lambda made, arm, seed, config: made.add(config, {}))
    face_tables.look_at_all(results)
    return results.source.asked


@pytest.mark.parametrize(
    ("name", "of_xqlfw"), [("faces", {"lfw"}), ("faces-paper", {"umdfaces", "lfw"})]
)
def test_networks_are_asked_what_can_be_asked_of_them(name, of_xqlfw):
    asked = asked_of(name)
    looks = {look for _, look in asked}
    for look in looks:
        assert look.degradation.size <= int(look.data.partition("@")[2] or 112), look
    # all of LFW and the large training sets have no fold of people kept apart
    sought = {look.data for look in looks if protocol(look) == "identification"}
    known = {data.partition("@")[0].partition("-")[0] for data in sought}
    assert known <= {"lfw", "uccs", "tinyface"}
    assert not {"lfw", "lfw@224"} & sought
    # a training set of its own is not read to be tested on
    pairs = {look.data for look in looks if protocol(look) == "verification"}
    assert all(data.startswith(("lfw", "xqlfw")) for data in pairs), pairs
    # the photos of XQLFW are of the people of LFW, nine folds of whom are trained on
    trained = {config.data.partition("@")[0] for config, look in asked
               if look.data.startswith("xqlfw")}  # fmt: skip
    assert trained == of_xqlfw


# Gaps


def test_an_empty_report_is_one_line(tmp_path):
    for name, wanted in (("faces", "faces"), ("smoke", "two_stage"), ("quick", "two_stage")):
        with pytest.raises(HorkdError, match=rf"no run of study {wanted} is finished") as error:
            recorded(get_preset(name), FACES, tmp_path)
        assert "\n" not in str(error.value)
        assert f"horkd work --preset {name}" in str(error.value)


@pytest.mark.parametrize("name", ["cpu", "paper", "paper-short"])
def test_cifar_has_nothing_that_was_never_trained_on(name):
    with pytest.raises(HorkdError, match="CIFAR-100 has no classes that are never trained") as e:
        setting(get_preset(name))
    assert "\n" not in str(e.value)


def test_a_report_of_the_teacher_alone():
    results = faces(only=("teacher",))
    assert list(results) == ["teacher"]
    text = face_page.faces_page(results)
    check_page(text)
    assert text.startswith("**Verification.**")
    assert "Orders without names" not in text
    assert len(face_tables.verification_table(results)) == 5
    left = [name for name in study(results.preset, "faces") if name != "teacher"]
    assert results.missing() == f"Not run: {', '.join(left)}."


def test_a_report_without_the_teacher():
    results = faces(only=("student 16", "student 16 alone"))
    text = face_page.faces_page(results)
    check_page(text)
    assert "distillation beats the names at 16 px: holds" in text
    assert "one image small or both" not in text
    assert face_tables.fed(results, 16) is None
    assert results.missing().startswith("Not run: teacher, ")


def test_a_report_of_records_without_looks():
    results = faces(only=[("student 16", 0)])
    results.source.looks.clear()
    assert list(results) == ["student 16", "{1,2,3} 16"]  # one run under two names
    assert face_tables.tested(results) == []
    check_page(face_page.faces_page(results))
    assert len(face_tables.published(results)) == 15
    assert face_figures.panels(results) == {}


def test_a_report_of_faces_alone_on_the_embedded_set():
    results = glyphs(leave_out=tuple(study(SMOKE, "two_stage")))
    assert list(results) == list(study(SMOKE, "faces"))
    check_page(face_page.faces_page(results))


def test_other_weights_are_another_teacher():
    """Records of students of one file are not those of another one."""
    results = faces(only=("teacher", "student 16"))
    other = with_sizes(results.preset, weights="0" * 16)
    with pytest.raises(HorkdError, match="no run of study faces"):
        gather(other, FACES, results.source)


# Figures


def test_panels_by_resolution(lfw, embedded):
    panels = face_figures.panels(lfw)
    assert list(panels) == [112, 64, 32, 16, 8]
    assert {row.label: row.line for row in panels[16]} == {
        "teacher fed 16 px": "teacher", "student 16": "student", "student 16 alone": "alone",
        "tuned 16": "tuned",
    }  # fmt: skip
    assert [row.label for row in panels[112]] == ["teacher, 112 px"]
    assert {row.label: row.line for row in face_figures.panels(embedded)[16]} == {
        "teacher fed 16 px": "teacher", "student": "student", "student alone": "alone",
        "student, no labels": "no labels",
    }  # fmt: skip


def test_the_figure_of_a_panel(lfw):
    panel = face_figures.panels(lfw)[16]
    figure, ax = plt.subplots()
    face_figures.plot_roc(panel, ax)
    assert ax.get_xlim() == pytest.approx((0.01, 1))  # one of 100 different pairs
    assert ax.get_xscale() == "log"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"{row.label} (AUC {row.results[0]['auc']:.3f})" for row in panel]
    for line in ax.get_lines():
        x, y = line.get_data()
        assert x.min() >= 0.01
        assert 0 <= y.min() <= y.max() == 100
    assert len({line.get_color() for line in ax.get_lines()}) == 4
    figure.canvas.draw()
    plt.close(figure)


def test_the_figure_of_resolutions(lfw):
    rows = face_tables.tested(lfw)
    figure, ax = plt.subplots()
    face_figures.plot_faces(lfw, ax)
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
    face_figures.plot_faces(embedded, ax)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[1:] == ["student", "student, labels only", "student, no labels"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "12", "16", "24", "32"]
    plt.close(figure)


def test_a_figure_without_a_teacher():
    figure, ax = plt.subplots()
    face_figures.plot_faces(faces(only=("student 16", "student 16 alone")), ax)
    figure.canvas.draw()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["16"]
    plt.close(figure)
