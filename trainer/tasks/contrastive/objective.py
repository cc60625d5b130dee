"""What the contrastive task minimises: the losses that its config turns on, of one forward's output.

B: rows of this rank, P: dimension of the common space.
"""

from __future__ import annotations

from torch import Tensor

from trainer.losses import Gather, LossConfig, Pairs, cosine, cross_entropy, info_nce, mse, positive_ids, siglip, weighted_sum
from trainer.models.contrastive import ContrastiveOutput


def contrastive_terms(
    output: ContrastiveOutput,
    stimulus_B: Tensor,
    concept_B: Tensor,
    config: LossConfig,
    *,
    gather_rows: Gather,
    gather_ids: Gather,
    rank: int,
) -> dict[str, Tensor]:
    """All losses of a batch: ``loss``, the weighted sum to minimise, then every term with a positive weight by its name.

    Parameters
    ----------
    output
        Forward result of the contrastive model on this rank's rows.
    stimulus_B, concept_B
        Integer ids of this rank's rows.
    config
        Which terms, and what counts as a positive.
    gather_rows, gather_ids, rank
        ``collectives.gather_rows``, ``collectives.gather_ids`` and this rank's number; identities and 0 on one rank.
    """
    pairs = Pairs(
        eeg_BP=output.eeg_BP,
        image_BP=output.image_BP,
        z_eeg_BP=output.z_eeg_BP,
        z_image_BP=output.z_image_BP,
        stimulus_B=stimulus_B,
        concept_B=concept_B,
        logit_scale=output.logit_scale,
        gather_rows=gather_rows,
        gather_ids=gather_ids,
        rank=rank,
    )
    terms: dict[str, Tensor] = {}
    if config.contrastive_weight:
        ids_B = positive_ids(config.positives, stimulus_B, concept_B)
        columns = pairs.columns(ids_B)
        if config.name == "siglip":
            terms["contrastive"] = siglip(output.z_eeg_BP, columns, output.logit_scale, output.logit_bias, ids_B)
        else:
            terms["contrastive"] = info_nce(output.z_eeg_BP, output.z_image_BP, columns, output.logit_scale, ids_B)
    if config.mse_weight:
        terms["mse"] = mse(output.eeg_BP, output.image_BP)
    if config.cosine_weight:
        terms["cosine"] = cosine(output.eeg_BP, output.image_BP)
    if config.cross_entropy_weight:
        assert output.concept_logits_BK is not None, "built without a concept head: pass the loss config to build"
        terms["cross_entropy"] = cross_entropy(output.concept_logits_BK, concept_B)
    terms |= {name: term(pairs) for name, term in config.named_terms.items() if term.weight}
    return weighted_sum(terms, config)
