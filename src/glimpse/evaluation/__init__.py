"""How well people are found again: CMC, mAP and mINP with intervals, protocols, occlusion, reports."""

from glimpse.evaluation.evaluate import Result, evaluate, evaluate_rows
from glimpse.evaluation.occluded import Occluded, OcclusionSuite, occlusion_suite
from glimpse.evaluation.prompts import match_prompts, read_prompts
from glimpse.evaluation.quality import Quality, quality_auc
from glimpse.evaluation.records import Estimate, EvaluationRecord, Metrics, Summary, schema
from glimpse.evaluation.runner import OcclusionPlan, Report, Timing, evaluate_dataset, table
from glimpse.evaluation.single_shot import SingleShot, Trials

__all__ = [
    "Estimate",
    "EvaluationRecord",
    "Metrics",
    "Occluded",
    "OcclusionPlan",
    "OcclusionSuite",
    "Quality",
    "Report",
    "Result",
    "SingleShot",
    "Summary",
    "Timing",
    "Trials",
    "evaluate",
    "evaluate_dataset",
    "evaluate_rows",
    "match_prompts",
    "occlusion_suite",
    "quality_auc",
    "read_prompts",
    "schema",
    "table",
]
