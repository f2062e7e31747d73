#!/usr/bin/env python3
"""Learns which lines of a CI log tell why it failed; writes the tables that the product carries.

    cargo run --release -p amend-diagnosis --example failing_lines -- DIR/dev/ci-logchunks /tmp/features
    cargo run --release -p amend-diagnosis --example failing_lines -- DIR/dev/ci-diff /tmp/features
    python3 controller/diagnosis/train/failing_lines.py --root DIR/dev --features /tmp/features

Prints F1 with repositories (logs alone) and groups (with a passing log) left out, then writes src/build/table_*.rs
learned from all cases. The tables hold feature numbers, bounds and leaf values; no text of any log gets into them.
Needs numpy and lightgbm 4. Seeds are fixed.
"""
import argparse
import json
import math
import os
from multiprocessing import Pool

import lightgbm
import numpy as np

TABLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "build")
# As in src/build/features.rs and src/build/segments.rs.
SIGNS, TELLING, FIRST, REST, COMPARED = 28, 16, 6, 18, 11
OWN = SIGNS * 3 + TELLING * 4 + FIRST + REST
BLANK = SIGNS * 3 + TELLING * 4 + FIRST + 3
ENOUGH, CLIP, SMOOTH, BLANK_VALUE = -2.5, 4.0, 1, -0.15
SHOWN, OF_BEST = 0.25, 0.6
ALONE = dict(rounds=250, num_leaves=15, learning_rate=0.06, lambda_l2=5, min_data_in_leaf=60)
AGAINST = dict(rounds=200, num_leaves=8, learning_rate=0.06, lambda_l2=10, min_data_in_leaf=20)


def cases(root, features, dataset):
    found = [case for case in map(json.loads, open(root + "/labels.jsonl")) if case["dataset"] == dataset]
    for case in found:
        path = f"{features}/{case['case']}"
        case["own"] = np.memmap(path + ".own", dtype=np.float32, mode="r").reshape(-1, OWN)
        if os.path.exists(path + ".compared"):
            case["compared"] = np.fromfile(path + ".compared", np.float32).reshape(-1, COMPARED)
        count = len(case["own"])
        case["blank"] = case["own"][:, BLANK] > 0
        case["true"] = np.zeros(count, bool)
        for first, last in case["ranges"]:
            case["true"][first - 1 : last] = True
        case["true"] &= ~case["blank"]
        case["not counted"] = np.zeros(count, bool)
        for first, last in case.get("context", []):
            case["not counted"][first - 1 : last] = True
    return found


def sample(case, chance):
    """Failing lines, lines around them, and some of the others, so that each log weighs alike."""
    true, count = case["true"], len(case["true"])
    positive, negative = np.where(true)[0], np.where(~true & ~case["blank"])[0]
    others = chance.choice(negative, min(len(negative), 250), replace=False)
    near = {i for first, last in case["ranges"] for i in (*range(max(0, first - 16), first - 1), *range(last, min(count, last + 15)))}
    near = np.array(sorted(i for i in near if not true[i] and not case["blank"][i]), int)
    if len(positive) > 60:
        positive = chance.choice(positive, 60, replace=False)
    weight = np.ones(len(positive) + len(others) + len(near))
    weight[: len(positive)] = 15 / max(5, len(positive))
    weight[len(positive) : len(positive) + len(others)] = 0.5 * min(6, len(negative) / max(1, len(others)))
    rows = np.concatenate([positive, others, near]).astype(int)
    return np.array(case["own"][rows]), true[rows], weight


def learn(parts, settings):
    settings = dict(settings)
    rounds = settings.pop("rounds")
    rows, true, weight = (np.concatenate([part[i] for part in parts]) for i in range(3))
    fixed = dict(objective="binary", feature_fraction=0.5, bagging_fraction=0.8, bagging_freq=1, seed=0, num_threads=1, verbose=-1)
    return lightgbm.train({**fixed, **settings}, lightgbm.Dataset(rows, true, weight=weight), rounds)


def strongest(case, scores):
    """The range of greatest sum, as in src/build/segments.rs."""
    count = len(scores)
    total = np.concatenate([[0], np.cumsum(scores)])
    at = np.arange(count)
    low, high = np.maximum(at - SMOOTH, 0), np.minimum(at + SMOOTH + 1, count)
    value = np.clip(0.5 * scores + 0.5 * (total[high] - total[low]) / (high - low) - ENOUGH, -CLIP, CLIP)
    value = np.where(case["blank"], np.maximum(value, BLANK_VALUE), value)
    total = np.concatenate([[0], np.cumsum(value)])
    gain = total[1:] - np.minimum.accumulate(total)[:-1]
    last = int(gain.argmax())
    first = int(total[: last + 1].argmin())
    shown = np.zeros(count, bool)
    shown[first : last + 1] = True
    return shown


