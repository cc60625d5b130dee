"""Baselines, one file each; importing this package makes their names known to configs."""

from trainer.evaluate.baselines.base import Baseline, BaselineScores, Trials
from trainer.evaluate.baselines.concept_ridge import ConceptRidge
from trainer.evaluate.baselines.encoding_by_direction import EncodingByDirection
from trainer.evaluate.baselines.encoding_model import EncodingModel
from trainer.evaluate.baselines.lda import Lda
from trainer.evaluate.baselines.ridge import Ridge

__all__ = ["Baseline", "BaselineScores", "ConceptRidge", "EncodingByDirection", "EncodingModel", "Lda", "Ridge", "Trials"]
