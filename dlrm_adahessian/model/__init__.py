"""DLRM (Naumov et al. 2019) in two halves: lookup(kjt) -> pooled, head(dense, pooled) -> logits."""