def f1(case, shown):
    shown = shown & ~case["blank"] & ~case["not counted"]
    hits = (shown & case["true"]).sum()
    return 2 * hits / (shown.sum() + case["true"].sum()) if hits else 0.0


def table(name, title, model):
    """Writes a model as Rust; four digits are enough and keep the table readable."""
    text = [f"//! {title}, by `train/failing_lines.py`: one tree a line, in the form of [`Tree`].", "", "use super::trees::Tree;", "", "pub static TREES: &[Tree] = &["]
    for tree in model.model_to_string().split("\nTree=")[1:]:
        field = dict(line.split("=", 1) for line in tree.splitlines() if "=" in line)
        numbers = lambda key: field[key].split()
        short = lambda value: np.format_float_positional(float(value), 4, unique=True, fractional=False, trim="0")
        splits = zip(numbers("split_feature"), numbers("threshold"), numbers("left_child"), numbers("right_child"))
        splits = ", ".join(f"({a}, {short(b)}, {c}, {d})" for a, b, c, d in splits)
        leaves = ", ".join(short(value) for value in numbers("leaf_value"))
        text.append(f"    Tree {{ splits: &[{splits}], leaves: &[{leaves}] }},")
    with open(os.path.join(TABLES, name), "w") as out:
        out.write("\n".join([*text, "];", ""]))


def folds(groups, count):
    names = sorted(set(groups))
    np.random.RandomState(0).shuffle(names)
    return [{name for at, name in enumerate(names) if at % count == fold} for fold in range(count)]


def one_fold(job):
    kept, left_out, settings = job
    model = learn(kept, settings)
    return [model.predict(rows, raw_score=True) for rows in left_out]


def left_out(all_cases, parts, rows, group, count, settings):
    """Scores of every case by a model that has not seen its group."""
    split = folds([case[group] for case in all_cases], count)
    members = [[i for i, case in enumerate(all_cases) if case[group] in names] for names in split]
    jobs = [([parts[i] for i in range(len(all_cases)) if i not in set(held)], [rows(all_cases[i]) for i in held], settings) for held in members]
    scores = [None] * len(all_cases)
    with Pool(3) as pool:
        for held, found in zip(members, pool.imap(one_fold, jobs)):
            for i, score in zip(held, found):
                scores[i] = score
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--write-only", action="store_true")
    options = parser.parse_args()

    alone = cases(options.root, options.features, "ci-logchunks")
    chance = np.random.RandomState(0)
    parts = [sample(case, chance) for case in alone]
    model = learn(parts, ALONE)
    table("table_alone.rs", "Which lines fail, from their own log", model)

    compared = cases(options.root, options.features, "ci-diff")
    widest = lambda scores, reach: np.lib.stride_tricks.sliding_window_view(np.pad(scores, reach, constant_values=-1e9), 2 * reach + 1).max(1)
    for case in compared:
        scores = model.predict(case["own"], raw_score=True).astype(np.float32)
        for column, values in enumerate((scores, widest(scores, 3), widest(scores, 12))):
            case["compared"][:, column] = values
    both = lambda case: np.hstack([case["own"], case["compared"]])
    against = []
    for case in compared:
        seen = ~case["blank"]
        against.append((both(case)[seen], case["true"][seen], np.full(seen.sum(), 1 / math.sqrt(max(5, case["true"].sum())))))
    table("table_compared.rs", "Which lines fail, against the log of a run that passed", learn(against, AGAINST))
    if options.write_only:
        return

    scores = left_out(compared, against, both, "group", 7, AGAINST)
    for shown in (0.15, SHOWN, 0.35):
        bounds = (min(shown, OF_BEST / (1 + math.exp(-score[~case["blank"]].max()))) for case, score in zip(compared, scores))
        figures = [f1(case, score > math.log(bound / (1 - bound))) for case, score, bound in zip(compared, scores, bounds)]
        print(f"ci-diff groups left out, shown from {shown}: F1 {np.mean(figures):.3f}", flush=True)
    scores = left_out(alone, parts, lambda case: np.asarray(case["own"]), "service", 5, ALONE)
    ranges = [strongest(case, score) for case, score in zip(alone, scores)]
    hit = np.mean([(shown & case["true"]).any() for case, shown in zip(alone, ranges)])
    print(f"ci-logchunks repositories left out: F1 {np.mean([f1(c, s) for c, s in zip(alone, ranges)]):.3f}, hit {hit:.3f}")


if __name__ == "__main__":
    main()
