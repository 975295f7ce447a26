"""Columns of metrics that have no file of their own yet."""

from __future__ import annotations

SHARES = {
    "acc": "ACC", "asr": "ASR", "base": "Base", "untriggered": "Untriggered", "asr_all": "ASR, target class counted",
    "acc_control": "ACC of the control", "acc_others": "ACC, target class left out", "undefended_acc": "Undefended ACC",
    "undefended_asr": "Undefended ASR", "teacher_acc": "Teacher's ACC", "teacher_asr": "Teacher's ASR",
    "caught": "Poisons removed", "lost": "Clean removed", "poison_hits": "Poisons that fool the teacher",
    "poison_agreement": "Poisons with their own label", "poison_agreement_clean": "Others with their own label",
    "poison_ssim": "Poisons' SSIM", "asr_archetypes": "ASR on archetypes", "base_archetypes": "Base on archetypes",
}  # fmt: skip
POINTS = {"carried": "Carried", "titg": "TITG"}
OTHER = {
    "carry_over": ("Carry-over", "ratio"), "score": ("Score", "score"), "score_control": ("Score of its twin", "score"),
    "poison_linf": ("Poisons' largest change", "score"), "poison_l2": ("Poisons' L2 norm", "score"),
}  # fmt: skip
HIGHER = {"acc", "caught"}
LOWER = {"asr", "base", "carried", "carry_over", "untriggered", "lost"}


def standing_in() -> list[tuple[str, str, str, bool, str]]:
    """(key, heading, unit, bounded, better) of each."""
    rows = [(key, heading, "share", True) for key, heading in SHARES.items()]
    rows += [(key, heading, "points", True) for key, heading in POINTS.items()]
    rows += [(key, heading, unit, False) for key, (heading, unit) in OTHER.items()]
    return [(*row, "higher" if row[0] in HIGHER else "lower" if row[0] in LOWER else "") for row in rows]
