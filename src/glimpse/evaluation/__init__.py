"""How well people are found again: CMC, mAP and mINP with intervals, protocols, occlusion, reports."""

from glimpse.evaluation.evaluate import Result, evaluate, evaluate_rows
from glimpse.evaluation.occluded import Occluded, OcclusionSuite, occlusion_suite
from glimpse.evaluation.prompts import match_prompts, read_prompts
from glimpse.evaluation.quality import Quality, quality_auc
from glimpse.evaluation.records import Estimate, EvaluationRecord, Metrics, Summary, VisibilityRecord, schema
from glimpse.evaluation.robustness import Comparison, Robustness, RobustnessRecord, compare
from glimpse.evaluation.runner import OcclusionPlan, Report, Timing, evaluate_dataset, table
from glimpse.evaluation.single_shot import SingleShot, Trials
from glimpse.evaluation.visibility import Visibility, draw_calibration, open_truth, visibility

__all__ = [
    "Comparison",
    "Estimate",
    "EvaluationRecord",
    "Metrics",
    "Occluded",
    "OcclusionPlan",
    "OcclusionSuite",
    "Quality",
    "Report",
    "Result",
    "Robustness",
    "RobustnessRecord",
    "SingleShot",
    "Summary",
    "Timing",
    "Trials",
    "Visibility",
    "VisibilityRecord",
    "compare",
    "draw_calibration",
    "evaluate",
    "evaluate_dataset",
    "evaluate_rows",
    "match_prompts",
    "occlusion_suite",
    "open_truth",
    "quality_auc",
    "read_prompts",
    "schema",
    "table",
    "visibility",
]
